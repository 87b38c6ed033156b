"""Linearizable reads without log entries: readers wait for a round of heartbeats that began after they came.

(A follower that is a quorum together with its leader needs none: see `Leading._on_read`.)

A leader records its commit index, asks everybody whether it still leads, and lets the readers go when a quorum said
yes. Rounds are numbered and never reused, so that a late answer cannot confirm a later round.
"""

from collections import deque
from collections.abc import Iterator


class Reads:
    """The readers of one leader: those who wait for a round, and those whose round is under way."""

    def __init__(self) -> None:
        self.round = 0
        self._waiting: list[tuple[int, int]] = []
        self._under_way: deque[tuple[int, int, int, int]] = deque()  # round, context, sender, index

    def add(self, context: int, sender: int) -> None:
        self._waiting.append((context, sender))

    def start_round(self, commit: int) -> bool:
        """Puts all that wait into a new round at the commit index; False when nobody waits."""
        if not self._waiting:
            return False
        self.round += 1
        self._under_way.extend((self.round, context, sender, commit) for context, sender in self._waiting)
        self._waiting.clear()
        return True

    def confirm(self, round_confirmed: int) -> Iterator[tuple[int, int, int]]:
        """Takes out the readers (context, sender, index) of rounds up to `round_confirmed`."""
        while self._under_way and self._under_way[0][0] <= round_confirmed:
            yield self._under_way.popleft()[1:]

    def clear(self) -> None:
        """This member leads no more: its readers must ask again."""
        self._waiting.clear()
        self._under_way.clear()

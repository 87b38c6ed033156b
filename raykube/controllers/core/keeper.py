"""What is remembered of many objects of one owner, and which of them are to be looked at again.

A roster, a crew, a ledger, a backing, a count, and what is guarded are **keepers**. `observe` **marks** what has
changed, by name; `refresh` looks at what is marked, or whose time has come, and at nothing else: a reconcile costs what
has changed since the last one, not what there is. Whatever a keeper remembers can be made anew from the caches.
"""

import heapq
from collections.abc import Iterable, Iterator


class Keeper:
    """The marks of a keeper. In the beginning all are marked, `names`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._marked: dict[str, None] = dict.fromkeys(names)
        self._due: dict[str, float] = {}
        self._times: list[tuple[float, str]] = []  # those that are due no longer are skipped

    def mark(self, name: str) -> None:
        """It has changed, came or went."""
        self._marked[name] = None

    def _mark_at(self, name: str, moment: float) -> None:
        """It changes by itself then, if nothing happens to it before."""
        self._due[name] = moment
        heapq.heappush(self._times, (moment, name))

    def _take(self, now: float = 0.0) -> Iterator[str]:
        """What is to be looked at, one after the other. What could not be looked at stays marked."""
        while (moment := self._next()) is not None and moment <= now:
            self._marked[heapq.heappop(self._times)[1]] = None
        for name in list(self._marked):
            if self._due:
                self._due.pop(name, None)
            yield name
            del self._marked[name]

    def _wait_s(self, now: float) -> float | None:
        """Seconds until the next time, None for never."""
        moment = self._next()
        return moment - now if moment is not None else None

    def _next(self) -> float | None:
        while self._times and self._due.get(self._times[0][1]) != self._times[0][0]:
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else None

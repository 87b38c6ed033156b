"""When Leases are renewed and Nodes report: in batches that are spread over the time between two renewals.

second   0   ¼   ½   ¾   1 ...          each machine is in one beat, by its number;
beat     0   1   2   3   4 ...          one timer for each beat, not for each machine
"""

from collections.abc import Iterable

from raykube.hollow.core.timers import Timers

STEP_S = 0.25


class Beat:
    """The machines that are renewed together."""

    __slots__ = ("busy", "names", "timer", "turn")

    def __init__(self, turn: int) -> None:
        self.names: dict[str, None] = {}
        self.timer = 0
        self.turn = turn  # counts renewals; the beats begin at different ones, so that reports are spread too
        self.busy = False  # its last renewal is still under way


class Beats:
    """All beats of a process."""

    def __init__(self, renew_s: float, report_s: float, timers: Timers) -> None:
        self._renew_s = renew_s
        self._report_turns = max(1, round(report_s / renew_s))
        self._timers = timers
        self._beats = [Beat(index) for index in range(max(1, round(renew_s / STEP_S)))]

    def begin(self, now: float) -> None:
        """Sets the timers, spread over the first period."""
        for index, beat in enumerate(self._beats):
            self._timers.set(beat, now + self._renew_s * index / len(self._beats))

    def add(self, name: str, number: int) -> None:
        """A machine has a Node."""
        self._beats[number % len(self._beats)].names[name] = None

    def remove(self, name: str, number: int) -> None:
        """A machine has no Node any more."""
        self._beats[number % len(self._beats)].names.pop(name, None)

    def on_timer(self, beat: Beat, now: float) -> tuple[Iterable[str], bool]:
        """The machines to renew, and whether they are to report as well. None, while the last time goes on."""
        self._timers.set(beat, now + self._renew_s)
        beat.turn += 1
        if beat.busy:
            return (), False
        return list(beat.names), beat.turn % self._report_turns == 0

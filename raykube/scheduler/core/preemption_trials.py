"""Who of one node's weaker pods can stay beside a pod that preempts: all leave, then each is kept that still fits.

start   None, or why the pod does not fit even when all have left
keep    of each, those first that may stay before others: whether it stays
end     the tables are as they were
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from raykube.scheduler.core.placed import Placed


class Company(NamedTuple):
    """How the filters judge one node while victims are out of the tables."""

    fits: Callable[[int], bool]
    why: Callable[[int], Counter[str]]
    lift: Callable[[Placed], None]
    restore: Callable[[Placed], None]


class Slack:
    """One node of a class for which only resources count."""

    def __init__(self, slack: dict[str, int], room: int, lower: list[Placed]) -> None:
        self._slack = slack
        self._room = room + len(lower)
        for each in lower:
            for name, needed in each.pod.needs.resources:
                if name in self._slack:
                    self._slack[name] += needed

    def start(self) -> Counter[str] | None:
        """Whether the pod fits when all have left: None, or the reasons why not."""
        reasons = Counter([f"Insufficient {name}" for name, left in self._slack.items() if left < 0])
        if self._room < 1:
            reasons["Too many pods"] += 1
        return reasons or None

    def keep(self, placed: Placed) -> bool:
        """Whether one can stay."""
        slack = self._slack
        if self._room < 2:
            return False
        needs = [(name, needed) for name, needed in placed.pod.needs.resources if name in slack]
        if any(slack[name] < needed for name, needed in needs):
            return False
        for name, needed in needs:
            slack[name] -= needed
        self._room -= 1
        return True

    def end(self) -> None:
        """Nothing was changed."""


class Trial:
    """One node of a class that looks at more: the tables are changed, and changed back."""

    def __init__(self, company: Company, row: int, lower: list[Placed]) -> None:
        self._company = company
        self._row = row
        self._out = {each.pod.uid: each for each in lower}

    def start(self) -> Counter[str] | None:
        for each in self._out.values():
            self._company.lift(each)
        return None if self._company.fits(self._row) else self._company.why(self._row)

    def keep(self, placed: Placed) -> bool:
        self._company.restore(placed)
        if self._company.fits(self._row):
            del self._out[placed.pod.uid]
            return True
        self._company.lift(placed)
        return False

    def end(self) -> None:
        for each in self._out.values():
            self._company.restore(each)

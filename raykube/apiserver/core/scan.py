"""A list in steps: the selected items of one moment, found without holding up everybody else.

What the first step does not get to is copied at its end (keys in order, items by key), so that writes between two steps
change nothing of what is found.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from raykube.apiserver.core.item import Item

Rest = Callable[[str], Iterator[Item]]
Test = Callable[[Item], bool]


@dataclass(slots=True)
class Page:
    """A list, or a chunk of one, at one revision."""

    items: list[Item] = field(default_factory=list)
    revision: int = 0
    next_key: str = ""  # where the next chunk starts; empty: this was the last
    remaining: int | None = None  # how many items follow, where that is known


class Scan:
    """`step` until it is `done`; `page` has what was found so far, unless somebody took it."""

    __slots__ = ("_is_copied", "_items", "_limit", "_rest", "_test", "_total", "done", "page")

    def __init__(
        self, items: Iterator[Item], rest: Rest, test: Test | None, revision: int, limit: int = 0, total: int = -1
    ) -> None:
        """`rest(key)`: a copy of what comes after `key`, as it is now. `test` None: all are selected. `total`: how many
        there are, where that is known."""
        self._items = items
        self._rest = rest
        self._test = test
        self._limit = limit
        self._total = total
        self._is_copied = False
        self.done = False
        self.page = Page(revision=revision)

    def step(self, most: int) -> None:
        """Looks at `most` more items."""
        taken, test, limit = self.page.items, self._test, self._limit
        seen, last = 0, ""
        for item in islice(self._items, most):
            seen, last = seen + 1, item.key
            if test is not None and not test(item):
                continue
            if limit and len(taken) == limit:
                self.page.next_key = item.key
                self.page.remaining = self._total - limit if self._total >= 0 else None
                self.done = True
                return
            taken.append(item)
        if seen < most:
            self.done = True
        elif not self._is_copied:
            self._is_copied = True
            self._items = self._rest(last)

    def run(self) -> Page:
        """All of it at once."""
        while not self.done:
            self.step(1 << 30)
        return self.page

    def take(self) -> list[Item]:
        """What was found since this was last asked: for those who have no use for all of it together."""
        taken, self.page.items = self.page.items, []
        return taken

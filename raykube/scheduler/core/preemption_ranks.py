"""What pods use, by priority, as columns: how much a node gains when all pods below some priority leave.

priority   requested[cpu]      pods        (one row per node, as in the node table)
  0        400  0  1200 …      4  0  3 …
100        100  0     0 …      1  0  0 …
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

import numpy as np

from raykube.scheduler.core.nodes import Ints, NodeTable, Unnamed
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.requirements import Requirements

LOG_MAX = 4096


class Use:
    """Amounts per resource and row, and pods per row."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._requested: Ints = np.zeros((nodes.kinds, nodes.capacity), np.int64)
        self._unnamed = Unnamed()
        self._pods: Ints = np.zeros(nodes.capacity, np.int64)
        self.total = 0

    def count(self, needs: Requirements, row: int, sign: int) -> None:
        self._fit()
        for name, needed in needs.resources:
            index = self._nodes.resource_index.get(name)
            if index is None:
                self._unnamed.add(name, row, sign * needed)
            else:
                self._requested[index, row] += sign * needed
        self._pods[row] += sign
        self.total += sign

    @property
    def requested(self) -> Ints:
        self._fit()
        return self._requested

    @property
    def pods(self) -> Ints:
        self._fit()
        return self._pods

    def _fit(self) -> None:
        """Grows with the node table."""
        kinds, rows = self._nodes.kinds, self._nodes.capacity
        if self._requested.shape != (kinds, rows):
            grown = np.zeros((kinds, rows), np.int64)
            grown[: self._requested.shape[0], : self._requested.shape[1]] = self._requested
            self._requested = grown
            named = self._nodes.resource_index
            for name in [each for each in self._unnamed if each in named]:
                self._unnamed.move(name, grown[named[name]])
            self._pods = np.concatenate((self._pods, np.zeros(rows - len(self._pods), np.int64)))


class Uses:
    """A `Use` per priority that some pod has."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.by_priority: dict[int, Use] = {}

    def count(self, priority: int, needs: Requirements, row: int, sign: int) -> None:
        use = self.by_priority.get(priority)
        if use is None:
            use = self.by_priority[priority] = Use(self._nodes)
        use.count(needs, row, sign)
        if not use.total:
            del self.by_priority[priority]

    def below(self, priority: int) -> list[Use]:
        """Of lower priorities, lowest first."""
        return [self.by_priority[each] for each in sorted(self.by_priority) if each < priority]

    def from_(self, priority: int) -> list[Use]:
        """Of this priority and higher ones."""
        return [use for each, use in self.by_priority.items() if each >= priority]


class Ranks(Uses):
    """The pods that run, by priority and by row."""

    def __init__(self, nodes: NodeTable, placed: Iterable[Placed]) -> None:
        super().__init__(nodes)
        self._on: dict[int, dict[str, Placed]] = {}
        self.log: list[int] = []  # rows that a pod came to or left, or where one started
        self.epoch = 0  # raised when the log was cut
        for each in placed:
            self.add(each)

    def add(self, placed: Placed) -> None:
        self._on.setdefault(placed.row, {})[placed.pod.uid] = placed
        self.touch(placed.row)
        self.count(placed.pod.priority, placed.pod.needs, placed.row, 1)

    def remove(self, placed: Placed) -> None:
        self.touch(placed.row)
        there = self._on[placed.row]
        del there[placed.pod.uid]
        if not there:
            del self._on[placed.row]
        self.count(placed.pod.priority, placed.pod.needs, placed.row, -1)

    def touch(self, row: int) -> None:
        """Something changed on `row` that tells its pods apart."""
        if len(self.log) >= LOG_MAX:
            self.log.clear()
            self.epoch += 1
        self.log.append(row)

    def on(self, row: int) -> Iterable[Placed]:
        return self._on.get(row, {}).values()


def importance(placed: Placed) -> tuple[int, float]:
    """Sorts the more important first: priority, then age."""
    return -placed.pod.priority, start_of(placed.started)


@lru_cache(maxsize=65_536)
def start_of(stamp: str) -> float:
    """Seconds of a timestamp; a pod that has not started is the youngest."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else float("inf")

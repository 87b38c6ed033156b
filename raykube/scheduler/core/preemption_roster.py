"""Who might leave, on many nodes at once: for classes of which only resources count.

The pods of lower priority on each row, in the order in which they are asked to stay (`Preemption`): one layer of
columns per place in that order. Filled in for the rows that somebody looks at, and kept until pods come or go there;
it does not depend on the class of the pod that wants the room.

    row            a    b    c
    place 0      2000  500  500      requested[cpu] of the first one to stay; so for priority, start, …
    place 1       100    –  500
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Floats, Ints, Mask, NodeTable
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.preemption_budgets import Budgets
from raykube.scheduler.core.preemption_ranks import Ranks, importance, start_of

PLACES_MIN = 4
PRIORITY_OFFSET = 2**31  # makes every priority positive, so that more victims never sum to less


class Candidate(NamedTuple):
    """A pod that may have to leave."""

    placed: Placed
    violates: bool  # a disruption budget, if it does


def in_order(lower: list[Placed], budgets: Budgets) -> list[Candidate]:
    """Those that are asked first to stay first: who would break a budget, then the more important ones."""
    lower.sort(key=importance)
    violating = budgets.violating(lower)
    found = [Candidate(each, each.pod.uid in violating) for each in lower]
    return sorted(found, key=lambda one: not one.violates)


class Roster:
    """For one priority: all pods below it."""

    def __init__(self, nodes: NodeTable, ranks: Ranks, budgets: Budgets, priority: int) -> None:
        self._nodes = nodes
        self._ranks = ranks
        self._budgets = budgets
        self._priority = priority
        self._at = (-1, -1, -1)
        self._epoch = -1
        self._read = 0
        self._known: Mask = np.zeros(0, bool)

    def _catch_up(self, rows: NDArray[np.intp]) -> None:
        """What is said of `rows` is so."""
        nodes, ranks = self._nodes, self._ranks
        at = nodes.kinds, nodes.capacity, self._budgets.revised
        if self._at != at or self._epoch != ranks.epoch:
            self._at = at
            self._known = np.zeros(nodes.capacity, bool)
            self._allocate(PLACES_MIN)
        elif self._read < len(ranks.log):
            self._known[ranks.log[self._read :]] = False
        self._epoch, self._read = ranks.epoch, len(ranks.log)
        for row in rows[~self._known[rows]].tolist():
            self._take(row)
        self._known[rows] = True

    def _allocate(self, places: int) -> None:
        kinds, capacity, _ = self._at
        self._needed: Ints = np.zeros((places, kinds, capacity), np.int64)
        # priority, start and whether a budget breaks, of those that are there
        self._about: Floats = np.zeros((places, 3, capacity))
        self._there: Mask = np.zeros((places, capacity), bool)

    def _grow(self, places: int) -> None:
        needed, about, there = self._needed, self._about, self._there
        self._allocate(places)
        self._needed[: len(needed)], self._about[: len(about)], self._there[: len(there)] = needed, about, there

    def _take(self, row: int) -> None:
        lower = [each for each in self._ranks.on(row) if each.pod.priority < self._priority]
        if len(lower) > len(self._there):
            self._grow(max(len(lower), 2 * len(self._there)))
        self._there[:, row] = False
        self._there[: len(lower), row] = True
        self._needed[:, :, row] = 0
        indices = self._nodes.resource_index
        for place, (placed, violates) in enumerate(in_order(lower, self._budgets)):
            pod = placed.pod
            self._about[place, :, row] = pod.priority, start_of(placed.started), violates
            for name, needed in pod.needs.resources:
                index = indices.get(name)
                if index is not None:
                    self._needed[place, index, row] = needed

    def judge(self, rows: NDArray[np.intp], free: list[tuple[int, Ints]], room: Ints) -> Floats:
        """What it costs to take the room on each of `rows`: the five keys of a choice, infinite where nobody leaves.

        `free`: by index of a resource what a row of all nodes has left beside the pod when all have left, 0 at least.
        `room`: how many pods it takes then, 1 at least.
        """
        self._catch_up(rows)
        slack = [(index, left[rows]) for index, left in free]
        places = room[rows]
        violations, count, total = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
        highest = np.full(len(rows), -np.inf)
        started = np.full(len(rows), np.inf)
        for place in range(len(self._there)):
            there = self._there[place, rows]
            if not there.any():
                break
            needed = [self._needed[place, index, rows] for index, _ in slack]
            stays = there & (places >= 2)
            for (_, left), amount in zip(slack, needed, strict=True):
                stays &= left >= amount
            for (_, left), amount in zip(slack, needed, strict=True):
                left -= amount * stays
            places -= stays
            leaves = there & ~stays
            priority, start, violates = self._about[place][:, rows]
            violations += violates * leaves
            count += leaves
            total += (priority + PRIORITY_OFFSET) * leaves
            above, level = leaves & (priority > highest), leaves & (priority == highest)
            started = np.where(above, start, np.where(level, np.minimum(started, start), started))
            highest = np.where(above, priority, highest)
        keys = np.array((violations, highest, total, count, -started))
        keys[:, count == 0] = np.inf
        return keys

"""How much of a node would be left, or used: spread pods out, pack them, or a function of one's own.

    LeastAllocated            100 x what would be free
    MostAllocated             100 x what would be used
    RequestedToCapacityRatio  a piecewise linear function of what would be used

Each is the weighted mean over the strategy's resources; of those that the node does not have nothing is counted, nor of
extended resources that the pod does not ask for. Pods without requests for cpu and memory count as if they had small
ones (`requests.DEFAULT_MILLI_CPU`).
"""

import numpy as np

from raykube.scheduler.core.arguments import LEAST_ALLOCATED, REQUESTED_TO_CAPACITY
from raykube.scheduler.core.plugin import MAX_SCORE, Floats, UsageScore, View
from raykube.scheduler.core.requests import CPU, EPHEMERAL, MEMORY

POINT_MAX = 10  # of a shape's scores


class NodeResourcesFit(UsageScore):
    name = "NodeResourcesFit"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._shares = view.shares
        self._least = view.arguments.strategy == LEAST_ALLOCATED
        self._packing = view.arguments.strategy == REQUESTED_TO_CAPACITY
        self._used_at = [point.utilization / 100 for point in view.arguments.shape]
        self._score_at = [point.score * (MAX_SCORE / POINT_MAX) for point in view.arguments.shape]
        wanted = dict(view.needs.resources)
        unasked = dict(view.needs.unasked)
        self._counted = [
            (name in (CPU, MEMORY), name, wanted.get(name, 0) + unasked.get(name, 0), float(weight))
            for name, weight in view.arguments.fit_resources
            if name in (CPU, MEMORY, EPHEMERAL) or wanted.get(name)
        ]

    def all(self) -> Floats:
        nodes, cells = self.nodes, self.nodes.cells
        self._shares.catch_up()
        counted = [(nodes.index_of(name), small, needed, weight) for small, name, needed, weight in self._counted]
        self._cells = [
            (cells.allocatable[index], cells.requested[index], cells.unasked[index], needed, weight)
            for index, _, needed, weight in counted
        ]
        if not counted:
            return np.zeros(nodes.capacity)
        if not self._packing and all(nodes.everywhere(index) for index, *_ in counted):
            return self._mean(counted)
        total: Floats = np.zeros(nodes.capacity)
        weights: Floats = np.zeros(nodes.capacity)
        for index, small, needed, weight in counted:
            used = self._used(index, small, needed)
            known = nodes.allocatable[index] > 0
            if self._packing:
                score: Floats = np.interp(used, self._used_at, self._score_at)
                known &= score > 0  # upstream counts no resource that scores nothing
            else:
                score = MAX_SCORE * (1.0 - used if self._least else used)
            weighed = np.where(known, weight, 0.0)
            total += score * weighed
            weights += weighed
        return total / np.where(weights > 0, weights, 1.0)

    def _used(self, index: int, small: bool, needed: int) -> Floats:
        """The part of a resource that would be used. In place: a class of one pod is all about these operations."""
        used: Floats = self.nodes.per_unit[index] * needed
        used += (self._shares.small if small else self._shares.used)[index]
        return np.minimum(used, 1.0, out=used)

    def _mean(self, counted: list[tuple[int, bool, int, float]]) -> Floats:
        """The score where every node has all that is counted: the factors are the same for all rows."""
        factor = MAX_SCORE / sum(weight for *_, weight in counted)
        total: Floats | None = None
        for index, small, needed, weight in counted:
            used = self._used(index, small, needed)
            used *= weight * factor
            total = used if total is None else np.add(total, used, out=total)
        assert total is not None
        return np.subtract(MAX_SCORE, total, out=total) if self._least else total

    def row(self, row: int) -> float:
        total = weights = 0.0
        for allocatable, requested, unasked, needed, weight in self._cells:
            size = allocatable[row]
            if size <= 0:
                continue
            used = (requested[row] + unasked[row] + needed) / size
            if used > 1.0:
                used = 1.0
            if self._packing:
                score = float(np.interp(used, self._used_at, self._score_at))
                if score <= 0:
                    continue
            else:
                score = MAX_SCORE * (1.0 - used if self._least else used)
            total += score * weight
            weights += weight
        return total / weights if weights else 0.0

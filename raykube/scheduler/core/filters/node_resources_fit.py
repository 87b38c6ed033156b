"""What pods request must fit into what the node can give: cpu, memory, extended resources, and the number of pods."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import ABSENT, Mask
from raykube.scheduler.core.plugin import Rejected, UsageFilter, View
from raykube.scheduler.core.pod import Pod


class NodeResourcesFit(UsageFilter):
    name = "NodeResourcesFit"
    helped_by = Event.NODE | Event.POD_GONE

    def __init__(self, view: View) -> None:
        super().__init__(view)
        arguments = view.arguments
        self._shares = view.shares
        self.resources = tuple(
            (name, needed)
            for name, needed in view.needs.resources
            if name not in arguments.ignored_resources and name.partition("/")[0] not in arguments.ignored_groups
        )

    def passes_all(self, among: Mask) -> Mask:
        nodes, shares = self.nodes, self._shares
        shares.catch_up()
        columns = [(nodes.index_of(name), needed) for name, needed in self.resources]
        cells = nodes.cells
        self._cells = [(cells.allocatable[index], cells.requested[index], needed) for index, needed in columns]
        self._cells.append((cells.pods_allowed, cells.pod_count, 1))
        passed = shares.has_room.copy()
        for index, needed in columns:
            if index == ABSENT:
                return np.zeros(nodes.capacity, bool)
            passed &= shares.free[index] >= needed
        return passed

    def passes_row(self, row: int) -> bool:
        for allocatable, requested, needed in self._cells:
            free = allocatable[row] - requested[row]
            if free < needed:
                return False
        return True

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        """A node is counted under every resource that it lacks; hopeless is what it lacks even when empty."""
        nodes = self.nodes
        yield Rejected("Too many pods", nodes.pod_count >= nodes.pods_allowed, False)
        for name, needed in self.resources:
            index = nodes.index_of(name)
            short = needed > nodes.allocatable[index] - nodes.requested[index]
            yield Rejected(f"Insufficient {name}", short, needed > nodes.allocatable[index])

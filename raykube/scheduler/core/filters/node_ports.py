"""Host ports that the pod wants and another pod of the node has."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import Rejected, UsageFilter, View
from raykube.scheduler.core.pod import Pod


class NodePorts(UsageFilter):
    name = "NodePorts"
    helped_by = Event.NODE | Event.POD_GONE

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.host_ports)

    def passes_all(self, among: Mask) -> Mask:
        passed = np.ones(self.nodes.capacity, bool)
        for row in self.nodes.ports:  # only rows where some port is taken
            if among[row]:
                passed[row] = self.passes_row(row)
        return passed

    def passes_row(self, row: int) -> bool:
        return not self.nodes.port_conflict(row, self.needs.host_ports)

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        yield Rejected("node(s) didn't have free ports for the requested pod ports", ~self.passes_all(left), False)

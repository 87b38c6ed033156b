"""Cordoned nodes (spec.unschedulable) are for pods that tolerate the taint of that name."""

from collections.abc import Hashable

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import NodeFilter, View
from raykube.scheduler.core.taints import UNSCHEDULABLE, tolerates
from raykube.scheduler.core.terms import Rows


class NodeUnschedulable(NodeFilter):
    name = "NodeUnschedulable"
    helped_by = Event.NODE
    reason = "node(s) were unschedulable"

    @classmethod
    def concerns(cls, view: View) -> bool:
        return not any(tolerates(toleration, UNSCHEDULABLE) for toleration in view.needs.tolerations)

    @classmethod
    def alike(cls, view: View) -> Hashable:
        return ()

    def passes(self, rows: Rows) -> Mask:
        passed: Mask = ~self.nodes.unschedulable[rows]
        return passed

"""Taints with effect NoSchedule or NoExecute keep pods away that do not tolerate them."""

from collections.abc import Hashable

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import NodeFilter, View
from raykube.scheduler.core.taints import Judged, untolerated
from raykube.scheduler.core.terms import Rows


class TaintToleration(NodeFilter):
    name = "TaintToleration"
    helped_by = Event.NODE
    reason = "node(s) had untolerated taint(s)"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        tolerations = view.needs.tolerations
        self._tolerated = Judged(view.nodes.taints, lambda taints: untolerated(taints, tolerations) is None)

    @classmethod
    def alike(cls, view: View) -> Hashable:
        return view.needs.tolerations

    def passes(self, rows: Rows) -> Mask:
        passed: Mask = self._tolerated.table(np.bool_).take(self.nodes.taint_set[rows])
        return passed

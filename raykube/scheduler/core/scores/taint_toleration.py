"""Few PreferNoSchedule taints that the pod does not tolerate."""

from collections.abc import Hashable

import numpy as np

from raykube.scheduler.core.plugin import Floats, NodeScore, Scaling, View
from raykube.scheduler.core.taints import Judged, disliked
from raykube.scheduler.core.terms import Rows


class TaintToleration(NodeScore):
    name = "TaintToleration"
    weight = 3
    scaling = Scaling.LEAST

    def __init__(self, view: View) -> None:
        super().__init__(view)
        tolerations = view.needs.tolerations
        self._disliked = Judged(view.nodes.taints, lambda taints: disliked(taints, tolerations))

    @classmethod
    def alike(cls, view: View) -> Hashable:
        return view.needs.tolerations

    def raw(self, rows: Rows) -> Floats | None:
        table = self._disliked.table(np.float64)
        if not table.any():
            return None
        found: Floats = table.take(self.nodes.taint_set[rows])
        return found

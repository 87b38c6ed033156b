"""Nodes where the pod and its neighbours slow each other down little, as far as that was learnt (core/interference.py).

A cost of 1 is a pod that takes twice as long; from `COST_MAX` on the score is 0. Where nothing is known no node is
liked more than another.
"""

import numpy as np

from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import MAX_SCORE, Floats, PodScore, View
from raykube.scheduler.core.pod import Pod

COST_MAX = 2.0


class Interference(PodScore):
    name = "Interference"
    weight = 3

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._known = view.slowdowns

    def scores(self, fits: Mask, pod: Pod, same: bool) -> Floats | None:
        if not self._known.matters(pod.workload):
            return None
        costs = self._known.costs(pod.workload, self.nodes.capacity)
        found: Floats = MAX_SCORE * (1.0 - np.minimum(costs / COST_MAX, 1.0))
        return found

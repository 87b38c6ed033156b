"""Preferred node affinity: the weights of the terms that match, of the pod and of the profile."""

from collections.abc import Hashable

from raykube.scheduler.core.plugin import Floats, NodeScore, Scaling, View
from raykube.scheduler.core.terms import Rows, preference


class NodeAffinity(NodeScore):
    name = "NodeAffinity"
    weight = 2
    scaling = Scaling.MOST

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.preferred_terms)

    @classmethod
    def alike(cls, view: View) -> Hashable:
        return view.needs.preferred_terms

    def raw(self, rows: Rows) -> Floats:
        return preference(self.nodes, self.needs, rows)

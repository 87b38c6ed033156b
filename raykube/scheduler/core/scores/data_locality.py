"""Nodes that have what the pod reads: the score is bytes not moved (core/locality.py)."""

from collections import ChainMap

from raykube.scheduler.core.locality import scores
from raykube.scheduler.core.plugin import Floats, NodeScore, View
from raykube.scheduler.core.terms import Rows


class DataLocality(NodeScore):
    name = "DataLocality"
    weight = 3

    @classmethod
    def concerns(cls, view: View) -> bool:
        return bool(view.needs.inputs)

    def raw(self, rows: Rows) -> Floats:
        nodes = self.nodes
        found: Floats = scores(self.needs.inputs, ChainMap(nodes.rows, nodes.addresses), nodes.capacity)[rows]
        return found

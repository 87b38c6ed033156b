"""nodeSelector, required node affinity, and what the profile adds to it."""

from collections.abc import Hashable, Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import EVERY, NodeFilter, Rejected, View
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.terms import Rows, matches_affinity, matches_any, pinned_names

ENFORCED = "node(s) didn't match scheduler-enforced node affinity"


class NodeAffinity(NodeFilter):
    name = "NodeAffinity"
    helped_by = Event.NODE
    reason = "node(s) didn't match Pod's node affinity/selector"

    @classmethod
    def concerns(cls, view: View) -> bool:
        needs = view.needs
        return bool(needs.node_selector) or needs.affinity_terms is not None or needs.added_terms is not None

    @classmethod
    def alike(cls, view: View) -> Hashable:
        needs = view.needs
        return needs.node_selector, needs.affinity_terms, needs.added_terms

    def passes(self, rows: Rows) -> Mask:
        passed = matches_affinity(self.nodes, self.needs, rows)
        if self.needs.added_terms is not None:
            passed &= matches_any(self.nodes, self.needs.added_terms, rows)
        return passed

    def narrowed(self) -> Mask | None:
        pinned = pinned_names(self.needs)
        if pinned is None:
            return None
        outside = np.ones(self.nodes.capacity, bool)
        outside[[self.nodes.rows[name] for name in pinned if name in self.nodes.rows]] = False
        return outside

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        if self.needs.added_terms is not None:
            failing = ~matches_any(self.nodes, self.needs.added_terms, EVERY)
            yield Rejected(ENFORCED, failing, True)
            left = left & ~failing
        yield Rejected(self.reason, left & ~matches_affinity(self.nodes, self.needs, EVERY), True)

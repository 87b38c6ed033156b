"""One pod on every node: what each filter says of it, and what each score gives it. The decision itself is `pick`'s.

node   filters                           scores (0 to 100)                          total
a      NodeResourcesFit: Insufficient …  -                                          -
b      -                                 TaintToleration 100, NodeResourcesFit 71 … 712
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from raykube.scheduler.core.diagnosis import judge
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import Floats
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.podclass import PodClass


@dataclass(slots=True)
class Verdict:
    """About one node."""

    node: str
    rejected_by: dict[str, list[str]] = field(default_factory=dict)  # filter → its reasons; all that say no
    scores: dict[str, float] = field(default_factory=dict)  # 0 to 100, before weights; of nodes that fit
    total: float = 0.0

    @property
    def fits(self) -> bool:
        return not self.rejected_by

    @property
    def first_reasons(self) -> list[str]:
        """Those of the first filter that says no, as messages count them."""
        return next(iter(self.rejected_by.values()), [])


@dataclass(slots=True)
class Explanation:
    """About all nodes, best first: those that fit by total, then the others by name."""

    verdicts: list[Verdict]
    weights: dict[str, float]
    prevented: str = ""  # why no node is asked at all


class Elsewhere(NamedTuple):
    """What stands against the nodes that a pod is not placed on."""

    reasons: Counter[str]  # of the nodes that a filter rejects
    totals: Floats  # of the others; -inf for those rejected


def elsewhere(pod_class: PodClass, pod: Pod) -> Elsewhere | None:
    """None when no node is asked. The pod must not be placed."""
    if any(one.prevents(pod) for one in pod_class.pod_filters(pod)):
        return None
    totals = pod_class.weigh(pod).copy()
    return Elsewhere(judge(pod_class, pod).reasons, totals)


def explain(pod_class: PodClass, pod: Pod) -> Explanation:
    """What `pick` would judge now. The pod must not be placed."""
    nodes = pod_class.nodes
    weights = {score.name: weight for score, weight in pod_class.scores}
    for asked in pod_class.pod_filters(pod):
        prevented = asked.prevents(pod)
        if prevented:
            return Explanation([], weights, prevented)
    fits = pod_class.fitting(pod) & nodes.live
    verdicts = {row: Verdict(nodes.names[row]) for row in np.flatnonzero(nodes.live).tolist()}
    for one in pod_class.filters_for(pod):
        for reason, rows, _ in one.rejections(nodes.live, pod):
            for row in np.flatnonzero(rows & nodes.live).tolist():
                verdicts[row].rejected_by.setdefault(one.name, []).append(reason)
    _score(pod_class, pod, fits, verdicts)
    ordered = sorted(verdicts.items(), key=lambda item: (not item[1].fits, -item[1].total if item[1].fits else 0.0))
    return Explanation([verdict for _, verdict in ordered], weights)


def _score(pod_class: PodClass, pod: Pod, fits: Mask, verdicts: dict[int, Verdict]) -> None:
    rows = np.flatnonzero(fits).tolist()
    for score, weight, column in pod_class.breakdown(pod, fits):
        for row in rows:
            verdicts[row].scores[score.name] = column.item(row)
            verdicts[row].total += weight * column.item(row)

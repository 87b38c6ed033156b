"""What a filter or a score of one's own takes: a small class and a line in a profile."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import Floats, NodeFilter, NodeScore, PodFilter, Rejected, Scaling, UsageScore
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.profile import DEFAULT_SCORES, Profile
from raykube.scheduler.core.scores import SCORES
from raykube.scheduler.core.terms import Rows
from tests.scheduler.objects import node, pod


class EvenNames(NodeFilter):
    """Nodes whose names have an even number of letters."""

    name = "EvenNames"
    helped_by = Event.NODE
    reason = "node(s) had odd names"

    def passes(self, rows: Rows) -> Mask:
        names = [*self.nodes.names, *[""] * (self.nodes.capacity - len(self.nodes.names))]
        return np.array([len(name) % 2 == 0 for name in names])[rows]


class OnePodOfAName(PodFilter):
    """No node for a pod whose name is taken."""

    name = "OnePodOfAName"
    helped_by = Event.POD_GONE

    def passes(self, pod: Pod) -> Mask | None:
        return np.zeros(self.nodes.capacity, bool) if pod.name == "taken" else None

    def key(self, pod: Pod) -> str:
        return pod.name

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        if pod.name == "taken":
            yield Rejected("node(s) had a pod of that name", left, False)


class LongNames(NodeScore):
    name = "LongNames"
    scaling = Scaling.MOST

    def raw(self, rows: Rows) -> Floats:
        names = [*self.nodes.names, *[""] * (self.nodes.capacity - len(self.nodes.names))]
        return np.array([float(len(name)) for name in names])[rows]


class ManyPods(UsageScore):
    """Nodes with many pods."""

    name = "ManyPods"

    def all(self) -> Floats:
        return self.nodes.pod_count.astype(np.float64)

    def row(self, row: int) -> float:
        return float(self.nodes.pod_count[row])


def made(profile: Profile) -> Cluster:
    found = Cluster([profile])
    for name in ("aa", "bbb", "cccc"):
        found.on_node(node(name))
    return found


def test_a_filter_of_one_s_own() -> None:
    found = made(Profile(filters=(*FILTERS, EvenNames, OnePodOfAName)))
    places = {found.schedule(found.read_pod(pod(f"p{number}", "1"))) for number in range(8)}
    assert {place.node for place in places if isinstance(place, Placement)} == {"aa", "cccc"}
    full = found.schedule(found.read_pod(pod("p", "1")))
    assert isinstance(full, Diagnosis)
    assert full.message.startswith("0/3 nodes are available: 1 node(s) had odd names, 2 Insufficient cpu.")
    assert {"EvenNames", "NodeResourcesFit"} == full.plugins
    # Pods of a class get their own answers where the filter's key differs.
    small, taken = (found.schedule(found.read_pod(pod(name))) for name in ("free", "taken"))
    assert isinstance(small, Placement)
    assert isinstance(taken, Diagnosis)
    assert taken.message.startswith(
        "0/3 nodes are available: 1 node(s) had odd names, 2 node(s) had a pod of that name"
    )
    assert taken.helped_by & Event.POD_GONE


def test_a_score_of_one_s_own() -> None:
    found = made(Profile(scores=((LongNames, 1),)))
    assert [found.schedule(found.read_pod(pod(f"p{n}")))[0] for n in range(3)] == ["cccc"] * 3  # type: ignore[index]
    found = made(Profile(scores=((ManyPods, 1),)))
    found.on_pod(found.read_pod(pod("there", nodeName="bbb")))
    assert [found.schedule(found.read_pod(pod(f"p{n}")))[0] for n in range(3)] == ["bbb"] * 3  # type: ignore[index]
    # What counts for other pods counts for them from the start: the class is caught up row by row.
    assert found.explain(found.read_pod(pod("p"))).verdicts[0].scores == {"ManyPods": 4}


def test_names_are_told_apart() -> None:
    assert len({one.name for one in FILTERS}) == len(FILTERS)
    assert len({one.name for one in SCORES}) == len(SCORES)
    assert all(0 < weight <= 100 for _, weight in DEFAULT_SCORES)

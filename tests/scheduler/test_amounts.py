"""Amounts of any size, and resources of any name, make no decision wrong."""

import numpy as np
import pytest

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.requests import AMOUNT_MAX
from tests.scheduler.objects import Object, node, pod

MOST = str(2**63 - 1)


def cluster_of(*objects: Object) -> Cluster:
    cluster = Cluster()
    for obj in objects:
        if obj["kind"] == "Node":
            cluster.on_node(obj)
        else:
            cluster.on_pod(cluster.read_pod(obj))
    return cluster


def decide(cluster: Cluster, obj: Object) -> Placement | Diagnosis:
    return cluster.schedule(cluster.read_pod(obj))


def insufficient(found: Placement | Diagnosis, name: str, nodes: int = 1) -> bool:
    return isinstance(found, Diagnosis) and found.message.startswith(
        f"0/{nodes} nodes are available: {nodes} Insufficient {name}."
    )


@pytest.mark.parametrize("others", [0, 1, 40])
@pytest.mark.parametrize("amounts", [{"cpu": MOST}, {"memory": MOST}, {"cpu": "5e15"}, {"memory": "7Ei"}])
def test_what_no_node_has_fits_nowhere(amounts: dict[str, str], others: int) -> None:
    cluster = cluster_of(node("n", "200", "1Ti"))
    for number in range(others):
        assert isinstance(decide(cluster, pod(f"small-{number}", "1", "1Gi")), Placement)
    for priority in (0, 10):
        found = decide(cluster, pod(f"large-{priority}", **amounts, priority=priority))
        assert isinstance(found, Diagnosis)
        assert f"1 Insufficient {next(iter(amounts))}." in found.message
        assert found.eviction is None


def test_nor_where_a_node_says_that_it_has_it() -> None:
    cluster = cluster_of(node("n", MOST, MOST, MOST))
    assert insufficient(decide(cluster, pod("a", MOST)), "cpu")
    assert isinstance(decide(cluster, pod("b", "1", "1Gi")), Placement)


@pytest.mark.parametrize("amounts", [{"cpu": MOST}, {"cpu": "5e15"}, {"memory": MOST}, {"memory": "4Ei"}])
def test_bound_pods_of_any_size_leave_no_room_until_they_are_gone(amounts: dict[str, str]) -> None:
    name = next(iter(amounts))
    cluster = cluster_of(node("n", pods="2000"))
    small: dict[str, str] = {name: "1"}
    bound = [pod(f"p{number}", **amounts, nodeName="n") for number in range(1000)]
    for number, obj in enumerate(bound):
        cluster.on_pod(cluster.read_pod(obj))
        assert insufficient(decide(cluster, pod(f"q{number}", **small)), name)
    for obj in bound:
        assert insufficient(decide(cluster, pod("q", **small)), name)
        cluster.on_pod_gone(obj["metadata"]["uid"])
    assert not np.any(cluster.nodes.requested)
    assert not np.any(cluster.nodes.unasked)
    assert isinstance(decide(cluster, pod("q", **small)), Placement)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_more_than_a_sum_has_room_for_goes_as_it_came() -> None:
    table = NodeTable()
    row = table.row_of("n")
    needs = cluster_of().read_pod(pod("p", MOST, MOST)).needs
    for _ in range(40_000):
        table.use(row, needs, 1)
    assert table.requested[0, row] < 40_000 * AMOUNT_MAX
    for _ in range(40_000):
        table.use(row, needs, -1)
    assert not table.requested.any()


GPU = "example.com/gpu"


def test_names_that_only_pods_say_make_no_columns() -> None:
    cluster = cluster_of(node("n"), pod("bound", nodeName="n", extra={f"bound.com/r{n}": "1" for n in range(300)}))
    before = cluster.nodes.allocatable.shape
    for number in range(300):
        name = f"made-up.com/r{number}"
        assert insufficient(decide(cluster, pod(f"p{number}", "1", extra={name: "1"})), name)
    many = decide(cluster, pod("many", extra={f"many.com/r{n}": "1" for n in range(300)}))
    assert isinstance(many, Diagnosis)
    assert "1 Insufficient many.com/r0, 1 Insufficient many.com/r1," in many.message
    assert set(cluster.nodes.resource_index) == {"cpu", "memory"}
    assert cluster.nodes.allocatable.shape == cluster.nodes.requested.shape == before


def test_a_name_that_a_node_brings_later_is_judged_anew_with_what_bound_pods_use_of_it() -> None:
    bound = [pod(f"bound-{n}", nodeName="a", extra={GPU: "1"}, priority=n) for n in range(3)]
    cluster = cluster_of(node("a"), node("b"), *bound)
    waiting = pod("p", "1", extra={GPU: "2"})
    assert insufficient(decide(cluster, waiting), GPU, nodes=2)
    cluster.on_node(node("a", extra={GPU: "4"}))
    found = decide(cluster, waiting)
    assert insufficient(found, GPU, nodes=2)
    cluster.on_pod_gone("uid-bound-0")
    placed = decide(cluster, waiting)
    assert isinstance(placed, Placement)
    assert placed.node == "a"
    assert insufficient(decide(cluster, pod("q", extra={GPU: "1"})), GPU, nodes=2)
    for uid in ("uid-bound-1", "uid-bound-2", "uid-p"):
        cluster.on_pod_gone(uid)
    assert not np.any(cluster.nodes.requested)


def test_what_pods_of_lower_priority_use_of_it_can_be_taken() -> None:
    bound = [pod(f"bound-{n}", nodeName="a", extra={GPU: "1"}, priority=n) for n in range(3)]
    cluster = cluster_of(node("a"), *bound)
    above = pod("p", extra={GPU: "2"}, priority=2)
    found = decide(cluster, above)
    assert insufficient(found, GPU)
    assert isinstance(found, Diagnosis)
    assert found.eviction is None  # no eviction makes a node have it
    cluster.on_node(node("a", extra={GPU: "3"}))
    found = decide(cluster, above)
    assert isinstance(found, Diagnosis)
    assert found.eviction is not None
    assert {one.name for one in found.eviction.victims} == {"bound-0", "bound-1"}


def test_a_promise_of_it_counts_once_there_is_some() -> None:
    cluster = cluster_of(node("a"))
    promised = pod("promised", extra={GPU: "1"}, priority=10)
    promised["status"]["nominatedNodeName"] = "a"
    cluster.on_waiting(cluster.read_pod(promised))
    lower, other = pod("p", extra={GPU: "1"}), pod("q", "1")
    assert insufficient(decide(cluster, lower), GPU)
    assert isinstance(decide(cluster, other), Placement)
    cluster.on_node(node("a", extra={GPU: "1"}))
    assert insufficient(decide(cluster, lower), GPU)
    assert isinstance(decide(cluster, promised), Placement)
    cluster.on_pod_gone("uid-promised")
    assert isinstance(decide(cluster, lower), Placement)
    assert cluster.on_pod_gone("uid-q")


def test_columns_of_many_names_that_nodes_say() -> None:
    names = [f"example.com/r{number}" for number in range(40)]
    cluster = cluster_of(node("none"))
    for number, name in enumerate(names):
        obj = pod(f"p{number}", "100m", extra={name: "1"})
        assert isinstance(decide(cluster, obj), Diagnosis)
        cluster.on_node(node(f"n{number}", extra={name: "1"}))
        found = decide(cluster, obj)
        assert isinstance(found, Placement)
        assert found.node == f"n{number}"
        assert isinstance(decide(cluster, pod(f"q{number}", extra={name: "1"})), Diagnosis)
    assert len(cluster.nodes.allocatable) == 64
    for number in range(len(names)):
        cluster.on_pod_gone(f"uid-p{number}")
    assert not np.any(cluster.nodes.requested)

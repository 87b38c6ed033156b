"""replicaset-controller on the model cluster."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.core import kinds, names
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.pods import deletion_rank, is_active
from raykube.controllers.core.replicaset import REPLICATION_CONTROLLERS, ReplicaSetController
from tests.controllers.model import Cluster, Crash, Running, kubelet, set_pod, template

LABELS = {"app": "web"}


def replica_set(replicas: int, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(LABELS), **spec},
    }


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(kinds.REPLICA_SETS, "default", "web")
    assert found is not None
    return dict(found["status"])


def test_creates_pods_and_counts_them() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(3))
    cluster.settle(ReplicaSetController())
    pods = cluster.all(kinds.PODS)
    assert len(pods) == 3
    assert all(pod["metadata"]["name"].startswith("web-") and len(pod["metadata"]["name"]) == 9 for pod in pods)
    assert pods[0]["metadata"]["ownerReferences"][0]["controller"] is True
    assert status(cluster) == {"replicas": 3, "fullyLabeledReplicas": 3, "observedGeneration": 1}
    kubelet(cluster)
    cluster.settle(ReplicaSetController())
    assert status(cluster)["readyReplicas"] == status(cluster)["availableReplicas"] == 3
    assert sorted(event.reason for event in cluster.events) == ["SuccessfulCreate"] * 3


def test_a_replication_controller_has_pods_of_its_own() -> None:
    """Its selector is written as labels, and a ReplicaSet that selects the same is not its business."""
    cluster = Cluster()
    running = Running(cluster, [ReplicaSetController(REPLICATION_CONTROLLERS), ReplicaSetController()])
    running.start()
    cluster.add(kinds.PODS, {"metadata": {"name": "orphan", "labels": LABELS}, "spec": {}, "status": {}})
    old = {"replicas": 3, "selector": LABELS, "template": template(LABELS)}
    cluster.add(kinds.REPLICATION_CONTROLLERS, {"metadata": {"name": "old"}, "spec": old})
    running.run()
    cluster.add(kinds.REPLICA_SETS, replica_set(2))
    running.run()
    kubelet(cluster)
    running.run()

    def owned() -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in filter(is_active, cluster.all(kinds.PODS)):
            [reference] = pod["metadata"].get("ownerReferences") or [{"kind": ""}]
            found.setdefault(reference["kind"], []).append(pod)
        return found

    pods = owned()
    assert {kind: len(each) for kind, each in pods.items()} == {"ReplicationController": 3, "ReplicaSet": 2}
    assert "orphan" in {pod["metadata"]["name"] for pod in pods["ReplicationController"]}
    [reference] = pods["ReplicationController"][0]["metadata"]["ownerReferences"]
    assert (reference["apiVersion"], reference["name"], reference["controller"]) == ("v1", "old", True)
    released = pods["ReplicationController"][0]["metadata"]["name"]
    cluster.change(kinds.PODS, released, lambda pod: pod["metadata"].update(labels={"app": "other"}))
    cluster.change(kinds.REPLICATION_CONTROLLERS, "old", lambda obj: obj["spec"].update(replicas=1))
    running.run()
    assert {kind: len(each) for kind, each in owned().items()} == {"ReplicationController": 1, "ReplicaSet": 2, "": 1}
    stored = cluster.get(kinds.REPLICATION_CONTROLLERS, "default", "old")
    assert stored is not None
    assert stored["status"] == {
        "replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 2
    }  # fmt: skip


def test_replaces_failed_and_deleted_pods() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(2))
    cluster.settle(ReplicaSetController())
    kubelet(cluster)
    first, second = cluster.all(kinds.PODS)
    cluster.change(kinds.PODS, first["metadata"]["name"], set_pod("Failed", False, cluster.now))
    cluster.remove(kinds.PODS, second["metadata"]["name"])
    cluster.settle(ReplicaSetController())
    active = [pod for pod in cluster.all(kinds.PODS) if is_active(pod)]
    assert len(active) == 2 and not {pod["metadata"]["name"] for pod in active} & {
        first["metadata"]["name"],
        second["metadata"]["name"],
    }


def test_scales_down_those_that_cost_least() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(4))
    cluster.settle(ReplicaSetController())
    kubelet(cluster)
    names = [pod["metadata"]["name"] for pod in cluster.all(kinds.PODS)]
    cluster.change(kinds.PODS, names[2], set_pod("Running", False, cluster.now))
    cluster.change(
        kinds.PODS,
        names[1],
        lambda pod: pod["metadata"].update(annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}),
    )
    cluster.change(kinds.REPLICA_SETS, "web", lambda obj: obj["spec"].update(replicas=2))
    cluster.settle(ReplicaSetController())
    kept = {pod["metadata"]["name"] for pod in cluster.all(kinds.PODS) if is_active(pod)}
    assert kept == {names[0], names[3]}


def test_adopts_and_releases() -> None:
    cluster = Cluster()
    cluster.add(kinds.PODS, {"metadata": {"name": "orphan", "labels": LABELS}, "spec": {}})
    cluster.add(kinds.REPLICA_SETS, replica_set(2))
    cluster.settle(ReplicaSetController())
    assert len(cluster.all(kinds.PODS)) == 2, "the orphan counts"
    cluster.change(kinds.PODS, "orphan", lambda pod: pod["metadata"].update(labels={"app": "other"}))
    cluster.settle(ReplicaSetController())
    orphan = cluster.get(kinds.PODS, "default", "orphan")
    assert orphan is not None and not orphan["metadata"].get("ownerReferences")
    assert len(cluster.all(kinds.PODS)) == 3


def test_available_after_min_ready_seconds() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(1, minReadySeconds=10))
    running = Running(cluster, [ReplicaSetController()])
    running.start()
    running.run()
    kubelet(cluster)
    running.advance(9)
    assert "availableReplicas" not in status(cluster)
    running.advance(1)
    assert status(cluster)["availableReplicas"] == 1


def test_refused_creation_is_a_condition_until_it_works() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(1))
    cluster.refuse = lambda write: "exceeded quota" if write.resource == kinds.PODS else ""
    running = Running(cluster, [ReplicaSetController()])
    running.start()
    running.advance(3)
    (condition,) = status(cluster)["conditions"]
    assert (condition["type"], condition["reason"], condition["message"]) == (
        "ReplicaFailure",
        "FailedCreate",
        "exceeded quota",
    )
    assert cluster.events[-1].reason == "FailedCreate"
    cluster.refuse = lambda write: ""
    running.advance(3)
    assert "conditions" not in status(cluster) and len(cluster.all(kinds.PODS)) == 1


def test_while_pods_are_refused_one_asks_whether_that_is_over() -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(20))
    room = 5
    cluster.refuse = lambda write: "full" if len(cluster.all(kinds.PODS)) >= room and write.verb == "create" else ""
    running = Running(cluster, [ReplicaSetController()])
    running.start()
    running.run()
    running.advance(4)
    assert 20 < sum(write.verb == "create" for write in cluster.log) < 30
    room = 12
    running.advance(2)
    assert len(cluster.all(kinds.PODS)) == 12, "the rest comes as soon as one fits"


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    crashes=st.lists(st.integers(0, 8), max_size=3),
    runs=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_converges_whatever_crashes(sizes: list[int], crashes: list[int], runs: bool) -> None:
    cluster = Cluster()
    cluster.add(kinds.REPLICA_SETS, replica_set(sizes[0]))
    for number, size in enumerate(sizes):
        cluster.change(kinds.REPLICA_SETS, "web", lambda obj, size=size: obj["spec"].update(replicas=size))
        if number < len(crashes):
            cluster.writes_left = crashes[number]
        with contextlib.suppress(Crash):
            cluster.settle(ReplicaSetController())
        if runs:
            kubelet(cluster)
    cluster.writes_left = -1
    cluster.settle(ReplicaSetController())
    assert sum(map(is_active, cluster.all(kinds.PODS))) == sizes[-1]
    assert status(cluster)["replicas"] == sizes[-1]


def test_names_follow_from_the_state() -> None:
    def five(state: str) -> list[str]:
        return [name for name, _ in zip(derived_names("web-", state, set()), range(5), strict=False)]

    first = five("uid/1/2")
    assert first == five("uid/1/2") and len(set(first)) == 5
    assert not set(first) & set(five("uid/1/3"))
    assert first[0] not in [
        name for name, _ in zip(derived_names("web-", "uid/1/2", {first[0]}), range(5), strict=False)
    ]


def test_names_of_one_plan_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter(["aaaaa", "bbbbb", "aaaaa", "ccccc", "ddddd"])
    monkeypatch.setattr(names, "_letters", lambda number: next(letters))
    found = names.free_names("web-", "state", lambda name: name == "web-bbbbb")
    assert [next(found), next(found), next(found)] == ["web-aaaaa", "web-ccccc", "web-ddddd"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"spec": {}}, {"spec": {"nodeName": "a"}}),
        ({"status": {"phase": "Pending"}}, {"status": {"phase": "Running"}}),
        ({"status": {"phase": "Running"}}, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    ],
)
def test_deletion_rank(first: dict[str, Any], second: dict[str, Any]) -> None:
    base = {"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    left = {**base, **first}
    right = {**base, **second}
    if "status" in second and "phase" not in second["status"]:
        right["status"] = {"phase": "Running", **second["status"]}
    assert deletion_rank(left, 0, 0.0) < deletion_rank(right, 0, 0.0)

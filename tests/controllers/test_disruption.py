"""disruption-controller on the model cluster."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.base.clock import rfc3339
from raykube.controllers.core import conditions, kinds
from raykube.controllers.core.deployment import DeploymentController
from raykube.controllers.core.disruption import CONDITION, DisruptionController
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.replicaset import ReplicaSetController
from tests.controllers.model import Cluster, Running, kubelet, set_pod, template

LABELS = {"app": "web"}
FIELDS = ("expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed")


def budget(selector: Obj | None = None, **spec: Any) -> Obj:
    return {"metadata": {"name": "b"}, "spec": {"selector": selector or {"matchLabels": LABELS}, **spec}}


def pod(name: str, *, ready: bool = True, owner: Obj | None = None, labels: dict[str, str] = LABELS) -> Obj:
    found: Obj = {"metadata": {"name": name, "labels": labels}, "spec": {}}
    set_pod("Running", ready, 0)(found)
    if owner is not None:
        found["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    return found


def start(cluster: Cluster, *more: Any) -> Running:
    running = Running(cluster, [DisruptionController(), *more])
    running.start()
    running.run()
    return running


def status(cluster: Cluster) -> Obj:
    found = cluster.get(kinds.POD_DISRUPTION_BUDGETS, "default", "b")
    assert found is not None
    return found["status"]


def numbers(cluster: Cluster) -> tuple[int, ...]:
    return tuple(status(cluster)[name] for name in FIELDS)


def reason(cluster: Cluster) -> tuple[str, str]:
    found = conditions.find(status(cluster)["conditions"], CONDITION)
    assert found is not None
    return found["status"], found["reason"]


def scaled(cluster: Cluster, resource: str, api_version: str, kind: str, replicas: int) -> Obj:
    """A workload of `replicas`; the reference to it."""
    found = cluster.add(resource, {"metadata": {"name": kind.lower()}, "spec": {"replicas": replicas}})
    return {"apiVersion": api_version, "kind": kind, "name": kind.lower(), "uid": found["metadata"]["uid"]}


def test_an_integer_counts_the_pods_that_there_are() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(minAvailable=2))
    for name in ("p", "q", "r"):
        cluster.add(kinds.PODS, pod(name))
    cluster.add(kinds.PODS, pod("s", ready=False))
    cluster.add(kinds.PODS, pod("other", labels={"app": "other"}))
    elsewhere = pod("p")
    elsewhere["metadata"]["namespace"] = "room"
    cluster.add(kinds.PODS, elsewhere)
    running = start(cluster)
    assert numbers(cluster) == (4, 3, 2, 1)
    assert reason(cluster) == ("True", "SufficientPods")
    assert status(cluster)["observedGeneration"] == 1
    cluster.change(kinds.PODS, "p", set_pod("Running", False, cluster.now))
    running.run()
    assert numbers(cluster) == (4, 2, 2, 0)
    assert reason(cluster) == ("False", "InsufficientPods")
    cluster.change(kinds.PODS, "other", lambda one: one["metadata"].update(labels=LABELS))
    running.run()
    assert numbers(cluster) == (5, 3, 2, 1)
    cluster.remove(kinds.PODS, "q")
    running.run()
    assert numbers(cluster) == (5, 2, 2, 0), "a pod that is being deleted is expected and not healthy"
    cluster.change(kinds.PODS, "other", lambda one: one["metadata"].update(labels={}))
    running.run()
    assert numbers(cluster) == (4, 1, 2, 0)
    cluster.change(kinds.POD_DISRUPTION_BUDGETS, "b", lambda one: one["spec"].update(minAvailable=0))
    running.run()
    assert (numbers(cluster), status(cluster)["observedGeneration"]) == ((4, 1, 0, 1), 2)
    written = len(cluster.log)
    start(cluster)
    assert len(cluster.log) == written, "a new leader writes nothing"


@pytest.mark.parametrize(
    ("selector", "pods"), [({}, 2), ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, 1), (None, 0)]
)
def test_what_a_selector_selects(selector: Obj | None, pods: int) -> None:
    cluster = Cluster()
    body = budget(minAvailable=1)
    body["spec"]["selector"] = selector
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, body)
    cluster.add(kinds.PODS, pod("p"))
    cluster.add(kinds.PODS, pod("q", labels={}))
    start(cluster)
    assert numbers(cluster) == (pods, pods, 1, max(pods - 1, 0))
    assert [event.reason for event in cluster.events] == ([] if pods else ["NoPods"])


@pytest.mark.parametrize(
    ("resource", "api_version", "kind"),
    [
        (kinds.REPLICA_SETS, "apps/v1", "ReplicaSet"),
        (kinds.STATEFUL_SETS, "apps/v1", "StatefulSet"),
        (kinds.REPLICATION_CONTROLLERS, "v1", "ReplicationController"),
    ],
)
@pytest.mark.parametrize(
    ("spec", "desired", "desired_of_10"),
    [({"minAvailable": "50%"}, 3, 5), ({"maxUnavailable": "30%"}, 3, 7), ({"maxUnavailable": 1}, 4, 9)],
)
def test_percentages_are_of_the_scale(
    resource: str, api_version: str, kind: str, spec: Obj, desired: int, desired_of_10: int
) -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(**spec))
    owner = scaled(cluster, resource, api_version, kind, 5)
    for number in range(4):
        cluster.add(kinds.PODS, pod(f"p{number}", owner=owner))
    running = start(cluster)
    assert numbers(cluster) == (5, 4, desired, 4 - desired)
    cluster.change(resource, kind.lower(), lambda one: one["spec"].update(replicas=10))
    running.run()
    assert numbers(cluster) == (10, 4, desired_of_10, 0)


def test_sets_of_one_deployment_share_its_scale() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(maxUnavailable=1))
    spec = {"replicas": 3, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    cluster.add(kinds.DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec})
    running = start(cluster, DeploymentController(), ReplicaSetController())
    for _ in range(3):
        kubelet(cluster)
        running.run()
    assert numbers(cluster) == (3, 3, 2, 1)

    def roll(one: Obj) -> None:
        one["spec"]["template"] = template(LABELS, "web:2")

    cluster.change(kinds.DEPLOYMENTS, "web", roll)
    running.run()
    assert len(cluster.all(kinds.REPLICA_SETS)) == 2 and len(cluster.all(kinds.PODS)) > 3
    assert status(cluster)["expectedPods"] == 3


def test_a_pod_that_nothing_scales_allows_nothing() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(maxUnavailable=1))
    cluster.add(
        kinds.PODS, pod("p", owner={"apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "uid-of-sum"})
    )
    running = start(cluster)
    assert reason(cluster) == ("False", "SyncFailed")
    assert status(cluster)["conditions"][0]["message"] == "jobs.batch does not implement the scale subresource"
    assert (status(cluster)["disruptionsAllowed"], status(cluster).get("observedGeneration")) == (0, None)
    assert [event.reason for event in cluster.events] == ["CalculateExpectedPodCountFailed"]
    missing = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "replicaset", "uid": "uid-of-set"}
    cluster.change(
        kinds.PODS, "p", lambda one: one["metadata"].update(ownerReferences=[missing | {"controller": True}])
    )
    running.run()
    assert status(cluster)["conditions"][0]["message"] == 'found no controllers for pod "p"'
    cluster.add(kinds.REPLICA_SETS, {"metadata": {"name": "replicaset", "uid": "uid-of-set"}, "spec": {"replicas": 1}})
    running.run()
    assert (numbers(cluster), reason(cluster)) == ((1, 1, 0, 1), ("True", "SufficientPods"))


def test_pods_without_a_controller_are_not_part_of_a_scale() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(maxUnavailable=1))
    cluster.add(kinds.PODS, pod("p"))
    start(cluster)
    assert numbers(cluster) == (0, 1, 0, 0)
    assert [event.reason for event in cluster.events] == ["UnmanagedPods"]


def evict(cluster: Cluster, name: str) -> None:
    """What the apiserver's evictions write before the pod is deleted."""

    def spend(one: Obj) -> None:
        old = one["status"]
        noted = {**old.get("disruptedPods", {}), name: rfc3339(cluster.now)}
        one["status"] = {**old, "disruptionsAllowed": old["disruptionsAllowed"] - 1, "disruptedPods": noted}

    cluster.change(kinds.POD_DISRUPTION_BUDGETS, "b", spend)


def test_an_eviction_is_counted_once() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(minAvailable=1))
    for name in ("p", "q", "r"):
        cluster.add(kinds.PODS, pod(name))
    running = start(cluster)
    assert numbers(cluster) == (3, 3, 1, 2)
    evict(cluster, "p")
    running.run()
    assert (numbers(cluster), list(status(cluster)["disruptedPods"])) == ((3, 2, 1, 1), ["p"])
    cluster.remove(kinds.PODS, "p")  # being deleted
    running.run()
    assert (numbers(cluster), status(cluster).get("disruptedPods")) == ((3, 2, 1, 1), None)
    evict(cluster, "q")
    found = cluster.get(kinds.PODS, "default", "q")
    assert found is not None
    cluster.vanish(kinds.PODS, found)
    running.run()
    assert (numbers(cluster), status(cluster).get("disruptedPods")) == ((2, 1, 1, 0), None)


def test_an_eviction_that_never_deleted_its_pod_is_forgotten_in_two_minutes() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(minAvailable=1))
    cluster.add(kinds.PODS, pod("p"))
    cluster.add(kinds.PODS, pod("q"))
    running = start(cluster)
    evict(cluster, "p")
    running.advance(119)
    assert (numbers(cluster), reason(cluster)[1]) == ((2, 1, 1, 0), "InsufficientPods")
    running.advance(2)
    assert (numbers(cluster), status(cluster).get("disruptedPods")) == ((2, 2, 1, 1), None)
    assert [event.reason for event in cluster.events] == ["NotDeleted"]


def test_a_decision_never_undoes_an_eviction_that_it_has_not_seen() -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(minAvailable=1))
    cluster.add(kinds.PODS, pod("p"))
    cluster.add(kinds.PODS, pod("q"))
    controller = DisruptionController()
    start(cluster)
    cluster.change(kinds.POD_DISRUPTION_BUDGETS, "b", lambda one: one["spec"].update(minAvailable=0))
    (write,) = controller.reconcile(cluster, "default/b", cluster.now).writes
    evict(cluster, "p")
    assert cluster.apply(write)[0] == 409
    assert list(status(cluster)["disruptedPods"]) == ["p"]


moves = st.tuples(
    st.sampled_from(["come", "go", "ready", "unready", "relabel", "orphan", "leave", "evict", "select", "scale"]),
    st.sampled_from("pqr"),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([{"minAvailable": 2}, {"maxUnavailable": 1}, {"minAvailable": "50%"}]), st.lists(moves))
def test_what_is_counted_by_changes_is_what_a_new_controller_counts(spec, steps) -> None:
    cluster = Cluster()
    cluster.add(kinds.POD_DISRUPTION_BUDGETS, budget(**spec))
    owner = scaled(cluster, kinds.REPLICA_SETS, "apps/v1", "ReplicaSet", 3)
    running = start(cluster)

    def note(each: Obj) -> None:
        each.setdefault("status", {}).setdefault("disruptedPods", {})[name] = rfc3339(cluster.now)

    for move, name, flag in steps:
        present = cluster.get(kinds.PODS, "default", name)
        if move == "come" and present is None:
            cluster.add(kinds.PODS, pod(name, ready=flag, owner=owner if flag else None))
        elif move == "evict":
            cluster.change(kinds.POD_DISRUPTION_BUDGETS, "b", note)
        elif move == "select":
            wanted = {"matchLabels": LABELS} if flag else {"matchLabels": {"app": "other"}}
            cluster.change(kinds.POD_DISRUPTION_BUDGETS, "b", lambda each, to=wanted: each["spec"].update(selector=to))
        elif move == "scale":
            cluster.change(kinds.REPLICA_SETS, "replicaset", lambda each, to=flag: each["spec"].update(replicas=3 + to))
        elif present is None:
            continue
        elif move == "go":
            cluster.vanish(kinds.PODS, present)
        elif move in ("ready", "unready"):
            cluster.change(kinds.PODS, name, set_pod("Running", move == "ready", cluster.now))
        elif move == "relabel":
            labels = LABELS if flag else {"app": "other"}
            cluster.change(kinds.PODS, name, lambda each, to=labels: each["metadata"].update(labels=dict(to)))
        elif move == "orphan":
            cluster.change(kinds.PODS, name, lambda each: each["metadata"].pop("ownerReferences", None))
        else:
            cluster.change(kinds.PODS, name, lambda each: each["metadata"].update(deletionTimestamp=rfc3339(0)))
        running.run()
        assert not DisruptionController().reconcile(cluster, "default/b", cluster.now).writes

"""What the scheduler would do: places and reasons, before anything is written."""

import pytest

from raykube.api.deadlines import DEADLINE, DURATION
from raykube.base.clock import rfc3339
from raykube.scheduler.core import plan, workloads
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.plan import Moved, Planned
from tests.factors.deadlines import START
from tests.scheduler.objects import Object, node, pod


def cluster(*nodes: Object) -> Cluster:
    made = Cluster()
    for one in nodes:
        made.on_node(one)
    return made


def deployment(replicas: int, **requests: str) -> Object:
    container = {"name": "c", "image": "i", "resources": {"requests": requests}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    }


def planned(found: Cluster, obj: Object) -> list[Planned]:
    workload = workloads.workload_of(obj)
    assert workload is not None
    pods = workloads.pods_of(workload, workloads.prototype(workload))
    return plan.place(found, [(workload.title, one) for one in pods])


def test_pods_are_placed_one_after_another() -> None:
    found = cluster(node("a", cpu="2"), node("b", cpu="4"), node("c", taints=[("k", "v", "NoSchedule")]))
    rows = planned(found, deployment(4, cpu="1500m"))
    assert [(one.name, one.node) for one in rows] == [("web-0", "b"), ("web-1", "a"), ("web-2", "b"), ("web-3", "")]
    assert rows[0].why.startswith("1 node(s) had untolerated taint(s), 1 scored less (next: a, ")
    assert rows[2].why == "1 Insufficient cpu, 1 node(s) had untolerated taint(s)"
    assert rows[3].why.startswith("0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.")
    assert {one.workload for one in rows} == {"deployment/web"}


def test_the_important_go_first_and_the_order_stays() -> None:
    found = cluster(node("a", cpu="1"))
    rows = plan.place(found, [("pod", pod("low", "1", priority=0)), ("pod", pod("high", "1", priority=9))])
    assert [(one.name, one.node) for one in rows] == [("low", ""), ("high", "a")]


def test_deadlines_order_a_plan_and_what_cannot_be_met_is_said() -> None:
    found = cluster(node("a", cpu="1"), node("b", cpu="1"))
    found.deadlines.now = START
    pods = [pod(name, "1") for name in ("whenever", "soon", "past")]
    for one, seconds, takes in ((pods[1], 500, "5m"), (pods[2], 60, "5m")):
        one["metadata"]["annotations"] = {DEADLINE: rfc3339(START + seconds), DURATION: takes}
    rows = plan.place(found, [("pod", one) for one in pods])
    assert [one.node for one in rows] == ["b", "a", ""]
    assert rows[2].why.startswith(
        f"the deadline {rfc3339(START + 60)} cannot be met: earliest {rfc3339(START + 600)}; 0/2 nodes are available: "
    )
    found = cluster(node("a", cpu="1"))
    found.deadlines.now = START
    (row,) = plan.place(found, [("pod", pods[2])])
    assert row.node == "a"
    assert row.why == f"the deadline {rfc3339(START + 60)} cannot be met: earliest {rfc3339(START + 300)}"


def test_who_gives_way_is_told() -> None:
    found = cluster(node("a", cpu="2"), node("b", cpu="1"))
    for name, cpu, where in (("one", "1", "a"), ("two", "1", "a"), ("three", "1", "b")):
        on(found, pod(name, cpu, priority=1), where)
    rows = plan.place(found, [("pod", pod("high", "2", priority=9)), ("pod", pod("late", "2", priority=5))])
    assert (rows[0].node, sorted(rows[0].evicts)) == ("a", ["d/one", "d/two"])
    assert rows[0].why == "1 Insufficient cpu"
    assert (rows[1].node, rows[1].evicts) == ("", [])


def test_a_stateful_set_is_asked_about_with_its_claims_as_volumes() -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    template = {"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": mounts}]}}
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    spec = {"replicas": 2, "selector": {}, "template": template, "volumeClaimTemplates": [claim]}
    found = workloads.workload_of({"kind": "StatefulSet", "metadata": {"name": "db", "namespace": "d"}, "spec": spec})
    assert found is not None
    (volume,) = workloads.prototype(found)["spec"]["volumes"]
    assert volume["name"] == "data" and "persistentVolumeClaim" in volume


def gang(count: int, cpu: str, minimum: int) -> list[tuple[str, Object]]:
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
    pods = [pod(f"g{number}", cpu, labels=labels, priority=5) for number in range(count)]
    for one in pods:
        one["metadata"]["annotations"] = {"pod-group.scheduling.sigs.k8s.io/min-available": str(minimum)}
    return [("pod", one) for one in pods]


def test_a_gang_goes_as_a_whole_or_not_at_all() -> None:
    both = (node("a", cpu="2"), node("b", cpu="2"))
    assert {one.node for one in plan.place(cluster(*both), gang(4, "1", 4))} == {"a", "b"}
    rows = plan.place(cluster(*both), [*gang(5, "1", 5), ("pod", pod("alone", "1"))])
    assert [one.node for one in rows] == ["", "", "", "", "", "a"]
    assert "is larger than the cluster" in rows[0].why
    rows = plan.place(cluster(*both), gang(3, "1", 4))
    assert [one.node for one in rows] == ["", "", ""] and rows[0].why
    full = cluster(*both)
    on(full, pod("small", "1", priority=1), "a")
    rows = plan.place(full, gang(4, "1", 4))
    assert all(one.node for one in rows) and [one.evicts for one in rows if one.evicts] == [["d/small"]]


def test_gated_pods_wait() -> None:
    (row,) = plan.place(cluster(node("a")), [("pod", pod("p", schedulingGates=[{"name": "g"}]))])
    assert (row.node, row.why) == ("", "Scheduling is blocked due to non-empty scheduling gates")


def test_the_numbers_are_those_of_the_explanation() -> None:
    found = cluster(node("a", cpu="2"), node("b", cpu="8"), node("c", cpu="1"), node("d", unschedulable=True))
    obj = pod("p", "1500m", "1Gi")
    explained = found.explain(found.read_pod(obj))
    assert [(one.node, one.fits) for one in explained.verdicts] == [
        ("b", True),
        ("a", True),
        ("c", False),
        ("d", False),
    ]
    best, second, *others = explained.verdicts
    assert best.scores["NodeResourcesFit"] == pytest.approx(100 * (1 - 1.5 / 8 + 1 - 1 / 8) / 2)
    assert best.scores["TaintToleration"] == 100
    assert best.total == pytest.approx(sum(explained.weights[name] * score for name, score in best.scores.items()))
    assert [one.rejected_by for one in others] == [
        {"NodeResourcesFit": ["Insufficient cpu"]},
        {"NodeUnschedulable": ["node(s) were unschedulable"]},
    ]
    (row,) = plan.place(found, [("pod", obj)])
    assert (row.node, round(row.score, 6)) == ("b", round(best.total, 6))
    assert f"1 scored less (next: a, {second.total:.1f})" in row.why


def test_a_node_is_said_to_be_rejected_by_every_filter_that_does() -> None:
    found = cluster(node("a", cpu="1", unschedulable=True, taints=[("k", "v", "NoExecute")]))
    (verdict,) = found.explain(found.read_pod(pod("p", "2", "16Gi", nodeSelector={"x": "y"}))).verdicts
    assert verdict.rejected_by == {
        "NodeUnschedulable": ["node(s) were unschedulable"],
        "TaintToleration": ["node(s) had untolerated taint(s)"],
        "NodeAffinity": ["node(s) didn't match Pod's node affinity/selector"],
        "NodeResourcesFit": ["Insufficient cpu", "Insufficient memory"],
    }
    assert verdict.first_reasons == ["node(s) were unschedulable"]


@pytest.mark.parametrize(
    ("kind", "spec", "count"),
    [
        ("Deployment", {}, 1),
        ("StatefulSet", {"replicas": 0}, 0),
        ("Job", {"parallelism": 4, "completions": 3}, 3),
        ("Job", {"parallelism": 4}, 4),
        ("CronJob", {"jobTemplate": {"spec": {"parallelism": 2, "template": {"spec": {}}}}}, 2),
    ],
)
def test_how_many_pods_a_workload_has(kind: str, spec: Object, count: int) -> None:
    made = workloads.workload_of({"kind": kind, "metadata": {"name": "x"}, "spec": {"template": {"spec": {}}} | spec})
    assert made is not None
    assert made.count == count


def test_what_has_no_pods() -> None:
    assert workloads.workload_of({"kind": "Service", "metadata": {"name": "x"}, "spec": {}}) is None
    with pytest.raises(ValueError, match="Deployment x has no pod template"):
        workloads.workload_of({"kind": "Deployment", "metadata": {"name": "x"}, "spec": {}})


def test_a_stateful_set_brings_its_claims() -> None:
    obj = deployment(2) | {"kind": "StatefulSet"}
    obj["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]
    made = workloads.workload_of(obj)
    assert made is not None
    names = [one["metadata"]["name"] for one in workloads.claims_of(made, "fast")]
    assert names == ["data-web-0", "data-web-1"]
    first, second = workloads.pods_of(made, workloads.prototype(made))
    assert first["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}]
    assert second["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "data-web-1"


def test_which_pods_are_a_workload_s() -> None:
    made = workloads.workload_of(deployment(1))
    assert made is not None

    def one(name: str, kind: str, owner: str, app: str = "web", namespace: str = "d") -> Object:
        obj = pod(name, labels={"app": app}, namespace=namespace, owner=owner)
        obj["metadata"]["ownerReferences"][0] |= {"kind": kind, "name": owner}
        return obj

    assert workloads.belongs(made, one("p", "ReplicaSet", "web-abc"))
    assert not workloads.belongs(made, one("p", "ReplicaSet", "webby-abc"))
    assert not workloads.belongs(made, one("p", "StatefulSet", "web"))
    assert not workloads.belongs(made, one("p", "ReplicaSet", "web-abc", app="db"))
    assert not workloads.belongs(made, one("p", "ReplicaSet", "web-abc", namespace="e"))
    assert not workloads.belongs(made, pod("web-abc", labels={"app": "web"}))


def on(found: Cluster, obj: Object, name: str) -> Object:
    obj["spec"]["nodeName"] = name
    found.on_pod(found.read_pod(obj))
    return obj


def owned(name: str, kind: str, cpu: str = "1", **more: object) -> Object:
    obj = pod(name, cpu, owner="o", **more)
    obj["metadata"]["ownerReferences"][0] |= {"kind": kind, "name": "o"}
    return obj


def test_a_drained_node_s_pods_go_elsewhere() -> None:
    found = cluster(node("a", cpu="8"), node("b", cpu="3"), node("c", cpu="2"))
    on(found, pod("neighbour", "1"), "b")
    mirror = pod("static")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    pods = [
        on(found, one, "a")
        for one in (
            owned("web-1", "ReplicaSet", "2", labels={"app": "web"}),
            owned("web-2", "ReplicaSet", "2", labels={"app": "web"}),
            owned("web-3", "ReplicaSet", "2", labels={"app": "web"}),
            owned("agent", "DaemonSet"),
            mirror,
            pod("lone", volumes=[{"name": "x", "emptyDir": {}}]),
            owned("done", "Job", phase="Succeeded"),
        )
    ]
    budget = {
        "metadata": {"name": "web", "namespace": "d", "uid": "b"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": 1},
    }
    moved = plan.drain(found, "a", pods, [budget])

    def line(one: Moved) -> tuple[str, str, str]:
        return one.planned.name, one.planned.node or "-", one.note

    waits = "waits for PodDisruptionBudget web"
    assert [line(one) for one in moved] == [
        ("web-1", "b", ""),
        ("web-2", "c", waits),
        ("web-3", "-", waits),
        ("agent", "-", "stays: of a DaemonSet"),
        ("static", "-", "stays: a static pod"),
        ("lone", "-", "gone for good: no controller makes it anew, loses its emptyDir"),
    ]
    assert moved[0].planned.why.startswith("1 node(s) were unschedulable, 1 scored ")
    assert moved[2].planned.why.startswith("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.")
    assert [one.comes_back for one in moved] == [True, True, True, False, False, False]


def test_a_daemon_s_pods_are_for_nodes_that_its_labels_and_taints_allow() -> None:
    obj = deployment(1) | {"kind": "DaemonSet"}
    obj["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}
    made = workloads.workload_of(obj)
    assert made is not None
    template = workloads.tolerant(made, workloads.prototype(made))
    found = cluster(node("a", labels={"disk": "ssd"}, unschedulable=True), node("b"), node("c", labels={"disk": "ssd"}))
    verdicts = found.explain(found.read_pod(template)).verdicts
    nodes = sorted(one.node for one in verdicts if "NodeAffinity" not in one.rejected_by)
    assert nodes == ["a", "c"]
    rows = plan.place(found, [("d", workloads.daemon(template, name, n)) for n, name in enumerate(nodes)])
    assert [(one.name, one.node) for one in rows] == [("web-0", "a"), ("web-1", "c")]

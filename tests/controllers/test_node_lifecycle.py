"""Node life cycle, taint eviction and pod garbage collection on a virtual clock."""

import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.base.clock import rfc3339
from raykube.controllers.core import conditions, kinds, taints
from raykube.controllers.core.node_lifecycle import NodeLifecycleController
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pod_gc import PodGarbageCollector
from raykube.controllers.core.replicaset import ReplicaSetController
from raykube.controllers.core.taint_eviction import TaintEvictionController
from raykube.controllers.core.zones import FULL, NORMAL, PARTIAL, Zones
from tests.controllers.model import Cluster, Running, set_pod, template

TOLERATIONS = [
    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for key in (taints.NOT_READY, taints.UNREACHABLE)
]


def add_node(cluster: Cluster, name: str, zone: str = "a", ready: str = "True") -> None:
    stamp = rfc3339(cluster.now)
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
    node = {
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {},
        "status": {"conditions": [condition]},
    }
    cluster.add(kinds.NODES, node)
    cluster.add(kinds.LEASES, {"metadata": {"name": name, "namespace": kinds.NODE_LEASE_NAMESPACE}, "spec": {}})
    renew(cluster, name)


def renew(cluster: Cluster, *names: str) -> None:
    for name in names:
        stamp = f"{cluster.now:.6f}"
        cluster.change(
            kinds.LEASES, name, lambda lease, s=stamp: lease["spec"].update(renewTime=s), kinds.NODE_LEASE_NAMESPACE
        )


def pod(cluster: Cluster, name: str, node: str, **spec: Any) -> None:
    cluster.add(
        kinds.PODS,
        {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "tolerations": TOLERATIONS, **spec},
        },
    )
    cluster.change(kinds.PODS, name, set_pod("Running", True, cluster.now))


def get(cluster: Cluster, resource: str, name: str) -> Obj:
    found = cluster.get(resource, "" if resource == kinds.NODES else "default", name)
    assert found is not None
    return found


def ready(cluster: Cluster, name: str) -> str:
    condition = conditions.find(get(cluster, kinds.NODES, name)["status"]["conditions"], "Ready")
    assert condition is not None
    return str(condition["status"])


def effects(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    return {(taint["key"], taint["effect"]) for taint in taints.taints_of(get(cluster, kinds.NODES, name))}


def start(cluster: Cluster, *more: Any, zones: Zones | None = None) -> Running:
    running = Running(cluster, [NodeLifecycleController(zones=zones), TaintEvictionController(), *more])
    running.start()
    running.run()
    return running


def live(cluster: Cluster, running: Running, seconds: int, *living: str) -> None:
    """Time passes; the living nodes renew their leases every 10 s."""
    for _ in range(seconds // 10):
        running.advance(10)
        renew(cluster, *living)
        running.run()


def test_a_lost_node_is_not_ready_after_its_grace_and_evicted_at_300_s() -> None:
    cluster = Cluster()
    for name in ("one", "two", "three"):
        add_node(cluster, name)
    pod(cluster, "web", "one")
    running = start(cluster)
    live(cluster, running, 100, "one", "two", "three")
    assert ready(cluster, "one") == "True" and not effects(cluster, "one")
    live(cluster, running, 40, "two", "three")
    assert ready(cluster, "one") == "True", "not before 40 s"
    live(cluster, running, 10, "two", "three")
    assert ready(cluster, "one") == "Unknown" and ready(cluster, "two") == "True"
    assert effects(cluster, "one") == {(taints.UNREACHABLE, "NoSchedule"), (taints.UNREACHABLE, "NoExecute")}
    condition = conditions.find(get(cluster, kinds.PODS, "web")["status"]["conditions"], "Ready")
    assert condition is not None and condition["status"] == "False", "Services stop sending to it"
    live(cluster, running, 290, "two", "three")
    assert "deletionTimestamp" not in get(cluster, kinds.PODS, "web")["metadata"]
    live(cluster, running, 10, "two", "three")
    lost = get(cluster, kinds.PODS, "web")
    assert lost["metadata"]["deletionTimestamp"]
    assert conditions.is_true(lost["status"]["conditions"], "DisruptionTarget")
    assert any(event.reason == "TaintManagerEviction" for event in cluster.events)


def test_deadlines_fall_on_whole_monitor_periods() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    controller = NodeLifecycleController(50.0, period_s=7.0)
    for seconds in (0.0, 1.0, 3.5):
        now = cluster.now + seconds
        plan = controller.reconcile(cluster, "one", now)
        assert plan.requeue_after is not None
        due = now + plan.requeue_after
        assert math.isclose(due / 7.0, round(due / 7.0)) and 0 <= due - (cluster.now + 50.0) < 7.0


def test_pods_of_a_lost_node_are_replaced() -> None:
    cluster = Cluster()
    for name in ("one", "two", "three"):
        add_node(cluster, name)
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template({"app": "web"})}
    cluster.add(kinds.REPLICA_SETS, {"metadata": {"name": "web"}, "spec": spec})
    running = start(cluster, ReplicaSetController())
    (created,) = cluster.all(kinds.PODS)
    name = created["metadata"]["name"]
    cluster.change(kinds.PODS, name, lambda obj: obj["spec"].update(nodeName="one", tolerations=TOLERATIONS))
    cluster.change(kinds.PODS, name, set_pod("Running", True, cluster.now))
    live(cluster, running, 360, "two", "three")
    pods = cluster.all(kinds.PODS)
    assert len(pods) == 2 and get(cluster, kinds.PODS, name)["metadata"]["deletionTimestamp"]


def test_a_node_that_comes_back_keeps_its_pods() -> None:
    cluster = Cluster()
    for name in ("one", "two", "three"):
        add_node(cluster, name)
    pod(cluster, "web", "one")
    running = start(cluster)
    live(cluster, running, 200, "two", "three")
    assert (taints.UNREACHABLE, "NoExecute") in effects(cluster, "one")
    stamp = rfc3339(cluster.now)
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
    cluster.change(kinds.NODES, "one", lambda node: node["status"].update(conditions=[condition]))
    live(cluster, running, 400, "one", "two", "three")
    assert not effects(cluster, "one")
    assert "deletionTimestamp" not in get(cluster, kinds.PODS, "web")["metadata"]


def test_a_node_that_says_it_is_not_ready() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    add_node(cluster, "two", ready="False")
    running = start(cluster)
    running.run()
    assert effects(cluster, "two") == {(taints.NOT_READY, "NoSchedule"), (taints.NOT_READY, "NoExecute")}


def test_cordon_and_pressure_are_taints() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    running = start(cluster)
    pressure = {"type": "MemoryPressure", "status": "True"}

    def edit(node: Obj) -> None:
        node["spec"]["unschedulable"] = True
        node["spec"]["taints"] = [{"key": "own", "effect": "NoSchedule"}]
        node["status"]["conditions"].append(pressure)

    cluster.change(kinds.NODES, "one", edit)
    running.run()
    assert effects(cluster, "one") == {
        ("own", "NoSchedule"),
        (taints.UNSCHEDULABLE, "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    }
    cluster.change(kinds.NODES, "one", lambda node: node["spec"].pop("unschedulable"))
    running.run()
    assert (taints.UNSCHEDULABLE, "NoSchedule") not in effects(cluster, "one")


def test_renewals_cost_no_reconcile() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    running = start(cluster)
    calls = 0
    lifecycle = running.controllers[0]
    reconcile = lifecycle.reconcile

    def counted(view: Any, key: str, now: float) -> Any:
        nonlocal calls
        calls += key == "one"
        return reconcile(view, key, now)

    lifecycle.reconcile = counted  # type: ignore[method-assign]  # counting calls
    live(cluster, running, 1000, "one")
    assert calls <= 1000 / 40 + 2, "one look per grace period, not one per renewal"


def test_a_whole_cluster_that_is_lost_is_left_alone() -> None:
    cluster = Cluster()
    for number in range(4):
        add_node(cluster, f"node-{number}")
    running = start(cluster)
    running.advance(600)
    for number in range(4):
        assert ready(cluster, f"node-{number}") == "Unknown"
        assert (taints.UNREACHABLE, "NoExecute") not in effects(cluster, f"node-{number}")
    for number in range(3):
        stamp = rfc3339(cluster.now)
        back = {"type": "Ready", "status": "True", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        cluster.change(kinds.NODES, f"node-{number}", lambda node, c=back: node["status"].update(conditions=[c]))
    running.run()
    running.advance(15)
    assert (taints.UNREACHABLE, "NoExecute") in effects(cluster, "node-3"), "now it is only this one"


def test_nodes_that_were_lost_before_all_others_keep_their_pods_too() -> None:
    cluster = Cluster()
    for number in range(4):
        add_node(cluster, f"node-{number}")
    pod(cluster, "web", "node-0")
    running = start(cluster)
    live(cluster, running, 60, "node-1", "node-2", "node-3")
    assert (taints.UNREACHABLE, "NoExecute") in effects(cluster, "node-0")
    running.advance(600)
    assert (taints.UNREACHABLE, "NoExecute") not in effects(cluster, "node-0")
    assert "deletionTimestamp" not in get(cluster, kinds.PODS, "web")["metadata"]


def test_a_pod_that_comes_to_a_tainted_node_stays_as_long_as_it_tolerates_the_taint() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    taint = {"key": "maintenance", "effect": "NoExecute", "timeAdded": rfc3339(cluster.now)}
    cluster.change(kinds.NODES, "one", lambda node: node["spec"].update(taints=[taint]))
    running = start(cluster)
    live(cluster, running, 1000, "one")
    toleration = {"key": "maintenance", "operator": "Exists", "tolerationSeconds": 300}
    pod(cluster, "web", "one", tolerations=[toleration])
    live(cluster, running, 290, "one")
    assert "deletionTimestamp" not in get(cluster, kinds.PODS, "web")["metadata"]
    live(cluster, running, 20, "one")
    assert get(cluster, kinds.PODS, "web")["metadata"]["deletionTimestamp"]


def test_a_process_that_stood_still_takes_nobody_for_lost() -> None:
    cluster = Cluster()
    for name in ("one", "two", "three"):
        add_node(cluster, name)
    pod(cluster, "web", "one")
    running = start(cluster)
    live(cluster, running, 100, "one", "two", "three")
    cluster.now += 3600.0
    running.advance(5)
    assert ready(cluster, "one") == "True", "it was not listening"
    live(cluster, running, 100, "two", "three")
    assert ready(cluster, "one") == "Unknown" and ready(cluster, "two") == "True"


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_hides_no_loss(step_s: float) -> None:
    cluster = Cluster()
    for name in ("one", "two"):
        add_node(cluster, name)
    lifecycle = NodeLifecycleController()
    view, now = cluster, cluster.now
    for name in ("one", "two"):
        list(lifecycle.observe(view, kinds.NODES, None, get(cluster, kinds.NODES, name), now))
    for _ in range(9):
        now += 5.0
        lifecycle.reconcile(view, "", now)
    now += step_s
    found = lifecycle.reconcile(view, "one", now)
    assert not found.writes and found.requeue_after is not None and 0 < found.requeue_after <= 10
    for _ in range(2):
        now += 5.0
        lifecycle.reconcile(view, "", now)
    assert any(write.subresource == "status" for write in lifecycle.reconcile(view, "one", now).writes)


def test_evictions_are_slow() -> None:
    """Ten lost nodes in a large healthy zone: one every 10 s."""
    cluster = Cluster()
    living = [f"node-{number}" for number in range(30)]
    lost = [f"lost-{number}" for number in range(10)]
    for name in living + lost:
        add_node(cluster, name)
    running = start(cluster)
    live(cluster, running, 50, *living)
    counts = []
    for _ in range(10):
        counts.append(sum((taints.UNREACHABLE, "NoExecute") in effects(cluster, name) for name in lost))
        live(cluster, running, 10, *living)
    assert counts == list(range(1, 11))


@pytest.mark.parametrize(
    ("ready_count", "lost", "state", "rate"),
    [
        (3, 1, NORMAL, 0.1),
        (1, 2, NORMAL, 0.1),
        (2, 3, PARTIAL, 0.0),
        (20, 40, PARTIAL, 0.01),
        (0, 3, FULL, 0.1),
    ],
)
def test_zone_rates(ready_count: int, lost: int, state: str, rate: float) -> None:
    zones = Zones()
    zones.put("elsewhere", "b", True)
    for number in range(ready_count + lost):
        zones.put(f"n{number}", "a", number < ready_count)
    assert (zones.state_of("a"), zones.rate_of("a")) == (state, rate)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=40))
def test_zones_count_what_is_there(steps: list[tuple[int, str, bool, bool]]) -> None:
    zones = Zones()
    twin: dict[str, tuple[str, bool]] = {}
    for number, zone, ok, gone in steps:
        name = f"n{number}"
        if gone:
            zones.remove(name)
            twin.pop(name, None)
        else:
            zones.put(name, zone, ok)
            twin[name] = (zone, ok)
        assert sorted(zones.lost()) == sorted(each for each, (_, fine) in twin.items() if not fine)
        for each in "ab":
            present = [fine for place, fine in twin.values() if place == each]
            assert (zones.state_of(each) == FULL) == (bool(present) and not any(present))


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], float("-inf")),
        ([{"key": "k", "operator": "Exists"}], None),
        ([{"key": "k", "value": "v", "effect": "NoExecute"}], None),
        ([{"key": "k", "value": "other"}], float("-inf")),
        ([{"operator": "Exists", "tolerationSeconds": 7}], 107.0),
        ([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}], float("-inf")),
        ([{"operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 5}], 105.0),
    ],
)
def test_when_a_pod_has_to_leave(tolerations: list[Obj], expected: float | None) -> None:
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    assert taints.leaves_at({"spec": {"tolerations": tolerations}}, [taint], lambda _: 100.0) == expected


def test_pods_of_a_removed_node_go_after_quarantine() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    pod(cluster, "web", "one")
    running = Running(cluster, [PodGarbageCollector(0)])
    running.start()
    running.run()
    cluster.remove(kinds.NODES, "one")
    running.advance(39)
    assert get(cluster, kinds.PODS, "web")["status"]["phase"] == "Running"
    running.advance(2)
    assert not cluster.all(kinds.PODS)


def test_pods_of_a_removed_node_are_told_why_they_go() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    pod(cluster, "web", "one")
    cluster.change(kinds.PODS, "web", lambda each: each["metadata"].update(finalizers=["example.com/watched"]))
    running = Running(cluster, [PodGarbageCollector(0)])
    running.start()
    cluster.remove(kinds.NODES, "one")
    running.advance(41)
    status = get(cluster, kinds.PODS, "web")["status"]
    target = conditions.find(status["conditions"], "DisruptionTarget")
    assert target is not None and status["phase"] == "Failed"
    assert (target["reason"], target["message"]) == ("DeletionByPodGC", "PodGC: node no longer exists")


@pytest.mark.parametrize("node_ready", [True, False])
def test_pods_that_end_on_a_node_out_of_service_go_where_it_does_not_report(node_ready: bool) -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    pod(cluster, "web", "one")
    cluster.change(kinds.PODS, "web", lambda each: each["metadata"].update(finalizers=["example.com/watched"]))
    running = Running(cluster, [PodGarbageCollector(0)])
    running.start()
    cluster.remove(kinds.PODS, "web")
    running.run()
    shown = [{"type": "Ready", "status": "True" if node_ready else "Unknown"}]
    taint = {"key": taints.OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
    cluster.change(kinds.NODES, "one", lambda node: node.update(spec={"taints": [taint]}, status={"conditions": shown}))
    running.run()
    status = get(cluster, kinds.PODS, "web")["status"]
    assert status["phase"] == ("Running" if node_ready else "Failed")
    assert conditions.find(status.get("conditions"), "DisruptionTarget") is None, "its deletion was somebody's wish"


def test_a_node_that_was_only_replaced_keeps_its_pods() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    pod(cluster, "web", "one")
    running = Running(cluster, [PodGarbageCollector(0)])
    running.start()
    node = get(cluster, kinds.NODES, "one")
    cluster.vanish(kinds.NODES, node)
    running.advance(20)
    cluster.add(kinds.NODES, {"metadata": {"name": "one"}, "spec": {}})
    running.advance(100)
    assert get(cluster, kinds.PODS, "web")["status"]["phase"] == "Running"


def test_ended_pods_beyond_the_threshold_go_oldest_first() -> None:
    cluster = Cluster()
    add_node(cluster, "one")
    for number in range(6):
        cluster.now += 10
        pod(cluster, f"p{number}", "one")
        cluster.change(kinds.PODS, f"p{number}", set_pod("Succeeded", False, cluster.now))
    running = Running(cluster, [PodGarbageCollector(4)])
    running.start()
    running.run()
    assert sorted(each["metadata"]["name"] for each in cluster.all(kinds.PODS)) == ["p2", "p3", "p4", "p5"]


def test_more_ended_pods_than_go_in_one_step_go_in_several() -> None:
    cluster = Cluster()
    for number in range(20):
        cluster.add(kinds.PODS, {"metadata": {"name": f"p{number}"}, "spec": {}, "status": {"phase": "Succeeded"}})
    with patch("raykube.controllers.core.pod_gc.BURST", 4):
        cluster.settle(PodGarbageCollector(5))
    assert len(cluster.all(kinds.PODS)) == 5


def test_events_tell_of_nodes_that_come_go_and_stop_answering() -> None:
    cluster = Cluster()
    running = Running(cluster, [NodeLifecycleController()])
    add_node(cluster, "n1")
    add_node(cluster, "n2", ready="False")
    running.advance(30)
    renew(cluster, "n1", "n2")
    running.advance(200)
    cluster.remove(kinds.NODES, "n1")
    running.advance(10)
    cluster.remove(kinds.LEASES, "n1", kinds.NODE_LEASE_NAMESPACE)
    add_node(cluster, "n1")
    running.advance(10)
    found = [(event.about["metadata"]["name"], event.reason, event.message) for event in cluster.events]
    registered = ("n1", "RegisteredNode", "Node n1 event: Registered Node n1 in Controller")
    assert sorted(found) == sorted(
        [
            registered,
            ("n2", "RegisteredNode", "Node n2 event: Registered Node n2 in Controller"),
            ("n1", "NodeNotReady", "Node n1 status is now: NodeNotReady"),  # n2 was not ready before
            ("n1", "RemovingNode", "Node n1 event: Removing Node n1 from Controller"),
            registered,
        ]
    )

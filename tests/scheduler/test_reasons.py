"""The words on a pod that fits nowhere: upstream's, exactly."""

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.filters.dynamic_resources import DynamicResources
from raykube.scheduler.core.profile import Profile
from tests.scheduler.objects import Object, affinity, expression, node, pod, pod_affinity, pod_term, spread


def cluster(*nodes: Object) -> Cluster:
    made = Cluster()
    for item in nodes:
        made.on_node(item)
    return made


def message(found: Cluster, obj: Object) -> str:
    result = found.schedule(found.read_pod(obj))
    assert isinstance(result, Diagnosis), result
    return result.message


def place(found: Cluster, obj: Object) -> str:
    result = found.schedule(found.read_pod(obj))
    assert isinstance(result, Placement), result
    return result.node


def test_no_nodes() -> None:
    assert message(cluster(), pod("p")) == "no nodes available to schedule pods"


def test_insufficient_and_untolerated() -> None:
    control = [("node-role.kubernetes.io/control-plane", "", "NoSchedule")]
    found = cluster(node("a", taints=control), node("b", cpu="2"), node("c", cpu="1", memory="1Gi"))
    place(found, pod("x", "1500m"))
    assert message(found, pod("p", "1900m", "2Gi")) == (
        "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), "
        "2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: "
        "1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    )


def test_what_could_never_fit_is_not_helped_by_preemption() -> None:
    found = cluster(node("a"), node("b"), node("c"))
    assert message(found, pod("p", "5")) == (
        "0/3 nodes are available: 3 Insufficient cpu. "
        "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )


def test_extended_resources_and_too_many_pods() -> None:
    found = cluster(node("a", extra={"nvidia.com/gpu": "1"}), node("b", pods="0"))
    assert place(found, pod("x", extra={"nvidia.com/gpu": "1"})) == "a"
    assert message(found, pod("p", extra={"nvidia.com/gpu": "1"})) == (
        "0/2 nodes are available: 1 Too many pods, 2 Insufficient nvidia.com/gpu. "
        "no new claims to deallocate, preemption: 0/2 nodes are available: "
        "1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling."
    )


def test_cordoned_selector_ports_and_never_preempting() -> None:
    found = cluster(node("a", unschedulable=True), node("b"), node("c", labels={"disk": "ssd"}))
    place(found, pod("x", nodeSelector={"disk": "ssd"}, ports=[80]))
    assert message(found, pod("p", nodeSelector={"disk": "ssd"}, ports=[80], preemptionPolicy="Never")) == (
        "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, "
        "1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable. "
        "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
    )


def test_a_pod_for_one_node() -> None:
    found = cluster(node("a", taints=[("k", "v", "NoExecute")]), node("b"), node("c"))
    wanted = affinity([expression("metadata.name", "In", "a")], fields=True)
    assert message(found, pod("p", affinity=wanted)) == (
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), "
        "2 node(s) didn't satisfy plugin(s) [NodeAffinity]. "
        "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )
    assert place(found, pod("q", affinity=wanted, tolerations=[{"operator": "Exists"}])) == "a"


def test_spreading() -> None:
    found = cluster(node("a", labels={"zone": "1"}), node("b", labels={"zone": "2"}, cpu="0"), node("c"))
    constraints = [spread("zone", 1, {"app": "web"})]
    web = {"labels": {"app": "web"}, "topologySpreadConstraints": constraints}
    assert place(found, pod("x", "1", **web)) == "a"
    assert message(found, pod("p", "1", **web)) == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints, "
        "1 node(s) didn't match pod topology spread constraints (missing required label). "
        "no new claims to deallocate, preemption: 0/3 nodes are available: "
        "1 No preemption victims found for incoming pod, "
        "2 Preemption is not helpful for scheduling."
    )


def test_pods_that_need_or_avoid_each_other() -> None:
    found = cluster(*(node(name, labels={"zone": zone}) for name, zone in (("a", "1"), ("b", "1"), ("c", "2"))))
    lonely = {"labels": {"app": "db"}, "affinity": pod_affinity(away=[pod_term("zone", {"app": "db"})])}
    near = {"affinity": pod_affinity(near=[pod_term("zone", {"app": "db"})])}
    not_helpful = (
        "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )
    no_victims = (
        "no new claims to deallocate, preemption: 0/3 nodes are available: "
        "3 No preemption victims found for incoming pod."
    )
    assert message(found, pod("early", **near)) == (
        f"0/3 nodes are available: 3 node(s) didn't match pod affinity rules. {not_helpful}"
    )
    zones = {"a": "1", "b": "1", "c": "2"}
    first = zones[place(found, pod("x", **lonely))]
    assert zones[place(found, pod("y", **near))] == first
    assert {first, zones[place(found, pod("z", **lonely))]} == {"1", "2"}
    assert message(found, pod("p", **lonely)) == (
        f"0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. {no_victims}"
    )
    assert message(found, pod("q", labels={"app": "db"})) == (
        f"0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules. {no_victims}"
    )


def test_nothing_is_said_of_victims_where_pods_of_lower_priority_run() -> None:
    found = cluster(node("a"), node("b", cpu="1"))
    place(found, pod("x", "4", priority=1))
    assert message(found, pod("p", "4", priority=1)) == (
        "0/2 nodes are available: 2 Insufficient cpu. "
        "no new claims to deallocate, preemption: 0/2 nodes are available: "
        "1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    )
    assert message(found, pod("q", "4", priority=2)) == "0/2 nodes are available: 2 Insufficient cpu."


def test_a_constraint_on_no_pods_is_not_one_on_all_pods() -> None:
    found = cluster(node("a", labels={"zone": "1"}), node("b", labels={"zone": "2"}, cpu="0"))
    everything = spread("zone", 1, {})
    nothing = {key: value for key, value in everything.items() if key != "labelSelector"}
    place(found, pod("x", "1", topologySpreadConstraints=[everything]))
    place(found, pod("y", "1", topologySpreadConstraints=[nothing]))
    assert "topology spread" in message(found, pod("z", "1", topologySpreadConstraints=[everything]))
    place(found, pod("w", "1", topologySpreadConstraints=[nothing]))


def test_the_first_of_a_group_may_start_when_its_like_run_only_outside_all_domains() -> None:
    found = cluster(node("a"))
    place(found, pod("x", labels={"app": "db"}))
    found.on_node(node("b", labels={"zone": "1"}))
    near = {"affinity": pod_affinity(near=[pod_term("zone", {"app": "db"})])}
    assert isinstance(found.schedule(found.read_pod(pod("web", **near))), Diagnosis)
    assert place(found, pod("y", labels={"app": "db"}, **near)) == "b"
    assert place(found, pod("web", **near)) == "b"


def test_a_pod_that_waits_for_devices_runs_nowhere_without_them() -> None:
    found = cluster(node("a"), node("b", unschedulable=True))
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "mine"}]}
    assert message(found, pod("p", **claims)) == (
        '0/2 nodes are available: could not find ResourceClaim "d/mine". '
        "still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    )
    assert place(found, pod("q")) == "a"
    without = Cluster([Profile(filters=tuple(one for one in FILTERS if one is not DynamicResources))])
    without.on_node(node("a"))
    assert place(without, pod("p", **claims)) == "a", "the operator may take it away"


def test_without_default_preemption_nobody_leaves_and_nothing_is_said_of_it() -> None:
    for preempts in (True, False):
        found = Cluster([Profile(preempts=preempts)])
        found.on_node(node("a"))
        place(found, pod("x", "4", priority=1))
        verdict = found.schedule(found.read_pod(pod("p", "4", priority=9)))
        assert isinstance(verdict, Diagnosis)
        assert (verdict.eviction is not None) is preempts
        tail = "" if preempts else " no new claims to deallocate"
        assert verdict.message == f"0/1 nodes are available: 1 Insufficient cpu.{tail}"


def test_what_was_said_is_not_said_again_once_a_namespace_has_other_labels() -> None:
    found = cluster(node("a", labels={"zone": "1"}))
    db = found.read_pod(pod("db", labels={"app": "db"}, namespace="e", nodeName="a"))
    found.on_pod(db)
    term = pod_term("zone", {"app": "db"}, namespaceSelector={"matchLabels": {"team": "1"}})
    wanted = pod("p", affinity=pod_affinity(near=[term]))
    assert "didn't match pod affinity rules" in message(found, wanted)
    assert "didn't match pod affinity rules" in message(found, wanted)
    found.on_namespace("e", {"team": "1"})
    assert place(found, wanted) == "a"

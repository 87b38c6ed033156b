"""daemonset-controller on the model cluster."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.core import daemonset, kinds, pods
from raykube.controllers.core.daemon_pods import GENERATION, with_tolerations
from raykube.controllers.core.daemonset import DaemonSetController
from tests.controllers.model import Cluster, Crash, Running, set_pod, template

LABELS = {"app": "agent"}
HASH = "controller-revision-hash"
NODES = ("a", "b", "c")


def daemon_set(image: str = "agent:1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": LABELS}, "template": template(LABELS, image), **spec},
    }


def rolling(**limits: Any) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": limits}


def add_node(cluster: Cluster, name: str, **spec: Any) -> None:
    cluster.add(kinds.NODES, {"metadata": {"name": name, "labels": {"host": name}}, "spec": spec, "status": {}})


def cluster_of(*names: str) -> Cluster:
    cluster = Cluster()
    for name in names or NODES:
        add_node(cluster, name)
    return cluster


def run(cluster: Cluster) -> Running:
    running = Running(cluster, [DaemonSetController()])
    running.start()
    running.run()
    return running


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(kinds.DAEMON_SETS, "default", "agent")
    assert found is not None
    return dict(found["status"])


def images(cluster: Cluster) -> list[str]:
    """node=image of the pods that stay."""
    return sorted(
        f"{pods.target_node(pod)}={pod['spec']['containers'][0]['image']}"
        for pod in cluster.all(kinds.PODS)
        if pods.is_active(pod)
    )


def work(cluster: Cluster, *, ready: bool = True, only: str = "") -> int:
    """A pass of scheduler and kubelets: pods are bound where they are meant to be, run, and end when deleted."""
    changed = 0
    for pod in cluster.all(kinds.PODS):
        name, node = pod["metadata"]["name"], pods.target_node(pod)
        if only and node != only:
            continue
        if pods.is_terminating(pod):
            cluster.vanish(kinds.PODS, pod)
            changed += 1
        elif pods.phase(pod) == "Pending":
            cluster.change(kinds.PODS, name, lambda obj, node=node: obj["spec"].update(nodeName=node))
            cluster.change(kinds.PODS, name, set_pod("Running", ready, cluster.now))
            changed += 1
    return changed


def end(cluster: Cluster, pod: dict[str, Any], phase: str) -> None:
    """The pod has run on its node and ended."""
    name = pod["metadata"]["name"]
    cluster.change(kinds.PODS, name, lambda obj: obj["spec"].update(nodeName=pods.target_node(obj)))
    cluster.change(kinds.PODS, name, set_pod(phase, False, cluster.now))


def settled(cluster: Cluster, running: Running) -> None:
    for _ in range(100):
        running.run()
        if not work(cluster):
            return
    raise AssertionError("never settles")


def set_image(cluster: Cluster, image: str) -> None:
    cluster.change(kinds.DAEMON_SETS, "agent", lambda obj: obj["spec"].update(template=template(LABELS, image)))


# -- one pod for each node


def test_one_pod_for_each_node_bound_by_its_name() -> None:
    cluster = cluster_of()
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    assert images(cluster) == ["a=agent:1", "b=agent:1", "c=agent:1"]
    pod = next(pod for pod in cluster.all(kinds.PODS) if pods.target_node(pod) == "b")
    assert pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]
    }
    (revision,) = cluster.all(kinds.CONTROLLER_REVISIONS)
    assert pod["metadata"]["labels"] == {**LABELS, HASH: revision["metadata"]["labels"][HASH]}
    assert revision["metadata"]["name"] == f"agent-{revision['metadata']['labels'][HASH]}" and revision["revision"] == 1
    assert status(cluster) == {
        "currentNumberScheduled": 3,
        "desiredNumberScheduled": 3,
        "numberMisscheduled": 0,
        "numberReady": 0,
        "numberUnavailable": 3,
        "observedGeneration": 1,
        "updatedNumberScheduled": 3,
    }
    settled(cluster, running)
    assert status(cluster)["numberAvailable"] == 3 and "numberUnavailable" not in status(cluster)
    assert sorted({event.message.split(":")[0] for event in cluster.events}) == ["Created pod"]


def test_nodes_come_and_go() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    settled(cluster, running)
    add_node(cluster, "d")
    running.run()
    assert images(cluster) == ["a=agent:1", "d=agent:1"]
    cluster.vanish(kinds.NODES, cluster.get(kinds.NODES, "", "d") or {})
    running.run()
    assert images(cluster) == ["a=agent:1"], "it was never bound: no one else deletes it"
    assert status(cluster)["desiredNumberScheduled"] == 1


def test_a_bound_pod_of_a_node_that_went_is_the_pod_garbage_collectors() -> None:
    cluster = cluster_of("a", "b")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    settled(cluster, running)
    cluster.vanish(kinds.NODES, cluster.get(kinds.NODES, "", "b") or {})
    running.run()
    assert images(cluster) == ["a=agent:1", "b=agent:1"]
    assert status(cluster)["currentNumberScheduled"] == 1 and status(cluster)["numberMisscheduled"] == 0


def test_no_two_pods_get_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five letters are few for thousands of nodes: here all nodes are given the same ones."""
    alike = daemonset.derived_names
    monkeypatch.setattr(daemonset, "derived_names", lambda prefix, state, taken: alike(prefix, "same", taken))
    cluster = cluster_of()
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    run(cluster)
    assert len(images(cluster)) == 3
    add_node(cluster, "d")
    run(cluster)
    assert len(images(cluster)) == 4


@pytest.mark.parametrize(
    ("taint", "there", "new"),
    [
        ({"key": "gpu", "effect": "NoSchedule"}, True, False),
        ({"key": "gpu", "effect": "NoExecute"}, False, False),
        ({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, True, True),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, True, True),
        ({"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}, True, False),
    ],
)
def test_taints_decide_who_comes_and_who_stays(taint: dict[str, str], there: bool, new: bool) -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    settled(cluster, running)
    cluster.change(kinds.NODES, "a", lambda node: node["spec"].update(taints=[taint]))
    add_node(cluster, "b", taints=[taint])
    running.run()
    assert images(cluster) == ["a=agent:1"] * there + ["b=agent:1"] * new
    assert status(cluster)["numberMisscheduled"] == (not new)


def test_selector_and_affinity_choose_nodes() -> None:
    cluster = cluster_of()
    body = daemon_set()
    body["spec"]["template"]["spec"]["nodeSelector"] = {"host": "b"}
    cluster.add(kinds.DAEMON_SETS, body)
    running = run(cluster)
    assert images(cluster) == ["b=agent:1"]
    cluster.change(kinds.NODES, "b", lambda node: node["metadata"].update(labels={"host": "x"}))
    cluster.change(kinds.NODES, "c", lambda node: node["metadata"].update(labels={"host": "b"}))
    running.run()
    assert images(cluster) == ["c=agent:1"]


def test_a_heartbeat_of_a_node_wakes_nobody() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    controller = DaemonSetController()
    cluster.settle(controller)
    before = cluster.get(kinds.NODES, "", "a")
    after = cluster.change(kinds.NODES, "a", lambda node: node["status"].update(conditions=[{"type": "Ready"}]))
    assert not list(controller.observe(cluster, kinds.NODES, before, after, cluster.now))


def test_a_change_of_one_pod_looks_at_one_node() -> None:
    cluster = cluster_of()
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    controller = DaemonSetController()
    running = Running(cluster, [controller])
    running.start()
    settled(cluster, running)
    looked: list[str] = []
    get = cluster.get

    def counting(resource: str, namespace: str, name: str) -> Any:
        if resource == kinds.NODES:
            looked.append(name)
        return get(resource, namespace, name)

    cluster.get = counting  # type: ignore[method-assign]
    name = next(pod["metadata"]["name"] for pod in cluster.all(kinds.PODS) if pods.target_node(pod) == "b")
    cluster.change(kinds.PODS, name, set_pod("Running", False, cluster.now))
    running.run()
    assert status(cluster)["numberReady"] == 2 and set(looked) == {"b"}


def test_tolerations_are_added_once() -> None:
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    other = {"key": "gpu", "operator": "Exists"}
    found = with_tolerations({"tolerations": [own, other], "hostNetwork": True})
    assert found[0] == {key: value for key, value in own.items() if key != "tolerationSeconds"}
    assert found[1] == other and len(found) == 8
    assert [each["key"].partition("/")[2] for each in found[2:]] == [
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
        "network-unavailable",
    ]
    assert len(with_tolerations({})) == 6


# -- pods that end


def test_failed_pods_come_back_after_longer_and_longer_waits() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    gone = []
    for _ in range(4):
        (pod,) = cluster.all(kinds.PODS)
        end(cluster, pod, "Failed")
        running.run()
        started = cluster.now
        while cluster.get(kinds.PODS, "default", pod["metadata"]["name"]) is not None and cluster.now < started + 60:
            running.advance(0.5)
        gone.append(cluster.now - started)
    assert gone == [0, 1, 2, 4]
    notes = [event for event in cluster.events if event.reason == "FailedDaemonPod"]
    assert len(notes) == 4
    assert notes[0].message.startswith("Found failed daemon pod default/agent-")
    assert notes[0].message.endswith(" on node a, will try to kill it")


def test_a_pod_that_ended_and_is_held_by_a_finalizer_leaves_room() -> None:
    cluster = cluster_of("a")
    body = daemon_set()
    body["spec"]["template"]["metadata"]["finalizers"] = ["example.com/keep"]
    cluster.add(kinds.DAEMON_SETS, body)
    running = run(cluster)
    (first,) = cluster.all(kinds.PODS)
    end(cluster, first, "Failed")
    running.run()
    held, second = cluster.all(kinds.PODS)
    assert held["metadata"]["deletionTimestamp"] and pods.is_active(second)


def test_succeeded_pods_come_back() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    (first,) = cluster.all(kinds.PODS)
    end(cluster, first, "Succeeded")
    running.run()
    (second,) = cluster.all(kinds.PODS)
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert any(event.reason == "SucceededDaemonPod" for event in cluster.events)


def test_refused_pods_are_an_event_and_come_later() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    cluster.refuse = lambda write: "exceeded quota: q" if write.resource == kinds.PODS else ""
    running = run(cluster)
    assert cluster.events[-1].reason == "FailedCreate" and cluster.events[-1].message == "Error creating: {error}"
    assert status(cluster)["desiredNumberScheduled"] == 1
    cluster.refuse = lambda write: ""
    running.advance(3)
    assert images(cluster) == ["a=agent:1"]


def test_adopts_releases_and_prunes() -> None:
    cluster = cluster_of("a", "b")
    for number, node in enumerate(("a", "a", "b")):
        body = {"metadata": {"name": f"orphan-{number}", "labels": LABELS}, "spec": {"nodeName": node}}
        cluster.add(kinds.PODS, body)
        cluster.now += 1
    cluster.add(kinds.DAEMON_SETS, daemon_set(updateStrategy={"type": "OnDelete"}))
    running = run(cluster)
    active = [pod["metadata"]["name"] for pod in cluster.all(kinds.PODS) if pods.is_active(pod)]
    assert sorted(active) == ["orphan-0", "orphan-2"], "the oldest of a node stays"
    cluster.change(kinds.PODS, "orphan-2", lambda pod: pod["metadata"].update(labels={"app": "other"}))
    running.run()
    released = cluster.get(kinds.PODS, "default", "orphan-2")
    assert released is not None and not released["metadata"].get("ownerReferences")
    assert status(cluster)["currentNumberScheduled"] == 2


def test_a_pod_that_changed_meanwhile_is_released_all_the_same() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    (made,) = cluster.all(kinds.PODS)
    name = made["metadata"]["name"]
    cluster.refuse = lambda write: "its kubelet was faster" if write.verb == "patch" and write.name == name else ""
    cluster.change(kinds.PODS, name, lambda pod: pod["metadata"].update(labels={"app": "other"}))
    running.advance(3)
    cluster.refuse = lambda write: ""
    cluster.change(kinds.PODS, name, lambda pod: pod.update(status={"hostIP": "10.0.0.1"}))
    running.advance(3)
    released = cluster.get(kinds.PODS, "default", name)
    assert released is not None and not released["metadata"].get("ownerReferences")


def test_one_being_deleted_is_left_to_the_garbage_collector() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    cluster.change(kinds.DAEMON_SETS, "agent", lambda obj: obj["metadata"].update(deletionTimestamp="now"))
    for pod in cluster.all(kinds.PODS):
        cluster.vanish(kinds.PODS, pod)
    running.run()
    assert not cluster.all(kinds.PODS)


# -- roll-outs


def steps_of(strategy: dict[str, Any], nodes: tuple[str, ...] = NODES, **spec: Any) -> list[tuple[int, int]]:
    """A roll-out, pass by pass: (pods that stay, available ones) at each."""
    cluster = cluster_of(*nodes)
    cluster.add(kinds.DAEMON_SETS, daemon_set(updateStrategy=strategy, **spec))
    running = run(cluster)
    settled(cluster, running)
    set_image(cluster, "agent:2")
    seen = []
    for _ in range(40):
        running.run()
        staying = [pod for pod in cluster.all(kinds.PODS) if pods.is_active(pod)]
        seen.append((len(staying), sum(map(pods.is_ready, staying))))
        if not work(cluster):
            break
    assert images(cluster) == [f"{node}=agent:2" for node in nodes]
    assert status(cluster)["updatedNumberScheduled"] == status(cluster)["numberAvailable"] == len(nodes)
    return seen


def test_at_most_max_unavailable_nodes_are_without() -> None:
    seen = steps_of(rolling(maxUnavailable=1, maxSurge=0))
    assert min(available for _, available in seen) == 2 and max(staying for staying, _ in seen) == 3
    seen = steps_of(rolling(maxUnavailable="67%"))
    assert min(available for _, available in seen) == 0, "67% of three rounds up"


def test_at_most_max_surge_nodes_have_two() -> None:
    seen = steps_of(rolling(maxUnavailable=0, maxSurge=1))
    assert min(available for _, available in seen) == 3 and max(staying for staying, _ in seen) == 4


def test_a_template_that_does_not_start_takes_one_node_only() -> None:
    cluster = cluster_of()
    cluster.add(kinds.DAEMON_SETS, daemon_set(updateStrategy=rolling(maxUnavailable=1)))
    running = run(cluster)
    settled(cluster, running)
    set_image(cluster, "agent:broken")
    for _ in range(10):
        running.run()
        work(cluster, ready=False)
    assert sum("broken" in image for image in images(cluster)) == 1 and len(images(cluster)) == 3
    set_image(cluster, "agent:1")
    for _ in range(10):
        running.run()
        work(cluster)
    assert images(cluster) == ["a=agent:1", "b=agent:1", "c=agent:1"]


def test_min_ready_seconds_slow_it_down() -> None:
    cluster = cluster_of("a", "b")
    cluster.add(kinds.DAEMON_SETS, daemon_set(minReadySeconds=10, updateStrategy=rolling(maxUnavailable=1)))
    running = run(cluster)
    settled(cluster, running)
    assert "numberAvailable" not in status(cluster)
    running.advance(10)
    assert status(cluster)["numberAvailable"] == 2
    set_image(cluster, "agent:2")
    settled(cluster, running)
    assert sum("agent:2" in image for image in images(cluster)) == 1
    running.advance(9)
    settled(cluster, running)
    assert sum("agent:2" in image for image in images(cluster)) == 1
    running.advance(1)
    settled(cluster, running)
    assert sum("agent:2" in image for image in images(cluster)) == 2


def test_on_delete_waits_for_the_user() -> None:
    cluster = cluster_of("a", "b")
    cluster.add(kinds.DAEMON_SETS, daemon_set(updateStrategy={"type": "OnDelete"}))
    running = run(cluster)
    settled(cluster, running)
    set_image(cluster, "agent:2")
    settled(cluster, running)
    assert images(cluster) == ["a=agent:1", "b=agent:1"] and "updatedNumberScheduled" not in status(cluster)
    cluster.remove(kinds.PODS, next(p["metadata"]["name"] for p in cluster.all(kinds.PODS) if pods.node_name(p) == "b"))
    settled(cluster, running)
    assert images(cluster) == ["a=agent:1", "b=agent:2"]


def test_a_surge_keeps_enough_while_the_wanted_nodes_change() -> None:
    cluster = cluster_of("a", "b")
    body = daemon_set(updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    cluster.add(kinds.DAEMON_SETS, body)
    running = run(cluster)
    settled(cluster, running)
    cluster.change(kinds.NODES, "a", lambda n: n["spec"].update(taints=[{"key": "old", "effect": "NoSchedule"}]))
    set_image(cluster, "agent:2")
    settled(cluster, running)
    assert images(cluster) == ["b=agent:2"], "the pod on a goes: one available pod is all that is wanted"


# -- revisions


def history(cluster: Cluster) -> dict[int, str]:
    return {
        each["revision"]: each["data"]["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in cluster.all(kinds.CONTROLLER_REVISIONS)
    }


def test_an_old_template_gets_a_new_number() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set())
    running = run(cluster)
    for image in ("agent:2", "agent:1"):
        set_image(cluster, image)
        settled(cluster, running)
    assert history(cluster) == {2: "agent:2", 3: "agent:1"}


def test_history_is_limited_to_what_is_asked_for() -> None:
    cluster = cluster_of("a")
    cluster.add(kinds.DAEMON_SETS, daemon_set(revisionHistoryLimit=2))
    running = run(cluster)
    for number in range(2, 7):
        set_image(cluster, f"agent:{number}")
        settled(cluster, running)
    assert history(cluster) == {4: "agent:4", 5: "agent:5", 6: "agent:6"}


def test_a_taken_name_leads_to_another_hash() -> None:
    first = cluster_of("a")
    first.add(kinds.DAEMON_SETS, daemon_set())
    run(first)
    (revision,) = first.all(kinds.CONTROLLER_REVISIONS)
    second = cluster_of("a")
    taken = {"metadata": {"name": revision["metadata"]["name"]}, "revision": 7, "data": {}}
    second.add(kinds.CONTROLLER_REVISIONS, taken)
    second.add(kinds.DAEMON_SETS, daemon_set())
    run(second)
    assert status(second)["collisionCount"] == 1 and len(second.all(kinds.CONTROLLER_REVISIONS)) == 2
    assert images(second) == ["a=agent:1"]


def test_pods_of_the_present_generation_are_up_to_date() -> None:
    cluster = cluster_of("a")
    body = daemon_set()
    body["metadata"]["annotations"] = {GENERATION: "4"}
    labels = {**LABELS, "pod-template-generation": "4"}
    cluster.add(kinds.PODS, {"metadata": {"name": "orphan", "labels": labels}, "spec": {"nodeName": "a"}})
    cluster.add(kinds.DAEMON_SETS, body)
    run(cluster)
    assert status(cluster)["updatedNumberScheduled"] == 1


@given(
    changes=st.lists(
        st.sampled_from(["agent:1", "agent:2", "agent:3", "taint", "untaint", "add", "remove", "fail", "delete"]),
        min_size=1,
        max_size=5,
    ),
    crashes=st.lists(st.integers(0, 8), max_size=5),
    passes=st.lists(st.booleans(), max_size=5),
    surge=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_converges_whatever_crashes(changes: list[str], crashes: list[int], passes: list[bool], surge: bool) -> None:
    cluster = cluster_of()
    limits = {"maxUnavailable": 0, "maxSurge": 1} if surge else {"maxUnavailable": 1}
    cluster.add(kinds.DAEMON_SETS, daemon_set(updateStrategy=rolling(**limits)))
    for number, change in enumerate(changes):
        apply(cluster, change)
        cluster.writes_left = crashes[number] if number < len(crashes) else -1
        with contextlib.suppress(Crash):
            cluster.settle(DaemonSetController())
        if number < len(passes) and passes[number]:
            work(cluster)
    cluster.writes_left = -1
    running = run(cluster)
    for _ in range(30):
        running.advance(2)
        if not work(cluster):
            break
    wanted = (cluster.get(kinds.DAEMON_SETS, "default", "agent") or {})["spec"]["template"]["spec"]["containers"]
    nodes = {node["metadata"]["name"] for node in cluster.all(kinds.NODES) if not node["spec"].get("taints")}
    stays = {node["metadata"]["name"] for node in cluster.all(kinds.NODES) if node["spec"].get("taints")}
    found = [image for image in images(cluster) if image.split("=")[0] not in stays]
    assert found == sorted(f"{node}={wanted[0]['image']}" for node in nodes)
    assert status(cluster)["desiredNumberScheduled"] == len(nodes)
    assert len({revision["revision"] for revision in cluster.all(kinds.CONTROLLER_REVISIONS)}) == len(
        cluster.all(kinds.CONTROLLER_REVISIONS)
    )


def apply(cluster: Cluster, change: str) -> None:
    some = next((pod for pod in cluster.all(kinds.PODS) if pods.is_active(pod)), None)
    if change.startswith("agent"):
        set_image(cluster, change)
    elif change in ("taint", "untaint"):
        taints = [{"key": "x", "effect": "NoSchedule"}] if change == "taint" else []
        cluster.change(kinds.NODES, "a", lambda node: node["spec"].update(taints=taints))
    elif change == "add" and cluster.get(kinds.NODES, "", "d") is None:
        add_node(cluster, "d")
    elif change == "remove" and (node := cluster.get(kinds.NODES, "", "d")) is not None:
        cluster.vanish(kinds.NODES, node)
        for pod in cluster.all(kinds.PODS):
            if pods.node_name(pod) == "d":
                cluster.vanish(kinds.PODS, pod)  # the pod garbage collector's part
    elif change == "fail" and some is not None and pods.node_name(some):
        end(cluster, some, "Failed")
    elif change == "delete" and some is not None:
        cluster.remove(kinds.PODS, some["metadata"]["name"])

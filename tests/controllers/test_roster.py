"""A ReplicaSet's roster, and what has changed of a pod, against counting everything again."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.base.clock import rfc3339
from raykube.controllers.core import aspects, kinds, pods
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.roster import ASPECTS, Roster
from tests.controllers.model import START, Cluster, template

LABELS = {"app": "web"}
OWNER = [{"controller": True, "kind": "ReplicaSet", "name": "web", "uid": "set"}]
NAMES = ("a", "b", "c", "d", "e")
COST = "controller.kubernetes.io/pod-deletion-cost"


def replica_set(min_ready_s: int = 0) -> Obj:
    spec = {"selector": {"matchLabels": LABELS}, "template": template({**LABELS, "tier": "x"})}
    meta = {"name": "web", "namespace": "default", "uid": "set"}
    return {"metadata": meta, "spec": {**spec, "minReadySeconds": min_ready_s}}


def pod(
    owned: bool, selected: bool, full: bool, phase: str, ready_for: int | None, node: str, cost: str, ending: bool
) -> Obj:
    labels = {"app": "web" if selected else "other", "tier": "x" if full else "y"}
    meta: Obj = {"labels": labels, "annotations": {COST: cost}, "ownerReferences": OWNER if owned else []}
    if ending:
        meta["deletionTimestamp"] = rfc3339(START)
    ready = {"type": "Ready", "status": "False" if ready_for is None else "True"}
    ready["lastTransitionTime"] = rfc3339(START - (ready_for or 0))
    return {"metadata": meta, "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": [ready]}}


# What a pod may be in each respect; the first is how it begins, and most steps change one thing.
RESPECTS: tuple[tuple[Any, ...], ...] = (
    (True, False),
    (True, False),
    (True, False),
    ("Running", "Pending", "Failed"),
    (100, None, 0, 5),
    ("n1", "", "n2", "n3"),
    ("0", "-1"),
    (False, True),
)
CHANGE = st.integers(0, len(RESPECTS) - 1).flatmap(lambda at: st.tuples(st.just(at), st.sampled_from(RESPECTS[at])))
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(CHANGE, CHANGE, CHANGE, st.none())), max_size=20)


def put(cluster: Cluster, name: str, state: Obj | None) -> int:
    """The aspects in which the pod changed."""
    found = cluster.get(kinds.PODS, "default", name)
    if state is None:
        if found is not None:
            cluster.vanish(kinds.PODS, found)
    elif found is None:
        cluster.add(kinds.PODS, {**copy.deepcopy(state), "metadata": {**state["metadata"], "name": name}})
    else:
        cluster.change(
            kinds.PODS, name, lambda old: old.update(state | {"metadata": old["metadata"] | state["metadata"]})
        )
        if not state["metadata"].get("deletionTimestamp"):
            cluster.change(kinds.PODS, name, lambda old: old["metadata"].pop("deletionTimestamp", None))
    return aspects.changed(found, cluster.get(kinds.PODS, "default", name))


@given(steps=STEPS, min_ready_s=st.sampled_from([0, 50]), look=st.lists(st.booleans(), min_size=20, max_size=20))
@settings(max_examples=500, deadline=None)
def test_a_roster_is_what_counting_again_says(
    steps: list[tuple[str, tuple[int, Any] | None]], min_ready_s: int, look: list[bool]
) -> None:
    cluster = Cluster()
    owner = replica_set(min_ready_s)
    states = {name: [each[0] for each in RESPECTS] for name in NAMES}
    for name in NAMES:
        put(cluster, name, pod(*states[name]))
    roster = Roster(cluster, owner, owner["spec"]["selector"])
    for (name, change), now in zip(steps, look, strict=False):
        if change is not None:
            states[name][change[0]] = change[1]
        if put(cluster, name, None if change is None else pod(*states[name])) & ASPECTS:
            roster.mark(name)
        if now:
            roster.refresh(cluster, cluster.now)
            cluster.now += 20
    roster.refresh(cluster, cluster.now)
    owned = [each for each in cluster.all(kinds.PODS) if each["metadata"]["ownerReferences"]]
    selected = [each for each in owned if each["metadata"]["labels"]["app"] == "web"]
    active = [each for each in selected if pods.is_active(each)]
    expected = Counter(
        replicas=len(active),
        fullyLabeledReplicas=sum(each["metadata"]["labels"]["tier"] == "x" for each in active),
        readyReplicas=sum(map(pods.is_ready, active)),
        availableReplicas=sum(pods.available_in(each, min_ready_s, cluster.now) == 0 for each in active),
    )
    assert +roster.sums == +expected
    others = [each for each in owned if each["metadata"]["labels"]["app"] != "web"]
    assert set(roster.strays) == {each["metadata"]["name"] for each in others if not pods.is_terminating(each)}
    again = Roster(cluster, owner, owner["spec"]["selector"])
    again.refresh(cluster, cluster.now)
    assert roster.members == again.members, "names follow from what is stored"
    neighbours = Counter(map(pods.node_name, active))

    def rank(each: Obj) -> tuple[float, ...]:
        return pods.deletion_rank(each, neighbours[pods.node_name(each)], cluster.now)

    for count in range(len(active) + 1):
        chosen = roster.first_to_go(cluster, count, [roster], cluster.now)
        assert sorted(map(rank, chosen)) == sorted(map(rank, active))[:count]


def test_a_pod_becomes_available_by_itself() -> None:
    cluster = Cluster()
    put(cluster, "a", pod(True, True, True, "Running", 10, "n1", "0", False))
    owner = replica_set(30)
    roster = Roster(cluster, owner, owner["spec"]["selector"])
    assert roster.refresh(cluster, cluster.now) == 20
    assert roster.refresh(cluster, cluster.now + 20) is None and roster.sums["availableReplicas"] == 1


def test_who_comes_or_goes_makes_it_another_set() -> None:
    cluster = Cluster()
    state = pod(True, True, True, "Running", 0, "n1", "0", False)
    owner = replica_set()
    roster = Roster(cluster, owner, owner["spec"]["selector"])
    seen = set()
    for name, now in (("a", state), ("b", state), ("a", None), ("a", state)):
        put(cluster, name, now)
        roster.mark(name)
        roster.refresh(cluster, cluster.now)
        seen.add(roster.members)
    assert len(seen) == 4
    cluster.change(kinds.PODS, "a", lambda each: each["status"].update(phase="Pending"))
    roster.mark("a")
    roster.refresh(cluster, cluster.now)
    assert roster.members in seen, "how a pod is makes no other set"


@pytest.mark.parametrize(
    ("edit", "aspect"),
    [
        (lambda each: each["metadata"].update(labels={}), aspects.LABELS),
        (lambda each: each["metadata"].update(ownerReferences=OWNER), aspects.OWNERS),
        (lambda each: each["metadata"].update(finalizers=["a/b"]), aspects.FINALIZERS),
        (lambda each: each["metadata"].update(annotations={"a": "b"}), aspects.ANNOTATIONS),
        (lambda each: each["metadata"].update(deletionTimestamp=rfc3339(START)), aspects.DELETION),
        (lambda each: each["metadata"].update(deletionGracePeriodSeconds=0), aspects.DELETION),
        (lambda each: each["spec"].update(nodeName="other"), aspects.NODE),
        (lambda each: each["spec"].update(priority=1), aspects.SPEC),
        (lambda each: each["spec"].update(priority=1, nodeName="other"), aspects.SPEC | aspects.NODE),
        (lambda each: each["status"].update(phase="Failed"), aspects.PHASE | aspects.STATUS),
        (lambda each: each["status"].update(podIP="10.0.0.1"), aspects.ADDRESS | aspects.STATUS),
        (lambda each: each["status"].update(podIPs=[{"ip": "10.0.0.1"}]), aspects.ADDRESS | aspects.STATUS),
        (lambda each: each["status"].update(message="x"), aspects.STATUS),
        (lambda each: each["status"]["conditions"][0].update(status="False"), aspects.READY | aspects.STATUS),
        (
            lambda each: each["status"]["conditions"][0].update(lastTransitionTime="2020-01-01T00:00:00Z"),
            aspects.READY | aspects.STATUS,
        ),
        (lambda each: each["metadata"].update(uid="other"), aspects.ALL),
        (lambda each: each["metadata"].update(resourceVersion="9"), 0),
    ],
)
def test_what_has_changed(edit: Callable[[Any], Any], aspect: int) -> None:
    old = pod(False, True, True, "Running", 0, "n1", "0", False)
    new = copy.deepcopy(old)
    edit(new)
    assert aspects.changed(old, new) == aspect
    assert aspects.changed(None, new) == aspects.changed(old, None) == aspects.ALL

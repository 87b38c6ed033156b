"""Whose pod changed, who hears of it, and indexes that are filed anew only where what they are made of has changed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.client.core.listwatch import WatchEvent, key_of
from raykube.controllers.caches import Caches
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.indexes import JOB_NAME_LABEL, indexes_of
from raykube.controllers.core.pods import JOB_FINALIZER

KINDS = ["ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job", "Widget", ""]


def pod(kind: str = "", name: str = "a", **parts: Any) -> dict[str, Any]:
    owner = {"apiVersion": "x", "kind": kind, "name": "owner", "uid": f"uid-{kind}", "controller": True}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-of-{name}", **parts.pop("metadata", {})}
    if kind:
        metadata["ownerReferences"] = [owner]
    return {"metadata": metadata, "spec": {}, "status": {}, **parts}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (None, "Job", {"Job"}),
        ("Job", "Job", {"Job"}),
        ("Job", "", {"Job", ""}),
        ("", "DaemonSet", {"", "DaemonSet"}),
        ("ReplicaSet", "Widget", {"ReplicaSet", "Widget"}),
        ("StatefulSet", None, {*KINDS}),
    ],
)
def test_a_pod_s_change_concerns_its_owners_before_and_after_and_all_when_it_went(old, new, told) -> None:
    of = {**aspects._OF, "Widget": aspects.OF_OTHERS, "": aspects.OF_NOBODY}
    before = None if old is None else pod(old, status={"phase": "Pending"})
    after = None if new is None else pod(new, status={"phase": "Running"})
    found = aspects.found(before, after)
    assert {kind for kind in KINDS if aspects.concerns(found, aspects.PHASE | of[kind])} == told
    assert aspects.concerns(found, aspects.wanted(aspects.PHASE))
    unchanged = before is not None and after is not None
    assert aspects.concerns(found, aspects.wanted(aspects.ADDRESS)) != unchanged


def test_a_pod_that_waits_for_a_job_is_the_job_s_whoever_has_it() -> None:
    free, waiting = pod("ReplicaSet"), pod("ReplicaSet", metadata={"finalizers": [JOB_FINALIZER]})
    for old, new, told in ((free, free, False), (waiting, waiting, True), (waiting, free, True), (free, waiting, True)):
        assert bool(aspects.found(old, new) & aspects.OF_JOB) == told


def test_listeners_hear_of_the_pods_that_they_look_at() -> None:
    caches, heard = Caches(client=None), []  # type: ignore[arg-type]  # nothing is asked
    caches.require([kinds.PODS])
    for wanted in (aspects.PHASE | aspects.OF_JOB, aspects.PHASE, aspects.ALL):
        caches.add_listener(lambda _, changes, wanted=wanted: heard.append(len(changes)), [kinds.PODS], wanted)
    take_in(caches, [("ADDED", pod("Job", "a")), ("ADDED", pod("ReplicaSet", "b"))])
    assert heard == [1, 2, 2]
    heard.clear()
    moved = pod("Job", "a", spec={"nodeName": "n1"})
    take_in(caches, [("MODIFIED", moved), ("MODIFIED", pod("ReplicaSet", "b", status={"phase": "Running"}))])
    assert heard == [0, 1, 2]


def take_in(caches: Caches, events: list[tuple[str, dict[str, Any]]]) -> None:
    informer = caches._informers[kinds.PODS]
    if not informer._machine.synced:
        informer._machine.request()
        informer._machine.on_events([WatchEvent("BOOKMARK", None, 1, initial_events_end=True)])
    revision = informer.resource_version
    batch = [WatchEvent(kind, obj, revision + number) for number, (kind, obj) in enumerate(events, 1)]
    informer._dispatch(informer._machine.on_events(batch))


states = st.builds(
    lambda kind, name, labels, finalizers, node, phase, claim: pod(
        kind,
        name,
        metadata={"labels": labels, "finalizers": finalizers},
        spec={
            **({"nodeName": node} if node else {}),
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}] if claim else [],
        },
        status={"phase": phase},
    ),
    st.sampled_from(KINDS),
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from(["app", JOB_NAME_LABEL]), st.sampled_from("xy"), max_size=2),
    st.lists(st.just(JOB_FINALIZER), max_size=1),
    st.sampled_from(["", "n1", "n2"]),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
    st.sampled_from(["", "c"]),
)
changes = st.tuples(st.sampled_from(["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]), states)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=6))
def test_indexes_hold_what_they_would_if_they_were_made_anew(batches) -> None:
    caches = Caches(client=None)  # type: ignore[arg-type]  # nothing is asked
    caches.require([kinds.PODS])
    for batch in batches:
        take_in(caches, batch)
        for title, function in indexes_of(kinds.PODS, namespaced=True).items():
            wanted: dict[str, set[tuple[str, str]]] = {}
            for obj in caches.list(kinds.PODS):
                for value in function(obj):
                    wanted.setdefault(value, set()).add(key_of(obj))
            assert {value: set(keys) for value, keys in caches._indexes[kinds.PODS][title].keys.items()} == wanted, (
                title
            )

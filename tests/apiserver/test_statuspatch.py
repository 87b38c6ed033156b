"""Patches of the status alone: the planner's short way stores, or refuses, exactly what its long way does."""

import copy
import os
import random
from typing import Any
from unittest import mock

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import meta, resources
from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import planning, podparts, statuspatch
from raykube.apiserver.core.planning import Current, Operation, Planner
from raykube.apiserver.core.strategy import Draw
from tests.apiserver.planner import Shelf

POD = builtin("v1", "Pod")
NOW = 1_800_000_000.0
TIME = "2027-01-15T08:00:00Z"
CONTAINER = {
    "name": "main", "image": "x:1", "imageID": "", "ready": True, "restartCount": 0,
    "state": {"running": {"startedAt": TIME}}, "lastState": {},
}  # fmt: skip


def pod(status: dict[str, Any] | None, **metadata: Any) -> dict[str, Any]:
    obj = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "creationTimestamp": TIME, **metadata},
        "spec": {"containers": [{"name": "main", "image": "x:1"}], "nodeName": "n"},
    }
    return obj if status is None else {**obj, "status": status}


def plan(old: dict[str, Any], **fields: Any) -> tuple[Any, ...]:
    """What becomes of the patch: the plan, or the refusal."""
    current = Current(meta.with_resource_version(meta.encode(old), 7), 7)
    planner = Planner(Shelf(), Draw(os.urandom, random.Random(1).randrange))
    given = Operation(
        planning.PATCH,
        POD,
        "default",
        "p",
        "status",
        **{"patch_type": planning.STRATEGIC_PATCH} | copy.deepcopy(fields),
    )
    try:
        made = planner.plan(given, current, NOW)
    except ApiError as error:
        return error.code, error.status()
    assert given.body == fields["body"]  # a second attempt gets it as it came
    return made.key, made.value, made.reply, made.expected, made.write


def without_parts() -> Any:
    """The whole object is parsed."""
    return mock.patch.object(podparts, "parts", lambda _: None)


def the_long_way(old: dict[str, Any], **fields: Any) -> tuple[Any, ...]:
    with mock.patch.object(statuspatch, "patched", lambda *_: None), without_parts():
        return plan(old, **fields)


def is_short(old: dict[str, Any], body: Any, strategic: bool = True) -> bool:
    return statuspatch.patched(POD, old, body, strategic) is not None


BOUND = {
    "phase": "Pending",
    "qosClass": "BestEffort",
    "conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": TIME}],
}
RUNNING = {
    "phase": "Running",
    "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": TIME, "reason": None, "message": None},
        {"type": "PodScheduled", "status": "True", "observedGeneration": 1},
    ],
    "podIP": "10.0.0.1",
    "podIPs": [{"ip": "10.0.0.1"}],
    "startTime": TIME,
    "containerStatuses": [CONTAINER],
}


def test_a_kubelets_status_takes_the_short_way() -> None:
    assert is_short(pod(BOUND), {"status": RUNNING})
    stored = orjson.loads(plan(pod(BOUND), body={"status": RUNNING})[1])
    assert stored["status"] == {
        "phase": "Running",
        "qosClass": "BestEffort",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": TIME},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": TIME, "observedGeneration": 1},
        ],
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}],
        "startTime": TIME,
        "containerStatuses": [CONTAINER],
    }
    assert stored["spec"] == pod(None)["spec"]


def test_what_is_more_than_a_status_takes_the_long_way() -> None:
    assert not is_short(pod(BOUND), {"status": RUNNING, "metadata": {"labels": {"a": "b"}}})
    assert not is_short(pod(BOUND), {"status": None})
    assert not is_short(pod(BOUND), {"status": {"phase": 7}})
    assert not is_short(pod(BOUND), {"status": {"unheardOf": "x"}})
    assert not is_short(pod(BOUND), {"status": {"startTime": "2027-01-15T08:00:00.5+02:00"}})


def test_conditions_on_what_is_there_are_looked_at() -> None:
    body = {"status": RUNNING}
    assert plan(pod(BOUND), body=body, uid="another")[0] == 409
    assert plan(pod(BOUND), body=body, resource_version="6")[0] == 409
    assert plan(pod(BOUND), body=body, resource_version="7", uid="u")[4]

    def guard(new: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        assert new is not None
        assert old is not None
        assert (old["status"]["phase"], new["status"]["phase"]) == ("Pending", "Running")
        raise ApiError.forbidden(POD, "p", "not yours")

    assert plan(pod(BOUND), body=body, guard=guard)[0] == 403


def test_a_patch_that_changes_nothing_writes_nothing() -> None:
    once = orjson.loads(plan(pod(BOUND), body={"status": RUNNING})[1])
    assert not plan(once, body={"status": RUNNING})[4]


CONDITION = st.fixed_dictionaries(
    {"type": st.sampled_from(["Ready", "PodScheduled", "Initialized"])},
    optional={
        "status": st.sampled_from(["True", "False", None]),
        "lastProbeTime": st.sampled_from([None, TIME]),
        "lastTransitionTime": st.sampled_from([None, TIME, "2027-01-15T09:00:00+01:00", "soon"]),
        "reason": st.sampled_from([None, "", "Because"]),
        "$patch": st.sampled_from(["delete", "replace", "merge"]),
    },
)
STATUS = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", None, 3]),
        "conditions": st.lists(CONDITION, max_size=4) | st.none(),
        "$setElementOrder/conditions": st.lists(
            st.sampled_from([{"type": "Ready"}, {"type": "PodScheduled"}, {"type": "Initialized"}]), max_size=3
        ),
        "podIPs": st.lists(st.sampled_from([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {}, {"ip": None}]), max_size=3),
        "startTime": st.sampled_from([TIME, None, "2027-01-15T08:00:00.250Z"]),
        "containerStatuses": st.lists(
            st.sampled_from([CONTAINER, {"name": "main"}, {**CONTAINER, "started": None}, {"unheard": "of"}]),
            max_size=2,
        ),
        "message": st.sampled_from(["null", "a $patch", '"$', None]),
        "unheardOf": st.sampled_from([None, "x", {"a": None}]),
        "$patch": st.sampled_from(["replace", "delete", "other"]),
        "$retainKeys": st.lists(st.sampled_from(["phase", "conditions"]), max_size=2),
    },
)
BODY = st.one_of(
    st.fixed_dictionaries({"status": STATUS}, optional={"metadata": st.just({"labels": {"a": "b"}})}),
    st.sampled_from([{}, {"status": None}, {"status": "x"}, [], "text", None]),
)


@settings(max_examples=600, deadline=None)
@given(body=BODY, patch_type=st.sampled_from([planning.STRATEGIC_PATCH, planning.MERGE_PATCH]), first=st.data())
def test_short_and_long_way_are_one(body: Any, patch_type: str, first: st.DataObject) -> None:
    going = pod(BOUND, deletionTimestamp=TIME, deletionGracePeriodSeconds=0)
    turned = {name: pod(BOUND)[name] for name in ("kind", "apiVersion", "metadata", "status", "spec")}
    olds = [pod(None), pod({}), pod(BOUND), going, turned, pod(BOUND, managedFields=[{"manager": "a"}])]
    earlier = plan(pod(BOUND), body={"status": first.draw(STATUS)})
    if isinstance(earlier[1], bytes):
        olds.append(orjson.loads(earlier[1]))
    old = first.draw(st.sampled_from(olds))
    fields = {"body": body, "patch_type": patch_type, "validation": first.draw(st.sampled_from(["Ignore", "Strict"]))}
    fields |= {
        "uid": first.draw(st.sampled_from(["", "u", "another"])),
        "resource_version": first.draw(st.sampled_from(["", "7", "6"])),
        "dry_run": first.draw(st.booleans()),
        "field_manager": first.draw(st.sampled_from(["", "kubelet"])),
    }
    long = the_long_way(old, **fields)
    assert plan(old, **fields) == long
    with without_parts():
        assert plan(old, **fields) == long


def test_every_kind_of_the_short_way_is_known_to_the_schema() -> None:
    for group, kind in statuspatch.KINDS:
        resource = resources.by_kind(group, "v1", kind)
        assert resource is not None
        assert statuspatch.patched(resource, {}, {"status": {}}, True) == {"status": {}}

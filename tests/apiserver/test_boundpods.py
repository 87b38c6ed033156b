"""Bindings: pods that are bound by their bytes become, or are refused, what they would have been without that."""

import os
import random
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import meta
from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import boundpods, planning, podparts
from raykube.apiserver.core.boundpods import BoundPods
from raykube.apiserver.core.planning import Current, Operation, Planner
from raykube.apiserver.core.podparts import parts
from raykube.apiserver.core.strategy import Draw
from tests.apiserver.planner import Shelf

POD = builtin("v1", "Pod")
NOW = 1_800_000_000.0


def planner() -> Planner:
    return Planner(Shelf(), Draw(os.urandom, random.Random(1).randrange))


def stored(pod: dict[str, Any], revision: int = 7) -> Current:
    return Current(meta.with_resource_version(meta.encode(pod), revision), revision)


def bind(using: Planner, current: Current, node: str = "n", now: float = NOW, **fields: Any) -> tuple[Any, ...]:
    op = Operation(planning.BIND, POD, "default", "p", node=node, **fields)
    try:
        plan = using.plan(op, current, now)
    except ApiError as error:
        return error.code, error.status()
    return plan.key, plan.value, plan.reply, plan.expected, plan.code, plan.write


def pod(name: str = "p", **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": "u", "generation": 1, **metadata},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    }


def test_the_second_pod_with_a_status_is_bound_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    using = planner()
    assert bind(using, stored(pod()))[4] == 201
    monkeypatch.setattr(boundpods.pods, "bind", None)  # the long way
    another = pod("p2", labels={"a": "b"})
    another["spec"]["volumes"] = [{"name": "kube-api-access-x7z2q"}]
    made = bind(using, stored(another, 9), node="other", now=NOW + 60)
    condition = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": "2027-01-15T08:01:00Z",
        "observedGeneration": 1,
    }
    wanted = another
    wanted["spec"]["nodeName"] = "other"
    wanted["status"]["conditions"] = [condition]
    assert made[1] == meta.encode(wanted)
    assert made[3] == 9


def test_bytes_are_cut_at_the_objects_own_depth_alone() -> None:
    inner = b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","x":{"a":1,"spec":{}}},"spec":{"b":1}}'
    assert parts(inner) is None
    assert parts(inner[:-1] + b',"status":{"phase":"Pending"}}') is None
    annotations = {"a": ',"spec":{', "b": '"},"spec":{', "c": '},"status":{"phase":"'}
    text = orjson.dumps({**pod(), "metadata": {"name": "p", "annotations": annotations}})
    found = parts(text)
    assert found is not None
    assert orjson.loads(found.spec) == pod()["spec"]
    assert orjson.loads(found.status) == pod()["status"]
    assert found.joined(found.spec, found.status) == text
    rest = {"spec": {"a": {}}, "status": {"phase": "Pending"}}
    assert parts(orjson.dumps({**rest, "kind": "Pod", "metadata": {}})) is None
    assert parts(orjson.dumps({"kind": "Pod", "metadata": None, **rest})) is None
    assert parts(orjson.dumps({"kind": "Pod", "metadata": {}, **rest})) is not None


def test_a_flood_of_pods_is_forgotten() -> None:
    bound = BoundPods()
    for number in range(3000):
        found = parts(orjson.dumps({**pod(), "status": {"phase": "Pending", "message": str(number)}}))
        assert found is not None
        bound.value(POD, found, "n", "now")
    assert len(bound._known) <= 1024


METADATA = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([{"nodeName": "x"}, {"a": "ö"}, {}]),
        "annotations": st.sampled_from([{"a": ',"spec":{"b":"c"}'}, {"\ue000node": "\ue000stamp"}]),
        "generation": st.sampled_from([0, 1, 2]),
        "deletionTimestamp": st.sampled_from([None, "2027-01-15T08:00:00Z"]),
        "managedFields": st.just([{"fieldsV1": {"f:spec": {"spec": {}}, "spec": {"x": 1}}}]),
    },
)
SPEC = st.fixed_dictionaries(
    {},
    optional={
        "nodeName": st.sampled_from(["", "taken"]),
        "schedulingGates": st.sampled_from([[], [{"name": "a"}]]),
        "nodeSelector": st.sampled_from([{"a": "\ue000node"}, {"nodeName": "x"}]),
    },
)
STATUS = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", '},"status":{"phase":"']),
        "nominatedNodeName": st.just("m"),
        "conditions": st.sampled_from(
            [
                [],
                None,
                [{"type": "PodScheduled", "status": "False", "message": "0/5 nodes"}, {"type": "A", "status": "True"}],
                [{"type": "B", "status": "\ue000stamp"}],
            ]
        ),
    },
)
ORDINARY = st.just({"containers": [{"name": "c"}]})
PODS = st.fixed_dictionaries({"spec": SPEC | ORDINARY}, optional={"status": STATUS})


@settings(max_examples=300, deadline=None)
@given(likes=st.lists(PODS, min_size=1, max_size=3), data=st.data())
def test_short_and_long_way_are_one(likes: list[dict[str, Any]], data: st.DataObject) -> None:
    using = planner()
    for number in range(8):
        like = orjson.loads(orjson.dumps(data.draw(st.sampled_from(likes))))
        metadata = {"name": f"p{number}", "namespace": "default", "uid": "u", **data.draw(METADATA)}
        current = stored({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, **like}, number + 5)
        fields = {
            "node": data.draw(st.sampled_from(["n", "n", 'q"\\', ""])),
            "now": NOW + number,
            "uid": data.draw(st.sampled_from(["", "", "u", "other"])),
            "resource_version": data.draw(st.sampled_from(["", "", str(number + 5), "1"])),
            "body": data.draw(st.sampled_from([None, None, {"metadata": {"annotations": {"x": "y"}}}])),
        }
        short = bind(using, current, **fields)
        with mock.patch.object(podparts, "parts", lambda _: None):
            assert short == bind(using, current, **fields)

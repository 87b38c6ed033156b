"""Stored bytes, owners and conditions."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import meta

NOW = 1_800_000_000.0

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.builds(
    lambda kind, metadata, rest: {**rest, "metadata": metadata, "kind": kind, "apiVersion": "v1"},
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=12), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["spec", "status", "data", "metadata2"]), VALUES, max_size=3),
)


@given(OBJECTS, st.integers(1, 2**63))
def test_splicing_a_revision_equals_setting_it(obj: dict[str, Any], revision: int) -> None:
    spliced = orjson.loads(meta.with_resource_version(meta.encode(obj), revision))
    expected = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
    assert spliced == expected
    assert meta.decode_at(meta.encode(obj), revision) == expected


@given(OBJECTS)
def test_encode_keeps_the_object_and_starts_with_its_type(obj: dict[str, Any]) -> None:
    before = orjson.dumps(obj)
    data = meta.encode(obj)
    assert orjson.dumps(obj) == before
    assert data.startswith(b'{"kind":')
    assert list(orjson.loads(data))[:3] == ["kind", "apiVersion", "metadata"]


def test_the_revision_is_not_stored() -> None:
    obj = {"kind": "A", "apiVersion": "v1", "metadata": {"resourceVersion": "3"}, "spec": {"metadata": {"x": 1}}}
    assert meta.encode(obj) == b'{"kind":"A","apiVersion":"v1","metadata":{},"spec":{"metadata":{"x":1}}}'
    assert meta.with_resource_version(meta.encode(obj), 9).startswith(
        b'{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"9"},'
    )


def test_owners() -> None:
    owner = {"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": {"name": "r", "uid": "u"}}
    plain = meta.owner_reference(owner, controller=False)
    assert plain == {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}
    managed = {"metadata": {"ownerReferences": [plain, meta.owner_reference(owner)]}}
    assert meta.controller_of(managed) == {**plain, "controller": True, "blockOwnerDeletion": True}
    assert meta.controller_of({"metadata": {"ownerReferences": [plain]}}) is None
    assert meta.controller_of({}) is None


def test_keys_go_there_and_back() -> None:
    assert meta.key({"metadata": {"namespace": "a", "name": "b"}}) == "a/b"
    assert meta.key({"metadata": {"name": "b"}}) == "b"
    assert meta.split_key("a/b") == ("a", "b")
    assert meta.split_key("b") == ("", "b")


def test_a_condition_moves_its_time_only_with_its_status() -> None:
    conditions: list[dict[str, Any]] = []
    assert meta.set_condition(conditions, {"type": "Ready", "status": "False", "reason": "a"}, NOW)
    first = conditions[0]["lastTransitionTime"]
    assert not meta.set_condition(conditions, {"type": "Ready", "status": "False", "reason": "a"}, NOW + 60)
    assert meta.set_condition(conditions, {"type": "Ready", "status": "False", "reason": "b"}, NOW + 60)
    assert conditions[0]["lastTransitionTime"] == first
    assert meta.set_condition(conditions, {"type": "Ready", "status": "True"}, NOW + 60)
    assert conditions[0]["lastTransitionTime"] > first
    assert len(conditions) == 1
    obj = {"status": {"conditions": conditions}}
    assert meta.condition_true(obj, "Ready")
    assert not meta.condition_true(obj, "Other")
    assert meta.remove_condition(conditions, "Ready")
    assert not meta.remove_condition(conditions, "Ready")

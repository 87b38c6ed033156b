"""JSON patch and merge patch: what they do and how they refuse."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.api.patch import json_patch, merge_patch, undecodable
from raykube.api.schema import cannot_handle

DEPLOYMENT = resources.builtin("apps/v1", "Deployment")

REJECTED = "the server rejected our request due to an error in our request"


def test_json_patch() -> None:
    obj = {"spec": {"replicas": 1, "list": ["a"]}, "metadata": {"labels": {"a/b": "1"}}}
    before = copy.deepcopy(obj)
    patched = json_patch(
        obj,
        [
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 2},
            {"op": "add", "path": "/spec/list/-", "value": "b"},
            {"op": "remove", "path": "/metadata/labels/a~1b"},
            {"op": "copy", "from": "/spec/replicas", "path": "/spec/was"},
        ],
    )
    assert patched == {"spec": {"replicas": 2, "list": ["a", "b"], "was": 2}, "metadata": {"labels": {}}}
    assert obj == before


@pytest.mark.parametrize(
    ("operations", "code", "message"),
    [
        ({"op": "add"}, 400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
        ([{"op": "test", "path": "/a", "value": 2}], 422, REJECTED),
        ([{"op": "remove", "path": "/nothing"}], 422, REJECTED),
        ([{"op": "replace", "path": "/a/b/c", "value": 1}], 422, REJECTED),
        ([{"op": "add", "path": "/list/7", "value": 1}], 422, REJECTED),
        ([{"op": "grow", "path": "/a"}], 422, REJECTED),
        ([{"op": "add", "value": 1}], 422, REJECTED),
        ([{"op": "add", "path": "/x"}], 422, REJECTED),
        ([{"op": "replace", "path": "", "value": 1}], 422, REJECTED),
    ],
)
def test_json_patch_refuses(operations: Any, code: int, message: str) -> None:
    with pytest.raises(ApiError) as raised:
        json_patch({"a": 1, "list": []}, operations)
    assert (raised.value.code, raised.value.message) == (code, message)


def test_json_patch_has_a_bound() -> None:
    with pytest.raises(ApiError) as raised:
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
    assert raised.value.code == 413
    assert "allowed maximum operations in a JSON patch is 10000, got 10001" in raised.value.message


@pytest.mark.parametrize(
    ("obj", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_rfc_7386(obj: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(obj, patch) == merged


def test_merge_patch_wants_a_map() -> None:
    with pytest.raises(ApiError) as raised:
        merge_patch({}, ["a"])
    assert raised.value.code == 400
    assert "cannot unmarshal array into Go value" in raised.value.message


TREES = st.recursive(
    st.one_of(st.integers(0, 2), st.text("ab", max_size=1)),
    lambda inner: st.one_of(st.dictionaries(st.sampled_from("abc"), inner, max_size=3), st.lists(inner, max_size=2)),
    max_leaves=8,
)
MAPS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPS, MAPS)
def test_merging_twice_is_merging_once(obj: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((obj, patch))
    once = merge_patch(obj, patch)
    assert merge_patch(once, patch) == once
    assert (obj, patch) == before


@pytest.mark.parametrize(
    ("shown", "problem", "cause"),
    [
        ({"spec": {"foo": 1}}, 'strict decoding error: unknown field "spec.foo"', '"map[spec:map[foo:1]]": strict'),
        (
            {"spec": {"replicas": "two"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            '"map[spec:map[replicas:two]]": unrecognized type: int32',
        ),
        (
            {"kind": "Deployment", "metadata": {}},
            'strict decoding error: unknown field "x"',
            r'"{\"kind\":\"Deployment\",\"metadata\":{}}": strict decoding error: unknown field "x"',
        ),
    ],
)
def test_an_outcome_that_is_no_object(shown: dict[str, Any], problem: str, cause: str) -> None:
    error = undecodable(DEPLOYMENT, shown, cannot_handle(DEPLOYMENT, problem))
    assert error.code == 422
    assert error.message.startswith(f' "" is invalid: patch: Invalid value: {cause}')
    assert error.causes[0].field == "patch"

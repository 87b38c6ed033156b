"""Bodies: malformed, duplicate, of the wrong kind, in YAML."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import serialization
from raykube.api.errors import ApiError
from raykube.api.resources import builtin

PODS = builtin("v1", "Pod")
PARSE = "couldn't get version/kind; json parse error: "


def refused(code: int, *args: Any) -> str:
    with pytest.raises(ApiError) as caught:
        serialization.decode_object(*args)
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "problem", "summary"),
    [
        (b"", PARSE + "unexpected end of JSON input", "<empty>"),
        (b'{"a":', PARSE + "unexpected end of JSON input", '{"a":'),
        (
            b"xyz",
            PARSE + "invalid character 'x' looking for beginning of value",
            "78797a",
        ),
        (
            b"{a:1}",
            PARSE + "invalid character 'a' looking for beginning of object key string",
            "{a:1}",
        ),
        (
            b'{"a" 1}',
            PARSE + "invalid character '1' after object key",
            '{"a" 1}',
        ),
    ],
)
def test_malformed_json(body: bytes, problem: str, summary: str) -> None:
    expected = f"the object provided is unrecognized (must be of type Pod): {problem} ({summary})"
    assert refused(400, PODS, body) == expected


def test_an_array_is_no_object() -> None:
    assert "json: cannot unmarshal array into Go value" in refused(400, PODS, b"[]")


def test_a_long_body_is_summed_up() -> None:
    assert refused(400, PODS, b"{" + b"x" * 100).endswith("({" + "x" * 29 + " ...)")


def test_duplicate_and_unknown_fields_are_one_strict_error() -> None:
    body = b'{"metadata":{"name":"x","name":"y"},"spec":{"containers":[{"name":"c","image":"a","image":"b"}],"foo":1}}'
    obj, problems = serialization.decode_object(PODS, body)
    assert obj["metadata"]["name"] == "y"
    assert (obj["kind"], obj["apiVersion"]) == ("Pod", "v1")
    assert problems == [
        'duplicate field "metadata.name"',
        'duplicate field "spec.containers[0].image"',
        'unknown field "spec.foo"',
    ]
    assert str(serialization.strict_error(PODS, problems)) == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "metadata.name", '
        'duplicate field "spec.containers[0].image", unknown field "spec.foo"'
    )
    assert serialization.decode_object(PODS, body, strict=False)[1] == ['unknown field "spec.foo"']


def test_another_kind() -> None:
    assert 'ConfigMap in version "v1" cannot be handled as a Pod' in refused(
        400, PODS, b'{"kind":"ConfigMap","apiVersion":"v1"}'
    )
    assert 'no kind "Foo" is registered for version "v1"' in refused(400, PODS, b'{"kind":"Foo","apiVersion":"v1"}')
    assert 'no kind "Pod" is registered for version "v2"' in refused(400, PODS, b'{"kind":"Pod","apiVersion":"v2"}')
    assert refused(400, PODS, b'{"kind":1}')
    events = builtin("events.k8s.io/v1", "Event")
    assert refused(400, events, b'{"kind":"Event","apiVersion":"v1"}') == (
        "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)"
    )


def test_an_unknown_media_type() -> None:
    assert "application/json" in refused(415, PODS, b"{}", "text/html")
    assert serialization.decode_object(PODS, b"{}", "application/json; charset=utf-8")[0]["kind"] == "Pod"


def test_metadata_is_always_there() -> None:
    assert serialization.decode_object(PODS, b'{"metadata":null}')[0]["metadata"] == {}


YAML = b"""
apiVersion: v1
kind: ConfigMap
metadata: {name: x, labels: &l {a: "1"}, annotations: *l}
data:
  yes: a
  port: "80:80"
  date: 2026-01-02
  sixty: 80:80
  on_merge: {<<: {p: q, r: s}, r: t}
list: [0o644, 0644, 0x1f, 1_000, 1.0, 1.5, ~, yes, "yes", 1e3, 09, .inf]
"""


def test_yaml_reads_as_in_go() -> None:
    obj = serialization.decode_yaml(YAML)
    assert obj["metadata"]["annotations"] == {"a": "1"}
    assert obj["data"] == {
        "true": "a",
        "port": "80:80",
        "date": "2026-01-02",
        "sixty": "80:80",
        "on_merge": {"p": "q", "r": "t"},
    }
    assert obj["list"] == [420, 420, 31, 1000, 1, 1.5, None, True, "yes", 1000, 9, ".inf"]
    assert isinstance(obj["list"][4], int)


def test_yaml_finds_duplicates() -> None:
    _, problems = serialization.decode_body(b"a: {b: 1, b: 2}", "application/yaml")
    assert problems == ['duplicate field "a.b"']


@pytest.mark.parametrize(
    "body", [b"", b"a", b"- a", b"a: [", b"a: 1\n---\nb: 2", b"? [a]\n: b", b"\xff\xfe\x00", b"<<: 1"]
)
def test_bad_yaml(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        serialization.decode_yaml(body)
    assert caught.value.code == 400


def test_an_alias_bomb_is_an_error() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    with pytest.raises(ApiError, match="excessive aliasing"):
        serialization.decode_yaml("\n".join(lines).encode())


@pytest.mark.parametrize("body", [b"a: " + b"[" * 5000, b"{a: " * 3000])
def test_deep_yaml_is_an_error(body: bytes) -> None:
    with pytest.raises(ApiError):
        serialization.decode_yaml(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
def test_json_is_yaml(obj: dict[str, Any]) -> None:
    assert serialization.decode_json(json.dumps(obj).encode()) == (obj, [])
    assert serialization.decode_yaml(yaml.safe_dump(obj, default_style='"').encode()) == obj


@given(st.binary(max_size=60), st.sampled_from([*serialization.BODY_TYPES, "application/apply-patch+yaml"]))
def test_any_bytes_are_an_object_or_a_400(body: bytes, content_type: str) -> None:
    try:
        obj, _ = serialization.decode_object(PODS, body, content_type)
    except ApiError as error:
        assert error.code == 400
    else:
        assert obj["kind"] == "Pod"

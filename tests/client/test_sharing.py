"""Shared parts: an object decodes to what its text says, and equal parts of objects are one."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.client.core import sharing
from raykube.client.core.sharing import Sharing

names = st.sampled_from(["name", "uid", "labels", "containerStatuses", "podIPs", "state", "containerID", "a", "status"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "x", "{}", "[]", '"x"', "null"]))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
sections = st.sampled_from(["metadata", "spec", "status", "data"])
objects = st.lists(st.dictionaries(sections, values, max_size=4), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(objects, st.integers(1, 4))
def test_an_object_is_what_its_text_says(drawn, most) -> None:
    decode = Sharing()
    before, sharing.PARTS_MAX = sharing.PARTS_MAX, most
    try:
        texts = [orjson.dumps(each) for each in drawn]
        decoded = [decode(text) for text in texts * 2]
    finally:
        sharing.PARTS_MAX = before
    # By their texts: to Python True is 1.
    assert [orjson.dumps(each) for each in decoded] == texts * 2


traps = st.sampled_from([',"spec":{', '"},"status":{', ',"nodeName":"', '"', "\\", "}", "n1"])
trap_names = st.sampled_from(["spec", "status", "nodeName", "metadata", "a"])
trap_values = st.recursive(
    traps, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(trap_names | traps, inner, max_size=3)
)
trap_objects = st.lists(
    st.dictionaries(trap_names, st.dictionaries(trap_names | traps, trap_values, max_size=4), max_size=4), max_size=6
)


@settings(max_examples=500, deadline=None)
@given(trap_objects)
def test_what_only_looks_like_a_section_is_none(drawn) -> None:
    decode = Sharing()
    texts = [orjson.dumps({"kind": "x", **each}) for each in drawn]
    assert [orjson.dumps(decode(text)) for text in texts * 2] == texts * 2


def test_a_spec_that_was_met_is_not_read_again_whatever_the_node(monkeypatch) -> None:
    decode = Sharing()
    text = b'{"kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}],"nodeName":"n1"},"status":{}}'
    first = decode(text)
    seen: list[bytes] = []
    loads = orjson.loads
    monkeypatch.setattr(sharing.orjson, "loads", lambda part: (seen.append(part), loads(part))[1])
    second = decode(text.replace(b"n1", b"n2"))
    assert second == {**first, "spec": {**first["spec"], "nodeName": "n2"}}
    assert second["spec"]["containers"] is first["spec"]["containers"]
    assert not any(b"containers" in part for part in seen)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":{},"spec":{},"status":{}', b'{"metadata":{},"spec":{"a":1,"status":{}}']
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Sharing()(text)


def pod(name: str, **status: object) -> bytes:
    containers = [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]
    state = {"name": "c", "containerID": f"id-{name}", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    return orjson.dumps(
        {
            "metadata": {"name": name, "namespace": "d", "labels": {"app": "x"}},
            "spec": {"containers": containers, "nodeName": "n1"},
            "status": {"containerStatuses": [state], **status},
        }
    )


def test_equal_parts_are_one_and_what_differs_is_apart() -> None:
    decode = Sharing()
    a, b = decode(pod("a", phase="Running")), decode(pod("b", phase="Pending"))
    for section, field in (
        ("metadata", "labels"),
        ("metadata", "namespace"),
        ("spec", "containers"),
        ("spec", "nodeName"),
    ):
        assert a[section][field] is b[section][field]
    first, second = a["status"]["containerStatuses"][0], b["status"]["containerStatuses"][0]
    assert first["state"] is second["state"]
    assert (first["containerID"], second["containerID"]) == ("id-a", "id-b")
    assert (a["metadata"]["name"], a["status"]["phase"]) == ("a", "Running")
    assert (b["metadata"]["name"], b["status"]["phase"]) == ("b", "Pending")


def test_only_so_many_parts_are_remembered_and_those_in_use_stay(monkeypatch) -> None:
    monkeypatch.setattr(sharing, "PARTS_MAX", 10)
    decode = Sharing()
    first = decode(pod("a"))["spec"]["containers"]
    for number in range(100):
        again = decode(pod("a"))["spec"]["containers"]
        decode(orjson.dumps({"spec": {"other": {"number": number}}}))
        assert again is first
    assert len(decode._known) + len(decode._known_before) <= 20


def test_specs_that_differ_by_a_drawn_name_are_one_where_that_does_not_matter() -> None:
    text = b'{"kind":"Pod","metadata":{},"spec":{"volumes":[{"name":"token-%b"}],"x":"token-abcde"},"status":{}}'
    decode = Sharing(drawn="token-")
    first, second = decode(text % b"abcde"), decode(text % b"fghij")
    assert first["spec"] is second["spec"]
    assert first["spec"] == {"volumes": [{"name": "token-"}], "x": "token-abcde"}
    for name in (b"abcdef", b"abcd", b"a-cde", b"abcd\\\\", b""):
        other = text % name
        assert decode(other) == orjson.loads(other), "it was not drawn"
    assert Sharing()(text % b"abcde")["spec"]["volumes"] == [{"name": "token-abcde"}]

"""Fields read off a pod's text are those that a parse finds, or none at all."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import meta, podtext
from raykube.api.resources import builtin
from raykube.api.selectors import selectable_fields
from raykube.apiserver.core.fields import Fields
from raykube.apiserver.core.item import Item

PODS = builtin("v1", "Pod")
NAMES = tuple(podtext.FINDERS)

# Texts that look like what the finders look for, inside strings and as keys of maps.
texts = st.sampled_from(
    ["n1", "", "é", 'q"', "b\\", '","nodeName":"n9"},"status":{"phase":"X', '"nodeName":"n9"},"status":{"phase":"X"']
)
keys = st.sampled_from(["nodeName", "phase", "status", "spec", 'nodeName":"n9"},"status":{"phase":"Y', "a"])
maps = st.dictionaries(keys, texts, max_size=3)


@st.composite
def pods(draw: Any) -> dict[str, Any]:
    def some(**fields: Any) -> dict[str, Any]:
        """Some of the fields, in any order."""
        chosen = draw(st.lists(st.sampled_from(sorted(fields)), unique=True))
        return {name: draw(fields[name]) for name in chosen}

    metadata = {"name": "p", **some(labels=maps, annotations=maps)}
    terms = st.fixed_dictionaries({"labelSelector": st.fixed_dictionaries({"matchLabels": maps})})
    spec = some(
        nodeName=texts, nodeSelector=maps, topologySpreadConstraints=st.lists(terms, max_size=2), hostname=texts
    )
    status = some(phase=texts, message=texts, nominatedNodeName=texts)
    parts = {"spec": spec, "status": status}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        **some(**{k: st.just(v) for k, v in parts.items()}),
    }


@settings(max_examples=1000, deadline=None)
@given(pods())
def test_a_finder_tells_what_a_parse_tells_or_nothing(pod) -> None:
    pod = {name: pod[name] for name in ("kind", "apiVersion", "metadata", "spec", "status") if name in pod}
    data = meta.with_resource_version(meta.encode(pod), 7)
    parsed = selectable_fields(PODS, pod, NAMES)
    for name, find in podtext.FINDERS.items():
        assert find(data) in (None, parsed[name])
    outline = podtext.outline(data)
    if outline is not None:
        assert outline == orjson.loads(data) | {"spec": {"nodeName": pod["spec"]["nodeName"]}}
    assert {name: Item("d/p", 7, data).fields(Fields(PODS), NAMES)[name] for name in NAMES} == parsed


@pytest.mark.parametrize(
    ("spec", "status", "node", "phase"),
    [
        ({"containers": [], "nodeName": "n1"}, {"phase": "Running", "podIP": "1.2.3.4"}, "n1", "Running"),
        ({"containers": []}, {"phase": "Pending"}, "", "Pending"),
    ],
)
def test_pods_as_they_are_stored_need_no_parse(spec, status, node, phase) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec, "status": status}
    data = orjson.dumps(pod)
    assert (podtext.node_name(data), podtext.phase(data)) == (node, phase)
    assert podtext.outline(data) == (pod | {"spec": {"nodeName": node}} if node else None)


def test_equal_fields_and_labels_are_one_object() -> None:
    known = Fields(PODS)
    pod = {
        "metadata": {"name": "a", "labels": {"app": "x"}},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running"},
    }
    first = Item("d/a", 1, orjson.dumps(pod))
    pod["metadata"]["name"] = "b"
    second = Item("d/b", 2, orjson.dumps(pod))
    assert first.labels(known) is second.labels(known)
    assert first.fields(known, NAMES) is second.fields(known, NAMES)
    assert first.fields(known, ("spec.nodeName", "metadata.name"))["metadata.name"] == "a"
    assert second.fields(known, ("spec.nodeName", "metadata.name"))["metadata.name"] == "b"

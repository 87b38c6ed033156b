"""Pods are read late: a kubelet may see what it would if each had been read when it was bound."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.apiserver.core.assignments import Assignments
from raykube.apiserver.core.item import Change, Item
from raykube.apiserver.core.node_authorizer import NodeAuthorizer


def pod(name: str, node: str, secret: str, **metadata: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"imagePullSecrets": [{"name": secret}]}
    if node:
        spec["nodeName"] = node
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "ns", **metadata}, "spec": spec}


class Cluster:
    """Pods by name, as a watch cache has them, and two authorizers: one that is told late, one at once."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.revision = 0
        self.late, self.prompt = NodeAuthorizer(), NodeAuthorizer()
        self.assignments = Assignments(self.late, self.items.get)

    def write(self, name: str, obj: dict[str, Any] | None) -> None:
        key = f"ns/{name}"
        self.revision += 1
        before = self.items.pop(key, None)
        if obj is not None:
            self.items[key] = Item(key, self.revision, orjson.dumps(obj))
            self.prompt.on_event("ADDED", obj)
        elif before is not None:
            self.prompt.on_event("DELETED", before.decode())
        if before is not None or obj is not None:
            self.assignments.on_change(Change(self.revision, key, before, self.items.get(key)))

    def check(self, node: str) -> None:
        self.assignments.read(node)
        for secret in ("s", "t"):
            asked = (node, "secrets", "ns", secret)
            assert self.late.related(*asked) == self.prompt.related(*asked), asked


def test_a_pod_is_read_when_its_kubelet_asks() -> None:
    cluster = Cluster()
    cluster.write("a", pod("a", "", "s"))
    cluster.write("a", pod("a", "one", "s"))
    assert not cluster.late.related("one", "secrets", "ns", "s")
    cluster.check("one")
    assert cluster.late.related("one", "secrets", "ns", "s")
    cluster.write("a", None)
    assert not cluster.late.related("one", "secrets", "ns", "s")
    cluster.write("b", pod("b", "one", "s"))
    cluster.write("b", None)
    assert not cluster.assignments._unread


def test_what_an_ephemeral_container_names_is_the_kubelets_too() -> None:
    cluster = Cluster()
    cluster.write("a", pod("a", "one", "s"))
    cluster.check("one")
    debugged = pod("a", "one", "s")
    debugged["spec"]["ephemeralContainers"] = [{"name": "d", "envFrom": [{"secretRef": {"name": "t"}}]}]
    cluster.write("a", debugged)
    cluster.check("one")
    assert cluster.late.related("one", "secrets", "ns", "t")
    cluster.write("a", None)
    cluster.check("one")


def test_a_label_that_looks_like_a_node_hides_none() -> None:
    cluster = Cluster()
    cluster.write("a", pod("a", "", "s", labels={"nodeName": "one"}))
    cluster.write("a", pod("a", "one", "s", labels={"nodeName": "two"}))
    cluster.check("two")
    cluster.check("one")
    cluster.check("two")
    assert cluster.late.related("one", "secrets", "ns", "s")


def test_a_pod_comes_to_the_node_that_its_label_names() -> None:
    cluster = Cluster()
    cluster.write("a", pod("a", "", "s", labels={"nodeName": "one"}))
    cluster.check("one")
    cluster.write("a", pod("a", "one", "s"))
    cluster.check("one")
    assert cluster.late.related("one", "secrets", "ns", "s")


def test_a_pod_that_is_elsewhere_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    cluster.write("a", pod("a", "two", "s", labels={"nodeName": "one"}))
    cluster.check("one")
    monkeypatch.setattr(Item, "decode", None)
    cluster.check("one")


NODES = st.sampled_from(["", "one", "two"])
WRITES = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.none() | st.tuples(NODES, st.sampled_from(["s", "t"]), st.none() | NODES),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(WRITES | st.sampled_from(["one", "two"]), max_size=25))
def test_late_and_prompt_reading_are_one(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        if isinstance(step, str):
            cluster.check(step)
            continue
        name, written = step
        there = cluster.items.get(f"ns/{name}")
        if written is not None and there is not None:
            # A pod that is there keeps what it refers to; only its node comes, once.
            spec = there.decode()["spec"]
            written = (spec.get("nodeName") or written[0], spec["imagePullSecrets"][0]["name"], written[2])
        labels = {} if written is None or written[2] is None else {"labels": {"nodeName": written[2]}}
        cluster.write(name, None if written is None else pod(name, written[0], written[1], **labels))
    cluster.check("one")
    cluster.check("two")

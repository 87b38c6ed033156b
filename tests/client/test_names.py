"""Kinds by name, manifests in every shape, views that never fail, goals."""

from pathlib import Path
from typing import Any

import pytest

from raykube.client import manifests
from raykube.client.goals import Unreachable, reached
from raykube.client.kinds import resource_named, split_name
from raykube.client.objects import Object


@pytest.mark.parametrize(
    ("text", "qualified"),
    [
        ("pods", "pods"),
        ("po", "pods"),
        ("Pod", "pods"),
        ("deploy", "deployments.apps"),
        ("deployment.apps", "deployments.apps"),
        ("deployments.v1.apps", "deployments.apps"),
        ("jobs.batch", "jobs.batch"),
        ("ns", "namespaces"),
        ("events", "events"),
        ("events.events.k8s.io", "events.events.k8s.io"),
        ("svc", "services"),
    ],
)
def test_kinds_as_kubectl_takes_them(text: str, qualified: str) -> None:
    assert resource_named(text).qualified == qualified


def test_unknown_kinds_and_names() -> None:
    with pytest.raises(ValueError, match='the server doesn\'t have a resource type "nonsense"'):
        resource_named("nonsense")
    with pytest.raises(ValueError, match="resource type"):
        resource_named("pods.apps")
    assert split_name("deployment/web") == ("deployment", "web")
    for bad in ("web", "/web", "a/b/c", "pod/"):
        with pytest.raises(ValueError, match="KIND/NAME"):
            split_name(bad)


def config_map(name: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}}


def test_manifests_in_every_shape(tmp_path: Path) -> None:
    text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: ConfigMap\napiVersion: v1\n"
    assert [obj["kind"] for obj in manifests.load(text)] == ["ConfigMap", "ConfigMap"]
    (tmp_path / "2.yaml").write_text("kind: Secret\napiVersion: v1\n")
    (tmp_path / "1.json").write_text('{"kind": "ConfigMap", "apiVersion": "v1"}')
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [obj["kind"] for obj in manifests.load(tmp_path)] == ["ConfigMap", "Secret"]
    assert manifests.load(str(tmp_path / "2.yaml"))[0]["kind"] == "Secret"
    whole = {"kind": "List", "apiVersion": "v1", "items": [config_map("a"), config_map("b")]}
    assert manifests.load([whole, config_map("c")]) == [config_map("a"), config_map("b"), config_map("c")]


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"kind": "ConfigMap"}, "apiVersion is missing"),
        ({"apiVersion": "v1"}, "kind is missing"),
        ("a: b\n- c\n", "is not YAML"),
        ("just\ntext\n", "no Kubernetes object"),
    ],
)
def test_what_is_no_manifest(manifest: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        manifests.load(manifest)
    with pytest.raises(OSError, match=r"missing\.yaml"):
        manifests.load("missing.yaml")


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "---\n", "# nothing\n"])
def test_a_text_without_objects_is_no_path(text: str) -> None:
    assert manifests.load(text) == []


def test_views_never_fail() -> None:
    empty = Object({})
    assert (empty.kind, empty.name, empty.labels, empty.status, empty.phase) == ("", "", {}, {}, "")
    assert empty.condition("Ready") == {}
    assert empty.get("spec.containers.0.image", "none") == "none"
    full = Object({"spec": {"containers": [{"image": "i"}]}})
    assert full.get("spec.containers.0.image") == "i"
    assert full.get("spec.containers.1.image") is None


def deployment(replicas: int, available: int, generation: int = 2, observed: int = 2) -> Object:
    return Object(
        {
            "kind": "Deployment",
            "metadata": {"name": "web", "generation": generation},
            "spec": {"replicas": replicas},
            "status": {
                "observedGeneration": observed,
                "replicas": replicas,
                "updatedReplicas": replicas,
                "availableReplicas": available,
                "conditions": [{"type": "Available", "status": "True" if available == replicas else "False"}],
            },
        }
    )


def test_goals() -> None:
    assert reached(None, deployment(3, 3))
    assert not reached(None, deployment(3, 2))
    assert not reached(None, deployment(3, 3, observed=1))
    assert reached("available", deployment(3, 3))
    assert reached("Available=False", deployment(3, 2))
    assert not reached("Available", deployment(3, 3, observed=1))
    assert reached("deleted", None)
    assert not reached("Ready", None)
    daemons = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "observedGeneration": 1}
    agent = {"kind": "DaemonSet", "metadata": {"name": "d", "generation": 1}}
    assert not reached(None, Object({**agent, "status": {**daemons, "numberAvailable": 1}}))
    assert reached(None, Object({**agent, "status": {**daemons, "numberAvailable": 2}}))
    ended = Object({"kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "Failed"}})
    with pytest.raises(Unreachable, match="pod/p has ended: Failed"):
        reached("Ready", ended)
    assert reached(lambda obj: obj.phase == "Failed", ended)

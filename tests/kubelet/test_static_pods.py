"""Static pods: what a manifest becomes; pods from files and URLs, shown in the API, and without any."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.staticpods import BadManifest, from_manifest, mirror_of, mirror_steps
from raykube.kubelet.manifests import ManifestFiles
from tests.kit.controlplane import ControlPlane
from tests.kit.controlplane import until as poll
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Node, running_node, shell, state

HASH = "kubernetes.io/config.hash"


def manifest(name: str = "web", script: str = "exec sleep 1000", **spec: Any) -> Object:
    spec = {"containers": [shell(script)], "terminationGracePeriodSeconds": 1} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def text(*documents: Object) -> bytes:
    return yaml.safe_dump_all(documents).encode()


def read(data: bytes, origin: str = "/m/web.yaml", node: str = "n1") -> list[Object]:
    return from_manifest(data, "file", origin, node, 0.0)


def test_a_manifest_becomes_a_pod_of_this_node() -> None:
    (pod,) = read(text(manifest()))
    metadata = pod["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("web-n1", "default")
    assert metadata["uid"] == metadata["annotations"][HASH]
    assert metadata["annotations"]["kubernetes.io/config.source"] == "file"
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["spec"]["restartPolicy"] == "Always"  # defaults are set
    assert {"operator": "Exists", "effect": "NoExecute"} in pod["spec"]["tolerations"]
    uids = {
        read(data, *where)[0]["metadata"]["uid"]
        for data, where in (
            (text(manifest()), ()),
            (text(manifest()), ()),  # again: the same
            (json.dumps(manifest()).encode(), ()),  # the form does not matter
            (text(manifest(script="exec sleep 1")), ()),
            (text(manifest()), ("/m/other.yaml",)),
            (text(manifest()), ("/m/web.yaml", "n2")),
        )
    }
    assert len(uids) == 4


def test_several_pods_in_one_manifest() -> None:
    listed = {"apiVersion": "v1", "kind": "PodList", "items": [manifest("a"), manifest("b")]}
    assert [pod["metadata"]["name"] for pod in read(text(listed, manifest("c")))] == ["a-n1", "b-n1", "c-n1"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "couldn't parse as pod"),
        (b"\x00\xff", "couldn't parse as pod"),
        (b"", "it is empty"),
        (b"[1]", "not an object"),
        (text({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}), "kind 'Service' of 'v1' is no Pod"),
        (text({"apiVersion": "v1", "kind": "Pod"}), "metadata and spec must be objects"),
        (text(manifest("")), "metadata.name: Required value"),
        (text(manifest("Web")), "metadata.name: Invalid value"),
        (text(manifest(containers=[])), "spec.containers: Required value"),
        (text(manifest(containers="no")), "spec.containers"),
        (text(manifest(serviceAccountName="x")), "may not refer to objects of the API: ServiceAccount x"),
        (text(manifest(volumes=[{"name": "v", "secret": {"secretName": "s"}}])), "may not refer to objects of the API"),
    ],
)
def test_what_is_no_manifest(data: bytes, words: str) -> None:
    with pytest.raises(BadManifest) as failure:
        read(data)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


FINE = "{containers: [{name: c, image: i}]}"


@pytest.mark.parametrize(
    "spec",
    [
        "metadata: {name: a}\nspec: &x {containers: [*x]}",
        "metadata: {name: a}\nspec: {2026-01-02: 3}",
        "metadata: {name: a}\nspec: {? !!binary aGk= : 3}",
        "metadata: {name: a}\nspec: {tolerations: 5}",
        "metadata: {name: a, annotations: text}\nspec: {containers: []}",
        'metadata: {name: a}\nspec: {containers: [{name: c, image: "\\ud800"}]}',
        f"metadata: {{name: a}}\nspec: {'[' * 3000 + ']' * 3000}",
        "metadata: {name: a, uid: ../../etc}\nspec: {containers: [{name: c, image: i}]}",
        f"metadata: {{name: a, managedFields: [{{fieldsV1: {'{a: ' * 300 + '1' + '}' * 300}}}]}}\nspec: {FINE}",
        f"metadata: {{name: a, annotations: {{b: !!bool maybe}}}}\nspec: {FINE}",
        f"metadata: {{name: a, annotations: {{b: !!timestamp soon}}}}\nspec: {FINE}",
        f"metadata: {{name: a, annotations: {{b: !!int ''}}}}\nspec: {FINE}",
        "kind: List\nitems: [text]",
        "kind: List\nitems: 5",
    ],
)
async def test_a_file_that_nobody_expects_keeps_no_other_from_running(tmp_path: Path, spec: str) -> None:
    kind = "" if spec.startswith("kind") else "kind: Pod\n"
    (tmp_path / "bad.yaml").write_text(f"apiVersion: v1\n{kind}{spec}")
    (tmp_path / "good.yaml").write_bytes(text(manifest()))
    found: list[Object] = []
    ManifestFiles(tmp_path, "n1", 20.0, found.extend).look()
    assert [pod["metadata"]["name"] for pod in found] == ["web-n1"]


def test_mirrors_follow_static_pods() -> None:
    (pod,) = read(text(manifest()))
    mirror = mirror_of(pod, {"metadata": {"name": "n1", "uid": "node-uid"}})
    assert "uid" not in mirror["metadata"]
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] == pod["metadata"]["uid"]
    assert mirror["metadata"]["ownerReferences"][0]["uid"] == "node-uid"
    assert mirror_steps([pod], []) == ([], [pod])
    assert mirror_steps([pod], [mirror]) == ([], [])
    assert mirror_steps([], [mirror]) == ([mirror], [])
    leaving = mirror | {"metadata": mirror["metadata"] | {"deletionTimestamp": "x"}}
    assert mirror_steps([pod], [leaving]) == ([leaving], [])
    (changed,) = read(text(manifest(script="exec sleep 2")))
    assert mirror_steps([changed], [mirror]) == ([mirror], [])


# -- with real pods


@pytest.fixture
async def static(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "manifests").mkdir()
    async with running_node(pod_manifest_path=tmp_path / "manifests", file_check_frequency=0.1) as node:
        yield node


def folder(node: Node) -> Path:
    return Path(node.flags["pod_manifest_path"])


@pytest.mark.integration
async def test_a_file_comes_changes_and_goes(static: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    (folder(static) / "corrupt.yaml").write_text("kind: [")
    (folder(static) / ".hidden.yaml").write_bytes(text(manifest("hidden")))
    (folder(static) / "web.yaml").write_bytes(text(manifest()))
    await until(lambda: ("pods", "default", "web-n1") in static.store.objects, 20)
    first = await static.phase("web-n1", "Running")
    assert first["metadata"]["annotations"]["kubernetes.io/config.mirror"] == first["metadata"]["annotations"][HASH]
    assert first["metadata"]["uid"] != first["metadata"]["annotations"][HASH]
    assert first["metadata"]["ownerReferences"][0]["kind"] == "Node"
    assert sum("corrupt.yaml is skipped" in record.message for record in caplog.records) == 1

    # Half a file, as an editor may leave it for a moment: what runs goes on.
    (folder(static) / "web.yaml").write_text("kind: [")
    await until(lambda: any("web.yaml is skipped" in record.message for record in caplog.records))
    await static.phase("web-n1", "Running")

    (folder(static) / "web.yaml").write_bytes(text(manifest(script="echo two; exec sleep 1000")))

    def is_new(pod: Object) -> bool:
        other = pod["metadata"]["annotations"][HASH] != first["metadata"]["annotations"][HASH]
        return other and pod.get("status", {}).get("phase") == "Running"

    await until(lambda: is_new(static.store.objects.get(("pods", "default", "web-n1"), first)), 20)
    second = await static.phase("web-n1", "Running")
    assert state(second)["containerID"] != state(first)["containerID"]
    running = [record for record in static.runtime._runtime.containers() if record.state == 1]  # type: ignore[union-attr]
    assert len(running) == 1  # the old one ended before

    (folder(static) / "web.yaml").unlink()
    await static.gone("web-n1")
    assert not list(static.runtime._runtime.sandboxes())  # type: ignore[union-attr]


@pytest.mark.integration
async def test_a_mirror_that_is_deleted_comes_back_and_nothing_restarts(static: Node) -> None:
    (folder(static) / "web.yaml").write_bytes(text(manifest()))
    await until(lambda: ("pods", "default", "web-n1") in static.store.objects, 20)
    before = await static.phase("web-n1", "Running")
    await static.client.delete(PODS, "default", "web-n1")

    def again() -> bool:
        pod = static.store.objects.get(("pods", "default", "web-n1"), before)
        return bool(pod["metadata"]["uid"] != before["metadata"]["uid"] and pod.get("status", {}).get("phase"))

    await until(again, 20)
    after = await static.phase("web-n1", "Running")
    assert state(after)["containerID"] == state(before)["containerID"]


@pytest.mark.integration
async def test_without_any_apiserver(static: Node, tmp_path: Path) -> None:
    (folder(static) / "web.yaml").write_bytes(text(manifest()))
    await until(lambda: ("pods", "default", "web-n1") in static.store.objects, 20)
    before = await static.phase("web-n1", "Running")
    await static.kubelet.stop()
    await static.api.stop()
    await static.start_kubelet()
    # The one that ran goes on, one that is new starts, is restarted when it fails, and ends.
    mark = tmp_path / "mark"
    (folder(static) / "more.yaml").write_bytes(text(manifest("more", f"echo >> {mark}; exit 1")))
    await until(lambda: mark.exists() and mark.read_text().count("\n") > 1, 30)
    (folder(static) / "more.yaml").unlink()
    runtime = static.runtime._runtime
    assert runtime is not None
    await until(lambda: len(list(runtime.sandboxes())) == 1, 20)
    (left,) = list(runtime.containers())
    assert state(before)["containerID"].endswith(left.id)
    assert left.state == 1
    # The next time the API hears of it all.
    await static.api.start(int(static.address.rpartition(":")[2]))
    (folder(static) / "web.yaml").unlink()
    await static.gone("web-n1", 30)


@asynccontextmanager
async def serving(answers: dict[str, Any]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "own":
            return web.Response(status=403)
        return web.Response(status=answers["status"], body=answers["body"])

    app = web.Application()
    app.add_routes([web.get("/pods", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/pods"
    finally:
        await runner.cleanup()


@pytest.mark.integration
async def test_a_url_is_a_source_too(caplog: pytest.LogCaptureFixture) -> None:
    answers: dict[str, Any] = {"status": 200, "body": text(manifest("far"))}
    async with (
        serving(answers) as url,
        running_node(manifest_url=url, manifest_url_header=["Metadata-Flavor:own"], http_check_frequency=0.1) as node,
    ):
        await until(lambda: ("pods", "default", "far-n1") in node.store.objects, 20)
        pod = await node.phase("far-n1", "Running")
        assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "http"
        answers["status"] = 500
        await until(lambda: any("the server answered 500" in record.message for record in caplog.records))
        await node.phase("far-n1", "Running")
        answers |= {"status": 200, "body": text({"apiVersion": "v1", "kind": "PodList", "items": [manifest("next")]})}
        await node.gone("far-n1")
        await until(lambda: ("pods", "default", "next-n1") in node.store.objects, 20)
        await node.phase("next-n1", "Running")


@pytest.mark.integration
def test_kubectl_sees_static_pods(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "web.yaml").write_bytes(text(manifest(script="echo hello; exec sleep 1000")))
    extra = {"kubelet": {"pod-manifest-path": str(manifests), "file-check-frequency": "1s"}}
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane", extra_config=extra) as plane:
        plane.start("kv", "apiserver", "kubelet")
        poll("the mirror", lambda: plane.kubectl_run("get", "pod", "web-plane-1").returncode == 0)
        plane.kubectl("wait", "--for=condition=Ready", "pod/web-plane-1", "--timeout=60s")
        poll("its log", lambda: plane.kubectl_run("logs", "web-plane-1").stdout == "hello\n")
        (before,) = plane.objects("pods")
        plane.kubectl("delete", "pod", "web-plane-1", "--wait=false")
        old = before["metadata"]["uid"]
        poll("another mirror", lambda: any(one["metadata"]["uid"] != old for one in plane.objects("pods")))
        plane.kubectl("wait", "--for=condition=Ready", "pod/web-plane-1", "--timeout=60s")
        (after,) = plane.objects("pods")
        assert state(after)["containerID"] == state(before)["containerID"]
        (manifests / "web.yaml").unlink()
        poll("its end", lambda: plane.objects("pods") == [])

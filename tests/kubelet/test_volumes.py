"""Volumes of pods on the process runtime: made, kept current, taken away, whatever is missing or killed."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.kubelet.volumes import mounts
from raykube.kubelet.worker import PodWorker
from raykube.pb import api_pb2
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.kubelet.conftest import Node, shell, state

pytestmark = pytest.mark.integration
Object = dict[str, Any]


def config_map(name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def mounted(name: str, path: str, **more: Any) -> Object:
    return {"name": name, "mountPath": path} | more


@pytest.fixture
def flags() -> dict[str, Any]:
    return {"sync_frequency": 3600.0}  # nothing in here may depend on a timer


async def test_a_missing_config_map_holds_the_pod_until_it_is_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pod looks again only in an hour, if nothing wakes it.
    monkeypatch.setattr("raykube.kubelet.worker.VOLUME_RETRY", Backoff(initial_s=3600, max_s=3600))
    await node.pod(
        "waits",
        shell("cat /c/k; echo; exec sleep 1000", volumeMounts=[mounted("v", "/c")]),
        volumes=[{"name": "v", "configMap": {"name": "late"}}],
    )
    await node.event("FailedMount", 'MountVolume.SetUp failed for volume "v" : configmap "late" not found')
    pod = await node.sees("waits", lambda pod: state(pod)["state"])
    assert state(pod)["state"]["waiting"]["reason"] == "ContainerCreating"
    await node.client.create(config_map("late", k="here"))
    await node.phase("waits", "Running")
    await until(lambda: node.log("waits") == "here\n")


async def test_a_mount_path_without_a_slash_is_below_the_root(node: Node) -> None:
    if not mounts.allowed():
        missing("needs root, to mount")
    await node.client.create(config_map("c", k="here"))
    await node.pod(
        "reads",
        shell("cat /rk-mounted/k", volumeMounts=[mounted("v", "rk-mounted")]),
        volumes=[{"name": "v", "configMap": {"name": "c"}}],
        restartPolicy="Never",
    )
    await node.phase("reads", "Succeeded")
    assert node.log("reads").strip() == "here"


@pytest.mark.parametrize("what", ["token", "secret"])
async def test_what_the_apiserver_refuses_for_a_volume_is_told(
    node: Node, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that was deleted, a Secret that this node may not read: whoever looks at the pod must see why."""
    refused, words = [True], 'serviceaccounts "robot" not found' if what == "token" else "secrets is forbidden"
    write, get = node.store.write, node.parts.objects.client.get

    def writes(op: api_pb2.Operation) -> Object:
        if op.subresource == "token" and what == "token" and refused:
            raise ApiError(404, "NotFound", words)
        return write(op)

    async def gets(resource: Any, *more: Any, **options: Any) -> Object:
        if resource.kind == "Secret" and what == "secret" and refused:
            raise ApiError(403, "Forbidden", words)
        return await get(resource, *more, **options)

    monkeypatch.setattr(node.store, "write", writes)
    monkeypatch.setattr(node.parts.objects.client, "get", gets)
    sources: list[Object] = [{"serviceAccountToken": {"path": "token"}}]
    sources += [{"secret": {"name": "s"}}] if what == "secret" else []
    await node.pod("asks", shell("exec sleep 1000"), volumes=[{"name": "v", "projected": {"sources": sources}}])
    cause = f"failed to fetch token: {words}" if what == "token" else words
    await node.event("FailedMount", f'MountVolume.SetUp failed for volume "v" : {cause}')
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}}
    await node.client.create(secret)
    refused.clear()
    await node.phase("asks", "Running")


async def test_an_object_is_read_once_however_many_volumes_show_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    get, read = node.parts.objects.client.get, []

    async def gets(resource: Any, *more: Any, **options: Any) -> Object:
        if resource.kind == "ConfigMap":
            read.append(more)
        return await get(resource, *more, **options)

    monkeypatch.setattr(node.parts.objects.client, "get", gets)
    await node.client.create(config_map("shared", k="x"))
    plain = {"configMap": {"name": "shared"}}
    volumes = [{"name": f"v{number}"} | plain for number in range(3)]
    volumes.append({"name": "all", "projected": {"sources": [plain, {"downwardAPI": {"items": []}}]}})
    await node.pod("reads", shell("exec sleep 1000", volumeMounts=[mounted("all", "/all")]), volumes=volumes)
    await node.phase("reads", "Running")
    assert read == [("default", "shared")]


async def test_a_missing_key_and_a_missing_variable(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    # What did not start is tried again only in an hour, if nothing wakes it.
    monkeypatch.setattr("raykube.kubelet.worker.VOLUME_RETRY", Backoff(initial_s=3600, max_s=3600))
    monkeypatch.setattr(PodWorker, "_next_try", lambda self, name, failure, now: now + 3600)
    await node.client.create(config_map("c", other="x"))
    await node.pod(
        "key",
        shell("cat /c/p; echo; exec sleep 1000", volumeMounts=[mounted("v", "/c")]),
        volumes=[{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "p", "mode": 0o400}]}}],
    )
    source = {"configMapKeyRef": {"name": "c", "key": "k"}}
    await node.pod("variable", shell("echo $K; exec sleep 1000", env=[{"name": "K", "valueFrom": source}]))
    await node.event("FailedMount", 'MountVolume.SetUp failed for volume "v" : references non-existent config key: k')
    pod = await node.sees("variable", lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
    assert state(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    assert state(pod)["state"]["waiting"]["message"] == "couldn't find key k in ConfigMap default/c"
    await node.client.update(config_map("c", k="now"))
    await node.phase("key", "Running")
    await node.phase("variable", "Running")
    await until(lambda: node.log("key") == "now\n")
    await until(lambda: node.log("variable") == "now\n")


async def test_changes_reach_running_pods_without_a_timer(node: Node) -> None:
    await node.client.create(config_map("live", k="one"))
    await node.pod(
        "live",
        shell(
            "cat /c/k; echo; until grep -q two /c/k; do sleep 0.05; done; cat /c/k; echo; "
            "until grep -q three /c/k; do sleep 0.05; done; cat /c/k; echo",
            volumeMounts=[mounted("v", "/c")],
        ),
        volumes=[{"name": "v", "configMap": {"name": "live"}}],
        restartPolicy="Never",
    )
    await node.phase("live", "Running")
    for text in ("one", "two", "three"):
        if text != "one":
            await node.client.update(config_map("live", k=text))
        await until(lambda text=text: text in node.log("live"))  # type: ignore[misc]
    await node.phase("live", "Succeeded")
    # What nobody needs any more is not followed.
    objects = node.parts.objects
    await until(lambda: not objects._followed)


async def test_optional_sources(node: Node) -> None:
    await node.pod(
        "optional",
        shell("ls /c /s; echo none; until cat /c/k 2>/dev/null; do sleep 0.05; done", volumeMounts=[
            mounted("c", "/c"), mounted("s", "/s"),
        ]),
        volumes=[
            {"name": "c", "configMap": {"name": "absent", "optional": True}},
            {"name": "s", "secret": {"secretName": "absent", "optional": True}},
        ],
        restartPolicy="Never",
    )  # fmt: skip
    await node.phase("optional", "Running")
    await until(lambda: "none" in node.log("optional"))
    await node.client.create(config_map("absent", k="came"))
    await node.phase("optional", "Succeeded")
    assert node.log("optional").splitlines()[-1] == "came"


async def test_what_is_secret_is_never_on_a_disk(node: Node) -> None:
    if not mounts.allowed():
        missing("needs root, to mount")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}}
    await node.client.create(secret | {"data": {"k": "c2VjcmV0"}})
    await node.pod(
        "secret",
        shell("cat /s/k; exec sleep 1000", volumeMounts=[mounted("s", "/s"), mounted("e", "/e")]),
        volumes=[
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        securityContext={"fsGroup": 4567},
    )
    pod = await node.phase("secret", "Running")
    volumes = node.root / "kubelet/pods" / pod["metadata"]["uid"] / "volumes"
    kinds = {mount.point: mount.kind for mount in mounts.present()}
    place, memory = volumes / "kubernetes.io~secret/s", volumes / "kubernetes.io~empty-dir/e"
    assert kinds[str(place)] == kinds[str(memory)] == "tmpfs"
    assert (place / "k").stat().st_mode & 0o777 == 0o440
    assert (place / "k").stat().st_gid == memory.stat().st_gid == 4567
    assert os.statvfs(memory).f_blocks * os.statvfs(memory).f_frsize == 1 << 20
    await node.client.delete(builtin("v1", "Pod"), "default", "secret", grace_period_s=1)
    await node.gone("secret")
    assert not mounts.below(node.root)
    assert not volumes.exists()


async def test_mounts_of_a_killed_kubelet_go_with_their_pods(node: Node) -> None:
    if not mounts.allowed():
        missing("needs root, to mount")
    await node.pod(
        "orphan",
        shell("exec sleep 1000", volumeMounts=[mounted("e", "/e"), mounted("e", "/f", subPath="deep/er")]),
        volumes=[{"name": "e", "emptyDir": {"medium": "Memory"}}],
    )
    pod = await node.phase("orphan", "Running")
    await node.kubelet.stop()  # says and cleans nothing, as one that was killed
    assert len(mounts.below(node.root)) >= 2
    node.store.put(("pods", "default", "orphan"), None)
    await node.start_kubelet()
    directory = node.root / "kubelet/pods" / pod["metadata"]["uid"]
    await until(lambda: not directory.exists(), 30)
    assert not mounts.below(node.root)


async def test_sub_paths(node: Node) -> None:
    await node.client.create(config_map("c", k="text"))
    await node.pod(
        "sub",
        shell(
            "cat /file; echo; echo x > /mine/x; cat /all/pods/sub/x; exec sleep 1000",
            volumeMounts=[
                mounted("c", "/file", subPath="k"),
                mounted("e", "/all"),
                mounted("e", "/mine", subPathExpr="pods/$(NAME)"),
            ],
            env=[{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        ),
        volumes=[{"name": "c", "configMap": {"name": "c"}}, {"name": "e", "emptyDir": {}}],
    )
    await node.phase("sub", "Running")
    await until(lambda: node.log("sub") == "text\nx\n")
    await node.pod(
        "no-variable",
        shell("true", volumeMounts=[mounted("e", "/mine", subPathExpr="pods/$(ABSENT)")]),
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    pod = await node.sees("no-variable", lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
    assert state(pod)["state"]["waiting"]["message"] == 'missing value for "ABSENT"'


async def test_a_sub_path_that_leads_out_starts_nothing(node: Node) -> None:
    await node.pod(
        "evil",
        shell("exec sleep 1000", volumeMounts=[mounted("e", "/e", subPath="out")]),
        initContainers=[shell("ln -s /etc /e/out", "link", volumeMounts=[mounted("e", "/e")])],
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    pod = await node.sees("evil", lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
    waiting = state(pod)["state"]["waiting"]
    assert waiting["reason"] == "CreateContainerConfigError"
    assert waiting["message"] == 'failed to prepare subPath for volumeMount "e" of container "c"'


async def test_huge_pages_are_refused(node: Node) -> None:
    await node.pod(
        "huge",
        shell("true", volumeMounts=[mounted("h", "/h")]),
        volumes=[{"name": "h", "emptyDir": {"medium": "HugePages"}}],
    )
    await node.event("FailedMount", 'MountVolume.SetUp failed for volume "h" : storage medium "HugePages" is not')


def persistent(path: Path, node: str, **spec: Any) -> Object:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "disk"},
        "spec": {
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            "claimRef": {"name": "claim", "namespace": "default", "uid": "later"},
        }
        | spec,
    }


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "claim", "namespace": "default"},
    "spec": {"volumeName": "disk"},
    "status": {"phase": "Pending"},
}


async def test_a_local_persistent_volume(node: Node, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    claim = await node.client.create(CLAIM)
    reference = {"claimRef": {"name": "claim", "namespace": "default", "uid": claim["metadata"]["uid"]}}
    await node.client.create(persistent(disk, "n1", **reference))
    await node.pod(
        "local",
        shell("cat /d/there; echo y > /d/new; exec sleep 1000", volumeMounts=[mounted("d", "/d")]),
        volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}],
    )
    await node.event(
        "FailedMount",
        "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process "
        "volumes=[d]: error processing PVC default/claim: PVC is not bound",
    )
    await node.client.update(CLAIM | {"status": {"phase": "Bound"}})
    await node.event(
        "FailedMount", f'MountVolume.NewMounter initialization failed for volume "disk" : path "{disk}" does not exist'
    )
    disk.mkdir()
    (disk / "there").write_text("data\n")
    await node.phase("local", "Running")
    await until((disk / "new").exists)
    await node.client.delete(builtin("v1", "Pod"), "default", "local", grace_period_s=1)
    await node.gone("local")
    assert (disk / "there").read_text() == "data\n"


async def test_a_local_volume_of_another_machine(node: Node, tmp_path: Path) -> None:
    claim = await node.client.create(CLAIM | {"status": {"phase": "Bound"}})
    reference = {"claimRef": {"name": "claim", "namespace": "default", "uid": claim["metadata"]["uid"]}}
    await node.client.create(persistent(tmp_path, "n2", **reference))
    await node.pod(
        "local",
        shell("true", volumeMounts=[mounted("d", "/d")]),
        volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}],
    )
    await node.event("FailedMount", "Unable to attach or mount volumes: unmounted volumes=[d]")
    found = [obj["message"] for key, obj in node.store.objects.items() if key[0] == "events"]
    text = 'MountVolume.NodeAffinity check failed for volume "disk" : no matching NodeSelectorTerms'
    assert any(text in message for message in found)


async def test_idle_pods_ask_for_nothing(node: Node) -> None:
    await node.client.create(config_map("c", k="x"))
    for index in range(3):
        await node.pod(
            f"idle-{index}",
            shell("exec sleep 1000", volumeMounts=[mounted("v", "/c")]),
            volumes=[{"name": "v", "configMap": {"name": "c"}}],
        )
        await node.phase(f"idle-{index}", "Running")
    objects = node.parts.objects
    assert len(objects._followed) == 1  # one watch, however many pods
    reads = []
    get = node.parts.client.get

    async def counted(resource: Any, *arguments: Any, **options: Any) -> Any:
        reads.append(resource.plural)
        return await get(resource, *arguments, **options)

    node.parts.client.get = counted  # type: ignore[method-assign]
    for worker in node.kubelet._workers:
        worker.refresh()
    begun = time.time()
    await until(lambda: all(worker._refreshed_at >= begun for worker in node.kubelet._workers))
    await asyncio.sleep(0)
    assert "configmaps" not in reads


async def test_tokens_are_renewed_when_most_of_their_life_is_over(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Object] = []
    write = node.store.write

    def numbered(op: Any) -> Object:
        answer = write(op)
        if op.subresource == "token":
            asked.append(orjson.loads(op.body)["spec"])
            answer["status"]["token"] += f"-{len(asked)}"
        return answer

    monkeypatch.setattr(node.store, "write", numbered)
    source = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 3600}}
    await node.pod(
        "renewed",
        shell(
            "cat /t/token; echo; until grep -q default-2 /t/token; do sleep 0.05; done; echo renewed",
            volumeMounts=[mounted("t", "/t")],
        ),
        volumes=[{"name": "t", "projected": {"sources": [source]}}],
        restartPolicy="Never",
    )
    pod = await node.phase("renewed", "Running")
    worker = next(iter(node.kubelet._workers))
    worker.refresh()
    await until(lambda: "token-of-default-1" in node.log("renewed"))
    assert [one["audiences"] for one in asked] == [["vault"]]
    assert asked[0]["boundObjectRef"]["uid"] == pod["metadata"]["uid"]
    objects = node.parts.objects
    now = objects._clock.now
    monkeypatch.setattr(objects._clock, "now", lambda: now() + 3000, raising=False)
    worker.refresh()
    await node.phase("renewed", "Succeeded")
    assert len(asked) == 2

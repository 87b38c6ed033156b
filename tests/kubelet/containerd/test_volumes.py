"""Volumes of pods on containerd: what containers see, and what is left on the machine afterwards."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raykube.kubelet.volumes import mounts
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode
from tests.kubelet.test_volumes import CLAIM, config_map, mounted, persistent

pytestmark = pytest.mark.integration
Object = dict[str, Any]


@pytest.fixture
def flags() -> dict[str, Any]:
    return {"sync_frequency": 3600.0}


def busy(script: str, **spec: Any) -> Object:
    return shell(f"{script}; exec sleep 1000", **spec) | {"image": ContainerdNode.image}


def once(script: str, **spec: Any) -> Object:
    return shell(script, **spec) | {"image": ContainerdNode.image}


def volumes_of(node: ContainerdNode, pod: Object) -> Path:
    return node.root / "kubelet/pods" / pod["metadata"]["uid"] / "volumes"


async def test_an_ordinary_user_reads_and_writes_as_its_group(node: ContainerdNode) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}}
    await node.client.create(secret | {"data": {"k": "c2VjcmV0"}})
    source = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
    await node.pod(
        "user",
        once(
            "cat /s/k; echo; cat /t/token; echo; touch /e/x /m/x && echo wrote; stat -c %g /e/x /m/x; "
            "stat -L -c '%a %g' /s/k /t/token; mount | grep -c ' on /[sm] type tmpfs'; touch /s/x 2>&- || echo refused",
            volumeMounts=[mounted(name, f"/{name}") for name in ("s", "t", "e", "m")],
        ),
        volumes=[
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "t", "projected": source},
            {"name": "e", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        securityContext={"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4567},
        restartPolicy="Never",
    )
    pod = await node.phase("user", "Succeeded")
    assert node.log("user").splitlines() == [
        *("secret", "token-of-default", "wrote", "4567", "4567", "440 4567", "640 4567", "2", "refused"),
    ]
    await until(lambda: not volumes_of(node, pod).exists())
    assert not mounts.below(node.root / "kubelet" / "pods")


async def test_changes_are_seen_in_the_container(node: ContainerdNode) -> None:
    await node.client.create(config_map("live", k="one"))
    await node.pod(
        "live",
        once(
            "until grep -q two /c/k; do sleep 0.05; done; cat /c/k; echo; cat /fixed; echo",
            volumeMounts=[mounted("v", "/c"), mounted("v", "/fixed", subPath="k")],
        ),
        volumes=[{"name": "v", "configMap": {"name": "live"}}],
        restartPolicy="Never",
    )
    await node.phase("live", "Running")
    await node.client.update(config_map("live", k="two"))
    await node.phase("live", "Succeeded")
    assert node.log("live") == "two\none\n"  # a subPath shows what it was


async def test_a_missing_secret_holds_the_pod_until_it_is_there(node: ContainerdNode) -> None:
    await node.pod(
        "waits",
        busy("cat /s/k; echo", volumeMounts=[mounted("v", "/s")]),
        volumes=[{"name": "v", "secret": {"secretName": "late"}}],
    )
    await node.event("FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "late" not found')
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late", "namespace": "default"}}
    await node.client.create(secret | {"data": {"k": "aGVyZQ=="}})
    await node.phase("waits", "Running")
    await until(lambda: node.log("waits") == "here\n")


async def test_sub_paths(node: ContainerdNode, tmp_path: Path) -> None:
    await node.pod(
        "sub",
        busy(
            "echo x > /mine/x; cat /all/pods/sub/x",
            volumeMounts=[mounted("e", "/all"), mounted("e", "/mine", subPathExpr="pods/$(NAME)")],
            env=[{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        ),
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    await node.phase("sub", "Running")
    await until(lambda: node.log("sub") == "x\n")
    await node.pod(
        "evil",
        busy("cat /e/shadow", volumeMounts=[mounted("e", "/e", subPath="out")]),
        initContainers=[once("ln -s /etc /e/out", name="link", volumeMounts=[mounted("e", "/e")])],
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    pod = await node.sees("evil", lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
    waiting = state(pod)["state"]["waiting"]
    assert waiting["reason"] == "CreateContainerConfigError"
    assert waiting["message"] == 'failed to prepare subPath for volumeMount "e" of container "c"'


async def test_host_paths(node: ContainerdNode) -> None:
    place = node.containerd.folder / "host"
    await node.pod(
        "host",
        once(
            "echo text > /d/file; touch /ro/x 2>&- || echo refused; cat /f",
            volumeMounts=[mounted("d", "/d"), mounted("d", "/ro", readOnly=True), mounted("f", "/f")],
        ),
        volumes=[
            {"name": "d", "hostPath": {"path": str(place / "made"), "type": "DirectoryOrCreate"}},
            {"name": "f", "hostPath": {"path": str(place / "one"), "type": "FileOrCreate"}},
        ],
        restartPolicy="Never",
    )
    await node.phase("host", "Succeeded")
    assert node.log("host") == "refused\n"
    assert (place / "made" / "file").read_text() == "text\n"
    await node.pod(
        "wrong",
        busy("true", volumeMounts=[mounted("d", "/d")]),
        volumes=[{"name": "d", "hostPath": {"path": str(place / "one"), "type": "Directory"}}],
    )
    text = f'MountVolume.SetUp failed for volume "d" : hostPath type check failed: {place}/one is not a directory'
    await node.event("FailedMount", text)
    (place / "one").unlink()
    (place / "one").mkdir()
    await node.phase("wrong", "Running")


async def test_mounts_of_the_machine_travel_to_the_container(node: ContainerdNode) -> None:
    place = node.containerd.folder / "travel"
    (place / "in").mkdir(parents=True)
    await node.pod(
        "travel",
        once(
            "until [ -e /h/in/file ]; do sleep 0.05; done; ls /none/in",
            volumeMounts=[mounted("h", "/h", mountPropagation="HostToContainer"), mounted("h", "/none")],
        ),
        volumes=[{"name": "h", "hostPath": {"path": str(place)}}],
        restartPolicy="Never",
    )
    await node.phase("travel", "Running")
    await asyncio.to_thread(subprocess.run, ["mount", "-t", "tmpfs", "tmpfs", str(place / "in")], check=True)
    (place / "in" / "file").touch()
    await node.phase("travel", "Succeeded")
    assert node.log("travel") == ""


async def test_what_this_runtime_cannot_do_is_said(node: ContainerdNode) -> None:
    await node.pod(
        "image",
        busy("true", volumeMounts=[mounted("i", "/i")]),
        volumes=[{"name": "i", "image": {"reference": node.image}}],
    )
    await node.event("FailedMount", 'MountVolume.SetUp failed for volume "i" : image volumes need containerd 2.1')
    await node.pod(
        "recursive",
        busy("true", volumeMounts=[mounted("e", "/e", readOnly=True, recursiveReadOnly="Enabled")]),
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    pod = await node.sees("recursive", lambda pod: state(pod)["state"].get("waiting", {}).get("message"))
    assert "it is not supported by the runtime" in state(pod)["state"]["waiting"]["message"]


async def test_a_local_persistent_volume(node: ContainerdNode) -> None:
    disk = node.containerd.folder / "disk"
    disk.mkdir()
    (disk / "there").write_text("data\n")
    claim = await node.client.create(CLAIM | {"status": {"phase": "Bound"}})
    reference = {"claimRef": {"name": "claim", "namespace": "default", "uid": claim["metadata"]["uid"]}}
    await node.client.create(persistent(disk, "n1", **reference))
    await node.pod(
        "local",
        busy("cat /d/there; echo y > /d/new", volumeMounts=[mounted("d", "/d")]),
        volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}],
        securityContext={"runAsUser": 1234, "fsGroup": 4567, "fsGroupChangePolicy": "OnRootMismatch"},
    )
    await node.phase("local", "Running")
    await until((disk / "new").exists)
    assert (disk / "there").stat().st_gid == (disk / "new").stat().st_gid == 4567
    await node.client.delete(PODS, "default", "local", grace_period_s=1)
    await node.gone("local")
    assert (disk / "there").read_text() == "data\n"


async def test_a_killed_kubelets_mounts_go_with_their_pods(node: ContainerdNode) -> None:
    await node.pod(
        "orphan",
        busy("true", volumeMounts=[mounted("e", "/e"), mounted("e", "/f", subPath="deep/er")]),
        volumes=[{"name": "e", "emptyDir": {"medium": "Memory"}}],
    )
    pod = await node.phase("orphan", "Running")
    await node.kubelet.stop()
    assert len(mounts.below(volumes_of(node, pod).parent)) == 2
    node.store.put(("pods", "default", "orphan"), None)
    await node.start_kubelet()
    await until(lambda: not volumes_of(node, pod).parent.exists(), 60)
    assert not mounts.below(node.root / "kubelet" / "pods")

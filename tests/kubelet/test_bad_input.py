"""What is wrong around a pod: it says so as upstream does, and goes on by itself when the cause has gone."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raykube.kubelet.config import Config
from raykube.kubelet.service import Service
from tests.kit import pki
from tests.kit.require import missing
from tests.kubelet.conftest import PODS, Node, Object, container, running_node, shell, state

pytestmark = pytest.mark.integration

BINDS = """
import os, socket, time
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(("127.0.0.1", int(os.environ["PORT"])))
taken.listen()
time.sleep(1000)
"""


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose disk is small, and that evicts nobody."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m,nr_inodes=400", "tmpfs", str(disk)]
    mounting = await asyncio.create_subprocess_exec("mount", *options, stderr=subprocess.DEVNULL)
    if await mounting.wait() != 0:
        missing("needs to mount a file system")
    try:
        async with running_node(root_dir=disk / "kubelet", eviction_hard="") as node:
            yield node
    finally:
        unmounting = await asyncio.create_subprocess_exec("umount", "-l", str(disk))
        assert await unmounting.wait() == 0


def disk_of(node: Node) -> Path:
    disk = Path(node.flags["root_dir"]).parent
    assert disk.is_mount()
    return disk


def waiting(pod: Object) -> str:
    return str(state(pod)["state"].get("waiting", {}).get("reason", ""))


async def test_a_disk_without_room_for_a_volume(small: Node) -> None:
    data = {"k": "x" * 500_000}
    await small.client.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data}
    )
    ballast = disk_of(small) / "ballast"
    free = os.statvfs(disk_of(small))
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 200_000))
    await small.pod(
        "p",
        shell("wc -c < /c/k; exec sleep 1000", volumeMounts=[{"name": "v", "mountPath": "/c"}]),
        volumes=[{"name": "v", "configMap": {"name": "c"}}],
    )
    await small.event("FailedMount", 'MountVolume.SetUp failed for volume "v" : ')
    (told,) = [one["message"] for one in events(small, "FailedMount")]
    assert told.endswith("no space left on device")
    pod = await small.sees("p", waiting)
    assert (waiting(pod), pod["status"]["phase"]) == ("ContainerCreating", "Pending")
    assert condition(pod, "Ready") == "False"
    ballast.unlink()
    await small.phase("p", "Running", 40)


async def test_a_disk_without_room_for_a_directory(small: Node) -> None:
    (disk_of(small) / "many").mkdir()
    files = []
    try:
        while True:
            files.append(disk_of(small) / "many" / str(len(files)))
            files[-1].touch()
    except OSError:
        files.pop()
    await small.pod("p", shell("exec sleep 1000"))
    await small.event("Failed", "error making pod data directories: ")
    pod = await small.sees("p", waiting)
    assert (waiting(pod), pod["status"]["phase"]) == ("ContainerCreating", "Pending")
    for file in files:
        file.unlink()
    await small.phase("p", "Running", 40)


def events(node: Node, reason: str) -> list[Object]:
    return [one for key, one in node.store.objects.items() if key[0] == "events" and one["reason"] == reason]


def condition(pod: Object, kind: str) -> str:
    return next(str(one["status"]) for one in pod["status"]["conditions"] if one["type"] == kind)


async def test_a_port_that_another_program_has(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        env = [{"name": "PORT", "value": str(port)}]
        await node.pod("p", container(sys.executable, "-c", BINDS, env=env), hostNetwork=True)
        pod = await node.sees("p", lambda pod: waiting(pod) == "CrashLoopBackOff")
        assert state(pod)["lastState"]["terminated"]["exitCode"] == 1
        assert "Address already in use" in node.log("p")
        assert condition(pod, "ContainersReady") == "False"
        await node.event("BackOff", "Back-off restarting failed container c in pod p_default(")
    await node.sees("p", lambda pod: "running" in state(pod)["state"], 40)


async def test_a_port_of_the_machine_that_another_pod_has(node: Node) -> None:
    ports = [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]
    await node.pod("first", shell("exec sleep 1000", ports=ports))
    await node.phase("first", "Running")
    await node.pod("second", shell("exec sleep 1000", ports=ports))
    pod = await node.phase("second", "Failed")
    message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    assert (pod["status"]["reason"], pod["status"]["message"]) == ("NodePorts", f"Pod was rejected: {message}")
    await node.event("NodePorts", message)
    await node.client.delete(PODS, "default", "first", grace_period_s=1)
    await node.gone("first")
    await node.pod("third", shell("exec sleep 1000", ports=ports))
    await node.phase("third", "Running")


async def test_a_kubelet_whose_port_is_taken(tmp_path: Path) -> None:
    tls = pki.tls("system:node:n1", server=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = Config(
            hostname_override="n1",
            node_ip="127.0.0.1",
            root_dir=tmp_path / "kubelet",
            container_runtime_endpoint=f"unix://{tmp_path}/none.sock",
            api_servers=["127.0.0.1:1"],
            address="127.0.0.1",
            port=port,
            tls_cert_file=tls.cert_file,
            tls_private_key_file=tls.key_file,
            client_ca_file=tls.ca_file,
        )
        with pytest.raises(OSError, match=rf"cannot serve on 127\.0\.0\.1:{port}: .*is another kubelet running\?"):
            await Service(config).start()
    service = Service(config)
    await service.start()  # the one that failed has let go of the directory
    await service.stop()


async def test_users_of_its_own_are_refused(node: Node) -> None:
    await node.pod("p", shell("exec sleep 1000"), hostUsers=False)
    message = "can't set `spec.hostUsers: false`, runtime does not support user namespaces"
    await node.event("FailedCreatePodSandBox", f"Failed to create pod sandbox: {message}")
    pod = await node.sees("p", waiting)
    assert (waiting(pod), pod["status"]["phase"]) == ("ContainerCreating", "Pending")


async def test_what_a_hook_says_is_in_no_event(node: Node) -> None:
    hook = {"exec": {"command": ["sh", "-c", "echo a secret; exit 1"]}}
    await node.pod("post", shell("exec sleep 1000", lifecycle={"postStart": hook}), terminationGracePeriodSeconds=1)
    pod = await node.sees("post", lambda pod: waiting(pod) == "PostStartHookError")
    assert state(pod)["state"]["waiting"]["message"] == "PostStartHook failed: a secret\n"
    await node.event("FailedPostStartHook", "PostStartHook failed")
    await node.event("Killing", "FailedPostStartHook")
    await node.pod("pre", shell("exec sleep 1000", lifecycle={"preStop": hook}), terminationGracePeriodSeconds=1)
    await node.phase("pre", "Running")
    await node.client.delete(PODS, "default", "pre")
    await node.gone("pre")
    await node.event("FailedPreStopHook", "PreStopHook failed")
    assert not any("secret" in one["message"] for key, one in node.store.objects.items() if key[0] == "events")

"""The node's side on a real containerd: use, images, logs, limits on disk; and what is not ours stays untouched."""

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from raykube.kubelet.cri import Cri
from raykube.kubelet.diskusage import DiskUsage
from raykube.kubelet.usage import UsageReader
from raykube.pb import cri_pb2
from tests.kit import images
from tests.kit.images import BUSYBOX
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration

UNUSED, STRAY = "example.test/unused:1", "example.test/stray:1"


async def test_what_pods_use(node: ContainerdNode) -> None:
    pod = await node.pod("busy", shell("echo x > /file; while :; do :; done", resources={"limits": {"cpu": "500m"}}))
    await node.phase("busy", "Running")
    cri = Cri(node.containerd.endpoint, NODE, 30)
    uid = pod["metadata"]["uid"]
    reader = UsageReader(cri, node.root / "kubelet", DiskUsage(node.root, node.root), lambda: [uid])
    try:
        first = (await reader.sample(0)).pod(uid)
        assert first is not None

        async def later() -> int:
            found = (await reader.sample(0)).pod(uid)
            assert found is not None
            assert found.containers[0].cpu is not None
            return found.containers[0].cpu.nano_cores or 0

        rate = 0
        while rate < 50_000_000:  # of a core; the test's time-out ends this
            await asyncio.sleep(0.3)
            rate = await later()
        usage = (await reader.sample(10)).pod(uid)
        assert usage is not None
        (container,) = usage.containers
        assert container.name == "c"
        assert container.memory is not None
        assert container.memory.working_set > 0
        assert container.started_at > usage.started_at > 1e9
        assert usage.network is not None
        assert usage.network.interfaces[0].name == "eth0"
        assert reader.image_directory.is_relative_to(node.containerd.folder)
    finally:
        await cri.close()


async def test_the_node_lists_its_images(node: ContainerdNode) -> None:
    def listed() -> set[str]:
        shown = node.store.objects.get(("nodes", "", NODE), {}).get("status", {}).get("images", [])
        return {name for image in shown for name in image["names"]}

    await until(lambda: BUSYBOX in listed(), 20)
    info = node.store.objects["nodes", "", NODE]["status"]["nodeInfo"]
    assert info["containerRuntimeVersion"].startswith("containerd://1.")


@pytest.mark.parametrize(
    "flags",
    [
        {
            "container_log_max_size": "16Ki",
            "container_log_max_files": 4,
            "container_log_monitor_interval": 0.2,
        }
    ],
)
async def test_logs_are_rotated_and_no_line_is_lost(node: ContainerdNode) -> None:
    await node.pod("talks", shell("i=0; while :; do i=$((i+1)); echo line $i; usleep 500; done"))
    await node.phase("talks", "Running")
    (log,) = (node.root / "kubelet" / "logs" / "pods").glob("default_talks_*/c/0.log")

    def rotated() -> list[Path]:
        found = {path.name: path for path in log.parent.iterdir() if path != log and path.suffix != ".tmp"}
        return [found[name] for name in sorted(found) if f"{name}.gz" not in found]

    await until(lambda: len([path for path in rotated() if path.suffix == ".gz"]) == 2, 60)

    def numbers(paths: list[Path]) -> list[int]:
        """What is rotated stays as it is; [] if the oldest went, or was packed, just now."""
        try:
            parts = [
                gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths
            ]
        except FileNotFoundError:
            return []
        return [int(line.split()[-1]) for line in b"".join(parts).splitlines()]

    found: list[int] = []

    def read() -> bool:
        found[:] = numbers(rotated())
        return bool(found)

    await until(read)
    before = rotated()
    assert found == list(range(found[0], found[-1] + 1))
    assert len(before) <= 3  # beside the one that is written to


@pytest.mark.parametrize("flags", [{"housekeeping_interval": 0.5}])
async def test_a_writable_layer_over_its_limit(node: ContainerdNode) -> None:
    limited = {"resources": {"limits": {"ephemeral-storage": "1Mi"}}}
    await node.pod("fills", shell("dd if=/dev/zero of=/file bs=1M count=4; exec sleep 1000") | limited)
    status = (await node.phase("fills", "Failed", 60))["status"]
    assert status["reason"] == "Evicted"
    assert status["message"] == "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "


async def _cri_stray(node: ContainerdNode) -> str:
    """A sandbox with a container that some other client of CRI made; the container's id."""
    cri = Cri(node.containerd.endpoint, "other", 30)
    try:
        sandbox = cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name="stray", namespace="default", uid="stray"),
            log_directory=str(node.root),
        )
        sandbox.linux.cgroup_parent = f"{node.containerd.cgroup_root}/stray"
        sandbox_id = await cri.run_sandbox(sandbox)
        config = cri_pb2.ContainerConfig(
            metadata=cri_pb2.ContainerMetadata(name="c"),
            image=cri_pb2.ImageSpec(image=BUSYBOX),
            command=["sleep", "1000"],
            log_path="stray.log",
        )
        container_id = await cri.create_container(sandbox_id, config, sandbox)
        await cri.start_container(container_id)
        return container_id
    finally:
        await cri.close()


def _images(node: ContainerdNode) -> set[str]:
    return set(node.containerd.ctr("-n", "k8s.io", "images", "ls", "-q").split())


async def test_a_full_image_disk_costs_unused_images_and_our_pods_but_nothing_that_is_not_ours(
    node: ContainerdNode,
) -> None:
    await node.kubelet.stop()
    containerd = node.containerd
    for image in (UNUSED, STRAY):
        containerd.import_image(images.build(image, files={"/which": image.encode()}))
    run = ("run", "--detach", f"--cgroup={containerd.cgroup_root}/ctr")
    containerd.ctr("-n", "k8s.io", *run, STRAY, "stray-ctr", "sleep", "1000")  # which CRI does not show
    await _cri_stray(node)
    before = containerd.tasks()
    assert len(before) == 3
    node.flags |= {
        "eviction_hard": "imagefs.available<99.999%",  # always: the disk is never so empty
        "minimum_image_ttl_duration": 0.0,
        "housekeeping_interval": 0.3,
        "sync_frequency": 0.5,
    }
    await node.start_kubelet()
    await until(lambda: UNUSED not in _images(node), 30)
    assert {BUSYBOX, images.PAUSE} <= _images(node)  # a stray uses one, sandboxes are made of the other
    await node.pod("late", shell("exec sleep 1000"))
    late = (await node.phase("late", "Failed"))["status"]
    assert late["message"] == "Pod was rejected: The node had condition: [DiskPressure]. "
    assert containerd.tasks() == before


@pytest.mark.parametrize("flags", [{"eviction_hard": "", "sync_frequency": 0.5}])
async def test_own_orphans_go_and_strays_stay(node: ContainerdNode) -> None:
    containerd = node.containerd
    strays = containerd.tasks()
    await node.pod("orphan", shell("exec sleep 1000"), terminationGracePeriodSeconds=1)
    pod = await node.phase("orphan", "Running")
    own = state(pod)["containerID"].rpartition("/")[2]
    await node.kubelet.stop()
    node.store.put(("pods", "default", "orphan"), None)  # deleted while the kubelet was away
    await node.start_kubelet()
    await until(lambda: own not in containerd.tasks(), 30)
    await until(lambda: containerd.tasks() == strays, 30)
    places = [node.root / "kubelet" / name for name in ("pods", "logs/pods")]
    await until(lambda: [os.listdir(place) for place in places] == [[], []], 30)

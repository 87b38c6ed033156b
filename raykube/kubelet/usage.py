"""Reads what machine and pods use: /proc, statvfs, and the runtime's statistics in one call for all pods.

A sample is kept for those who ask soon after, and whoever asks while one is taken waits for that one.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from raykube.kubelet.core import criconfig
from raykube.kubelet.core.usage import (
    Cpu,
    Filesystem,
    Interface,
    Memory,
    Network,
    NodeUsage,
    PodUsage,
    Sample,
    pod_usage,
    pods_of_containers,
    with_rates,
)
from raykube.kubelet.cri import Cri
from raykube.kubelet.diskusage import DiskUsage
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
IMAGE_FS_AGE_MAX_S = 30.0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def memory_of_machine(now: float) -> tuple[Memory, int]:
    """(use, capacity). What files have in memory and nobody touched lately counts as available, as in upstream."""
    fields = {}
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    total = fields.get("MemTotal", 0)
    usage = total - fields.get("MemFree", 0)
    working_set = max(usage - fields.get("Inactive(file)", 0), 0)
    swap = fields.get("SwapTotal", 0) - fields.get("SwapFree", 0)
    return Memory(now, working_set, usage, fields.get("AnonPages"), total - working_set, swap=swap), total


def filesystem_of(path: Path, now: float) -> Filesystem:
    """Raises OSError."""
    found = os.statvfs(path)
    size = found.f_frsize
    return Filesystem(
        at=now,
        used=(found.f_blocks - found.f_bfree) * size,
        inodes_used=found.f_files - found.f_ffree,
        capacity=found.f_blocks * size,
        available=found.f_bavail * size,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
    )


def _network(now: float) -> Network:
    default = next((line.split()[0] for line in _lines("/proc/net/route") if line.split()[1:2] == ["00000000"]), "")
    found = []
    for line in _lines("/proc/net/dev")[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(field) for field in rest.split()]
        name = name.strip()
        if name != "lo" and not name.startswith("veth"):
            found.append(Interface(name, numbers[0], numbers[2], numbers[8], numbers[10]))
    found.sort(key=lambda one: one.name != default)
    return Network(now, tuple(found))


def _processes() -> tuple[int, int]:
    """(tasks there are, tasks there may be)."""
    load = _lines("/proc/loadavg")
    running = int(load[0].split()[3].partition("/")[2]) if load else 0
    limits = [_number("/proc/sys/kernel/pid_max"), _number("/proc/sys/kernel/threads-max")]
    return running, min(filter(None, limits), default=0)


def read_machine(root: Path, images: Path) -> NodeUsage:
    """`root` is on the disk of volumes and logs, `images` on the runtime's. Raises OSError."""
    now = time.time()
    ticks, boot = 0, 0
    for line in _lines("/proc/stat"):
        if line.startswith("cpu "):
            fields = [int(field) for field in line.split()[1:9]]
            ticks = sum(fields) - fields[3] - fields[4]  # all but idle and waiting for disks
        elif line.startswith("btime "):
            boot = int(line.split()[1])
    memory, capacity = memory_of_machine(now)
    processes, processes_max = _processes()
    return NodeUsage(
        started_at=float(boot),
        cpu=Cpu(now, ticks * TICK_NS),
        memory=memory,
        memory_capacity=capacity,
        filesystem=filesystem_of(root, now),
        image_filesystem=filesystem_of(images, now),
        processes=processes,
        processes_max=processes_max,
        network=_network(now),
        image_filesystem_is_own=os.stat(root).st_dev != os.stat(images).st_dev,
    )


class UsageReader:
    """`image_directory` is where the runtime keeps images, as far as it tells a place that we can see."""

    def __init__(self, cri: Cri, root: Path, disk: DiskUsage, living: Callable[[], Iterable[str]]) -> None:
        self._cri = cri
        self._root = root
        self._disk = disk
        self._living = living
        self._has_sandbox_stats = True
        self._sample: Sample | None = None
        self._taken_at = 0.0
        self._taking: asyncio.Future[Sample] | None = None
        self._images_at = float("-inf")
        self.image_directory = root

    async def machine(self) -> NodeUsage:
        """The machine alone: no pod is looked at. Raises OSError."""
        await self._find_images()
        return read_machine(self._root, self.image_directory)

    async def _find_images(self) -> None:
        now = time.monotonic()
        if now - self._images_at < IMAGE_FS_AGE_MAX_S:
            return
        self._images_at = now
        try:
            place = await self._cri.image_mountpoint()
        except RpcError as error:
            log.debug("the runtime does not tell where its images are: %s", error.message)
            return
        self.image_directory = Path(place) if place and Path(place).is_dir() else self._root

    async def sample(self, age_max_s: float) -> Sample:
        """Machine and pods, at most so old, with what is known of pods' disks now. Raises RpcError, OSError."""
        if self._sample is not None and time.monotonic() - self._taken_at <= age_max_s:
            return self._with_disks(self._sample)
        if self._taking is None:
            self._taking = asyncio.ensure_future(self._take())
            self._taking.add_done_callback(self._taken)
        return self._with_disks(await asyncio.shield(self._taking))

    def _with_disks(self, sample: Sample) -> Sample:
        shown = []
        for pod in sample.pods:
            disk = self._disk.known(pod.uid)
            if disk is not None:
                containers = tuple(replace(one, logs=disk.logs.get(one.name)) for one in pod.containers)
                pod = replace(pod, containers=containers, volumes=disk.volumes)
            shown.append(pod)
        return Sample(sample.node, tuple(shown))

    def _taken(self, taking: "asyncio.Future[Sample]") -> None:
        self._taking = None
        if not taking.cancelled() and taking.exception() is None:
            self._taken_at = time.monotonic()

    async def _take(self) -> Sample:
        node, pods, containers, sandboxes = await asyncio.gather(
            self.machine(), self._pods(), self._cri.containers(), self._cri.sandboxes()
        )
        started = {item.id: item for item in containers}
        begun = {item.id: item.created_at / 1e9 for item in sandboxes}
        first = {item.labels.get(criconfig.POD_UID, ""): item.created_at / 1e9 for item in sandboxes}
        self._disk.forget(set(self._living()))
        full = []
        for pod in pods:
            shown = []
            for one in pod.containers:
                item = started.get(one.id)
                if item is not None:
                    one = replace(one, started_at=item.created_at / 1e9, image=item.image.image)
                shown.append(one)
            since = begun.get(pod.sandbox_id) or first.get(pod.uid, 0.0)
            full.append(replace(pod, started_at=since, containers=tuple(shown)))
        self._sample = with_rates(Sample(node, tuple(full)), self._sample)
        return self._sample

    async def _pods(self) -> list[PodUsage]:
        if self._has_sandbox_stats:
            try:
                return [pod_usage(message) for message in await self._cri.sandbox_stats()]
            except RpcError as error:
                if error.code is not Code.UNIMPLEMENTED:
                    raise
                self._has_sandbox_stats = False
        return pods_of_containers(await self._cri.stats())

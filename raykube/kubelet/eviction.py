"""Watches what is left of memory, disks and process ids; when it is too little, frees it: images and dead containers
first where a disk is short, then one pod at a time, until the machine recovers.

Memory, disks and process ids are read from /proc and statvfs at each look; pods are measured only when one must go, or
has a limit of its own on disk.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

from raykube.client.events import EventRecorder
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core import ranking
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.status import Verdict
from raykube.kubelet.core.thresholds import Observation, Observations, Pressure, Threshold
from raykube.kubelet.core.usage import NodeUsage, PodUsage
from raykube.kubelet.diskusage import DiskUsage
from raykube.kubelet.measures import Measures
from raykube.kubelet.usage import UsageReader
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

GONE_WAIT_S = 30.0


class Member(Protocol):
    """A pod's worker, as far as eviction is concerned."""

    pod: Object
    finished: bool
    ended: asyncio.Event  # set once it has finished

    def end(self, verdict: Verdict) -> bool: ...


def observations_of(node: NodeUsage) -> Observations:
    found = {
        "memory.available": Observation(node.memory.available or 0, node.memory_capacity, node.memory.at),
        "pid.available": Observation(node.processes_max - node.processes, node.processes_max, node.cpu.at),
    }
    for name, usage in (
        ("nodefs", node.filesystem),
        ("imagefs", node.image_filesystem),
        ("containerfs", node.image_filesystem),
    ):
        found[f"{name}.available"] = Observation(usage.available, usage.capacity, usage.at)
        if usage.inodes:  # some file systems have no such limit
            found[f"{name}.inodesFree"] = Observation(usage.inodes_free, usage.inodes, usage.at)
    return found


class Eviction:
    """`reclaim` frees what no pod needs of the disks; `changed` is called when the node's conditions did."""

    def __init__(
        self,
        pressure: Pressure,
        grace_s_max: int,
        period_s: float,
        usage: UsageReader,
        disk: DiskUsage,
        events: EventRecorder,
        node_reference: Object,
        measures: Measures,
        members: Callable[[], Iterable[Member]],
        reclaim: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self._pressure = pressure
        self._grace_s_max = grace_s_max
        self._period_s = period_s
        self._usage = usage
        self._disk = disk
        self._events = events
        self._node_reference = node_reference
        self._measures = measures
        self._members = members
        self._reclaim = reclaim
        self._changed = changed

    def conditions(self) -> frozenset[str]:
        return self._pressure.conditions

    async def run(self) -> None:
        while True:
            try:
                evicted = await self.look()
            except (OSError, RpcError) as error:
                log.warning("what is left of the machine cannot be read: %s", error)
                evicted = []
            if evicted:
                await self._gone(evicted)
            else:
                await asyncio.sleep(self._period_s)

    async def _gone(self, evicted: list[Member]) -> None:
        """The next look must see what the last eviction freed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE_WAIT_S):
                for member in evicted:
                    await member.ended.wait()

    async def look(self) -> list[Member]:
        """One round; the pods that it evicts."""
        node = await self._usage.machine()
        observations = observations_of(node)
        before = self._pressure.conditions
        acting = self._pressure.observe(observations, time.time())
        if self._pressure.conditions != before:
            self._changed()
        active = [member for member in self._members() if not member.finished and not pods.is_terminal(member.pod)]
        evicted = await self._enforce_limits(active, node.image_filesystem_is_own)
        if evicted or not acting:
            return evicted
        threshold = acting[0]
        self._events.record(
            self._node_reference, "Warning", "EvictionThresholdMet", f"Attempting to reclaim {threshold.resource}"
        )
        if threshold.condition == "DiskPressure":
            await self._reclaim()
            observations = observations_of(await self._usage.machine())
            if self._pressure.relieved(threshold, observations):
                return []
        return await self._evict_one(active, threshold, observations, node.image_filesystem_is_own)

    async def _measured(self, members: list[Member]) -> Callable[[str], PodUsage | None]:
        await self._disk.refresh([pods.uid(member.pod) for member in members], self._period_s)
        return (await self._usage.sample(0.0)).pod

    async def _enforce_limits(self, active: list[Member], own_image_fs: bool) -> list[Member]:
        limited = [member for member in active if ranking.has_disk_limit(member.pod)]
        if not limited:
            return []
        find = await self._measured(limited)
        evicted = []
        for member in limited:
            usage = find(pods.uid(member.pod))
            over = ranking.excess(member.pod, usage, own_image_fs) if usage is not None else None
            if over is not None and self._end(member, over.verdict(), over.signal):
                evicted.append(member)
        return evicted

    async def _evict_one(
        self, active: list[Member], threshold: Threshold, observations: Observations, own_image_fs: bool
    ) -> list[Member]:
        if not active:
            log.error("%s is short, and no pod is left to evict", threshold.resource)
            return []
        find = await self._measured(active)
        by_uid = {pods.uid(member.pod): member for member in active}
        for pod in ranking.ranked([member.pod for member in active], find, threshold, own_image_fs):
            verdict = ranking.eviction(pod, find(pods.uid(pod)), threshold, observations, self._grace_s_max)
            if self._end(by_uid[pods.uid(pod)], verdict, threshold.signal):
                return [by_uid[pods.uid(pod)]]
        log.error("%s is short, and no pod may be evicted", threshold.resource)
        return []

    def _end(self, member: Member, verdict: Verdict, signal: str) -> bool:
        name = pods.full_name(member.pod)
        if ranking.is_critical(member.pod):
            log.error("the critical pod %s is not evicted: %s", name, verdict.message)
            return False
        if not member.end(verdict):
            return False
        self._events.record(member.pod, "Warning", verdict.reason, verdict.message)
        log.warning("evicting the pod %s: %s", name, verdict.message)
        self._measures.evictions.add((signal,))
        return True

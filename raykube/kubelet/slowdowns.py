"""Reads how long pods' threads wait for a CPU, for the node's Lease to tell the scheduler.

A container's first process comes from the runtime, once; its descendants from /proc. The reader sees processes only
where the kubelet shares the runtime's view of them; where it does not, or the kernel does not count, nothing is told.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from raykube.api import slowdowns
from raykube.kubelet.core import criconfig
from raykube.kubelet.core.slowdown import Ran, Threads, slowdown
from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

THREADS_MAX = 512  # of a pod; the first ones speak for the rest
ALL_THREADS_MAX = 4096  # of all pods together, shared alike
PERIOD_S = 10.0
START_FIELD = 19  # of /proc/PID/stat, counted behind the name


def threads_of(pids: Iterable[int], most: int) -> Threads:
    """The threads of processes and of their descendants, `most` at most."""
    found: dict[tuple[int, int], Ran] = {}
    waiting = list(pids)
    while waiting:
        with suppress(OSError, ValueError, IndexError):
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                if len(found) >= most:
                    return found
                with suppress(OSError, ValueError, IndexError):
                    begun = int((task / "stat").read_text().rpartition(")")[2].split()[START_FIELD])
                    on_cpu, ready = (task / "schedstat").read_text().split()[:2]
                    found[int(task.name), begun] = Ran(int(on_cpu), int(ready))
                    waiting += map(int, (task / "children").read_text().split())
    return found


class SlowdownReader:
    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._pids: dict[str, int] = {}  # by container id; 0 where the runtime names none
        self._before: dict[str, Threads] = {}
        self._before_at = 0.0
        self.annotations: dict[str, str] = {}  # for the Lease

    async def run(self) -> None:
        """Reads for ever. The Lease takes what was read last: a runtime that hangs must not cost a heartbeat."""
        while True:
            try:
                told = await asyncio.to_thread(self._read, await self._find())
                self.annotations = {slowdowns.ANNOTATION: slowdowns.written(told)} if told else {}
            except RpcError as error:
                log.debug("pods' processes are not known: %s", error.message)
                self.annotations = {}
            await asyncio.sleep(PERIOD_S)

    def _read(self, pids: dict[str, list[int]]) -> dict[str, float]:
        """What happened to each pod since the last call."""
        now = time.monotonic()
        most = max(min(THREADS_MAX, ALL_THREADS_MAX // max(len(pids), 1)), 1)
        after = {uid: threads_of(first, most) for uid, first in pids.items()}
        between = now - self._before_at
        found = {uid: slowdown(self._before[uid], after[uid], between) for uid in after if uid in self._before}
        self._before, self._before_at = after, now
        return {uid: value for uid, value in found.items() if value is not None}

    async def _find(self) -> dict[str, list[int]]:
        """First processes of running containers, by pod. Raises RpcError where the runtime does not list them."""
        running = [item for item in await self._cri.containers() if item.state == cri_pb2.CONTAINER_RUNNING]
        self._pids = {item.id: self._pids[item.id] for item in running if item.id in self._pids}
        found: dict[str, list[int]] = {}
        for item in running:
            if item.id not in self._pids:
                with suppress(RpcError):  # it has gone meanwhile, as a rule; else the next look asks again
                    self._pids[item.id] = await self._cri.first_process(item.id)
            if pid := self._pids.get(item.id):
                found.setdefault(item.labels.get(criconfig.POD_UID, ""), []).append(pid)
        return found

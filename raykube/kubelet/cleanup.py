"""Periodic tidying: old runs of containers, old sandboxes, large logs, and what pods that are gone left behind.

Only what carries this node's label is looked at, and orphans only after the list of pods is known to be complete.
"""

import asyncio
import gzip
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from raykube.kubelet.cgroups import PodCgroups
from raykube.kubelet.core import criconfig
from raykube.kubelet.core.logrotation import PACKED, UNFINISHED, rotation
from raykube.kubelet.cri import Cri
from raykube.kubelet.volumes import Volumes
from raykube.pb import cri_pb2
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

PERIOD_S = 60.0
ORPHAN_GRACE_S = 30


class Cleanup:
    def __init__(
        self,
        cri: Cri,
        volumes: Volumes,
        known: Callable[[], set[str]],
        finished: Callable[[], set[str]],
        keep_runs: int,
        age_min_s: float,
        log_bytes_max: int,
        log_files_max: int,
        log_period_s: float,
        cgroups: PodCgroups,
    ) -> None:
        self._cri = cri
        self._volumes = volumes
        self._known = known
        self._finished = finished
        self._keep_runs = keep_runs
        self._age_min_s = age_min_s
        self._log_bytes_max = log_bytes_max
        self._cgroups = cgroups
        self._log_files_max = max(log_files_max, 2)
        self._log_period_s = log_period_s

    async def tidy_forever(self) -> None:
        """Call once the list of pods is complete."""
        while True:
            try:
                await self.tidy()
            except (RpcError, OSError) as error:
                log.warning("clean-up is tried again in a minute: %s", error)
            await asyncio.sleep(PERIOD_S)

    async def tidy(self) -> None:
        """What stays for now is logged. Raises RpcError and OSError when it cannot be told what there is.

        A pod may come at any await. Directories are listed before all else, so that those of a pod that comes later
        are not among them, and each is removed only if its pod has not come back meanwhile.
        """
        uids, logs = self._volumes.known(), self._volumes.known_logs()
        sandboxes, containers = await asyncio.gather(self._cri.sandboxes(), self._cri.containers())
        known = self._known()
        removed = await self._remove_orphans(known, sandboxes, containers)
        await self._remove_old_runs(known, containers)
        await self._remove_old_sandboxes(known, sandboxes, containers)
        left = {item.labels.get(criconfig.POD_UID, "") for item in sandboxes if item.id not in removed}
        uids |= {item.labels.get(criconfig.POD_UID, "") for item in sandboxes}
        self._cgroups.remove_orphans(uids - left, self._known())  # before the directories, which tell of them
        await self._remove_directories(uids - left, {log: uid for log, uid in logs.items() if uid not in left})

    async def _remove_orphans(
        self, known: set[str], sandboxes: list[cri_pb2.PodSandbox], containers: list[cri_pb2.Container]
    ) -> set[str]:
        """Our own pods that the API no longer has: they were deleted while we were away. Returns what is gone."""

        async def remove(sandbox: cri_pb2.PodSandbox) -> None:
            grace = sandbox.annotations.get(criconfig.GRACE, "")
            grace_s = int(grace) if grace.isdigit() else ORPHAN_GRACE_S
            log.info("removing the orphaned pod %s", sandbox.metadata.name)
            running = [
                item
                for item in containers
                if item.pod_sandbox_id == sandbox.id and item.state == cri_pb2.CONTAINER_RUNNING
            ]
            await asyncio.gather(*(self._cri.stop_container(item.id, grace_s) for item in running))
            await self._cri.stop_sandbox(sandbox.id)
            await self._cri.remove_sandbox(sandbox.id)

        orphans = [item for item in sandboxes if item.labels.get(criconfig.POD_UID) not in known]
        results = await asyncio.gather(*(remove(sandbox) for sandbox in orphans), return_exceptions=True)
        removed = set()
        for sandbox, result in zip(orphans, results, strict=True):
            if isinstance(result, BaseException):
                log.warning("an orphaned pod stays for now: %s", result)
            else:
                removed.add(sandbox.id)
        return removed

    async def _remove_old_runs(self, known: set[str], containers: list[cri_pb2.Container]) -> None:
        """Keeps the newest run of each container and `keep_runs` ended ones before it."""
        runs: dict[tuple[str, str], list[cri_pb2.Container]] = defaultdict(list)
        for item in containers:
            uid = item.labels.get(criconfig.POD_UID, "")
            if uid in known:
                runs[uid, item.metadata.name].append(item)
        for items in runs.values():
            items.sort(key=lambda one: one.created_at, reverse=True)
            for item in items[1 + self._keep_runs :]:
                old_enough = time.time() - item.created_at / 1e9 >= self._age_min_s
                if item.state == cri_pb2.CONTAINER_EXITED and old_enough:
                    try:
                        await self._remove_run(item)
                    except (RpcError, OSError) as error:
                        log.warning("an old run of the container %s stays for now: %s", item.metadata.name, error)

    async def _remove_run(self, item: cri_pb2.Container) -> None:
        path = self._log_path(item)
        await self._cri.remove_container(item.id)
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink(missing_ok=True)

    async def _remove_old_sandboxes(
        self, known: set[str], sandboxes: list[cri_pb2.PodSandbox], containers: list[cri_pb2.Container]
    ) -> None:
        """Of each pod the newest sandbox stays, and any that still has containers."""
        newest: dict[str, int] = {}
        for item in sandboxes:
            uid = item.labels.get(criconfig.POD_UID, "")
            newest[uid] = max(newest.get(uid, 0), item.created_at)
        used = {item.pod_sandbox_id for item in containers}
        for item in sandboxes:
            uid = item.labels.get(criconfig.POD_UID, "")
            stopped = item.state == cri_pb2.SANDBOX_NOTREADY
            if uid in known and stopped and item.created_at < newest[uid] and item.id not in used:
                try:
                    await self._cri.remove_sandbox(item.id)
                except RpcError as error:
                    log.warning("an old sandbox of the pod %s stays for now: %s", item.metadata.name, error)

    async def _remove_directories(self, uids: set[str], logs: dict[Path, str]) -> None:
        """Those of pods that are not there. One that cannot be removed does not keep the others."""
        for uid in uids - {""}:
            if uid not in self._known():
                try:
                    await asyncio.to_thread(self._volumes.remove, uid)
                except OSError as error:
                    log.warning("the volumes of pod %s stay for now: %s", uid, error)
        for directory, uid in logs.items():
            if uid not in self._known():
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def remove_finished(self) -> None:
        """Removes the sandboxes of pods that have ended, with their containers: what a short disk can do without."""
        finished = self._finished()
        for item in await self._cri.sandboxes():
            if item.state == cri_pb2.SANDBOX_NOTREADY and item.labels.get(criconfig.POD_UID, "") in finished:
                await self._cri.remove_sandbox(item.id)

    # -- logs

    async def rotate_forever(self) -> None:
        """Needs no list of pods: a container that runs is rotated, whoever wants it."""
        while True:
            await asyncio.sleep(self._log_period_s)
            try:
                await self.rotate()
            except (RpcError, OSError) as error:
                log.warning("logs are not rotated: %s", error)

    async def rotate(self) -> None:
        """Starts a new file for each log that is too large, and keeps a bounded number of old ones."""
        for item in await self._cri.containers():
            path = self._log_path(item)
            if item.state != cri_pb2.CONTAINER_RUNNING:
                continue
            try:
                if not path.exists():  # a rotation was cut short: its container still writes to the file put aside
                    await self._cri.reopen_log(item.id)
                elif self._is_too_large(path):
                    await self._rotate_one(item.id, path)
            except (RpcError, OSError) as error:
                log.warning("the log %s is not rotated: %s", path, error)

    def _log_path(self, item: cri_pb2.Container) -> Path:
        labels = item.labels
        pod = "_".join(labels.get(key, "") for key in (criconfig.POD_NAMESPACE, criconfig.POD_NAME, criconfig.POD_UID))
        return self._volumes.logs_directory / pod / item.metadata.name / f"{item.metadata.attempt}.log"

    def _is_too_large(self, path: Path) -> bool:
        try:
            return path.stat().st_size >= self._log_bytes_max
        except OSError:
            return False

    async def _rotate_one(self, container_id: str, path: Path) -> None:
        aside = Path(f"{path}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        if aside.exists():
            return  # it fills up in less than a second: the name is taken until then
        rotated = [file.name for file in path.parent.glob(f"{path.name}.*")]
        removals, packings = rotation(rotated, self._log_files_max)
        for name in removals:
            (path.parent / name).unlink(missing_ok=True)
        for name in packings:
            await asyncio.to_thread(_pack, path.parent / name)
        path.rename(aside)
        try:
            await self._cri.reopen_log(container_id)
        except RpcError:
            if not path.exists():
                aside.rename(path)  # it is still written to
            raise


def _pack(path: Path) -> None:
    unfinished = Path(f"{path}{UNFINISHED}")
    with path.open("rb") as source, gzip.open(unfinished, "wb") as target:
        shutil.copyfileobj(source, target)
    unfinished.rename(f"{path}{PACKED}")
    path.unlink()

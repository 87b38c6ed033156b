"""What pods have on the machine's disk: volumes and logs, counted in a thread, the more seldom the longer it takes."""

import asyncio
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from raykube.kubelet.core.usage import Filesystem
from raykube.kubelet.core.volumespec import EMPTY_DIR

COST_FACTOR = 20  # a pod is counted again after so many times what counting took


@dataclass(frozen=True, slots=True)
class PodDisk:
    """By volume, and by container."""

    volumes: dict[str, Filesystem] = field(default_factory=dict)
    logs: dict[str, Filesystem] = field(default_factory=dict)


def count(directory: Path) -> tuple[int, int]:
    """(bytes, inodes) of everything below and with `directory` on its own file system; hard links count once."""
    try:
        top = directory.stat(follow_symlinks=False)
    except OSError:
        return 0, 0
    used, inodes, linked = top.st_blocks * 512, 1, set()
    pending = [os.fspath(directory)] if stat.S_ISDIR(top.st_mode) else []
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue  # removed meanwhile
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if found.st_dev != top.st_dev:
                    continue
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if found.st_ino in linked:
                        continue
                    linked.add(found.st_ino)
                used += found.st_blocks * 512
                inodes += 1
                if stat.S_ISDIR(found.st_mode):
                    pending.append(entry.path)
    return used, inodes


def _measure(directory: Path) -> Filesystem:
    used, inodes = count(directory)
    return Filesystem(time.time(), used, inodes)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def measure_pod(volumes: Path, logs: Iterable[Path]) -> PodDisk:
    """`volumes` is ROOT/pods/UID/volumes; each of `logs` a pod's log directory. A volume in memory is none on disk."""
    try:
        device = volumes.stat().st_dev
    except OSError:
        device = -1
    return PodDisk(
        {path.name: _measure(path) for path in _children(volumes / EMPTY_DIR) if path.stat().st_dev == device},
        {path.name: _measure(path) for directory in logs for path in _children(directory)},
    )


class DiskUsage:
    def __init__(self, pods_directory: Path, logs_directory: Path) -> None:
        self._pods = pods_directory
        self._logs = logs_directory
        self._known: dict[str, tuple[float, float, PodDisk]] = {}  # uid → (when, seconds it took, what)
        self._lock = asyncio.Lock()

    def known(self, uid: str) -> PodDisk | None:
        found = self._known.get(uid)
        return found[2] if found is not None else None

    async def refresh(self, uids: Iterable[str], age_max_s: float) -> None:
        """Counts again the pods whose last count is older; forgets every other pod that is gone."""
        async with self._lock:
            now = time.monotonic()
            due = []
            for uid in uids:
                known = self._known.get(uid)
                if known is None or now - known[0] >= max(age_max_s, COST_FACTOR * known[1]):
                    due.append(uid)
            if due:
                self._known.update(await asyncio.to_thread(self._count, due))

    def forget(self, living: set[str]) -> None:
        for uid in self._known.keys() - living:
            del self._known[uid]

    def _count(self, uids: list[str]) -> dict[str, tuple[float, float, PodDisk]]:
        wanted, logs = set(uids), {}
        for directory in _children(self._logs):
            uid = directory.name.rpartition("_")[2]
            if uid in wanted:
                logs[uid] = directory
        found = {}
        for uid in uids:
            begun = time.monotonic()
            usage = measure_pod(self._pods / uid / "volumes", [logs[uid]] if uid in logs else [])
            found[uid] = (begun, time.monotonic() - begun, usage)
        return found

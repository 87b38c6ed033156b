"""Pods' control groups on this machine: limits of a pod as a whole, and the groups of pods that are gone.

The runtime makes a pod's group when it makes its sandbox in there; what it leaves empty is removed here. Both versions
of control groups are written; under the systemd driver systemd owns the groups, and only what is empty is removed.
By default (--cgroup-root=/) the groups above the pods' are those of any kubelet on the machine: in them only the
groups of pods that this one had are touched, and a weight that nobody set is set.
"""

import errno
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.controlgroups import cgroup_parent, levels, pod_uid
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import qos_class
from raykube.kubelet.core.sizes import QUOTA_PERIOD_US, SHARES_MIN, GroupLimits, group_limits

log = logging.getLogger(__name__)

MOUNT = Path("/sys/fs/cgroup")
NO_MEMORY_LIMIT_V1 = "9223372036854771712"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for a file of a control group; `unset` is what is there when nobody has said anything."""

    path: Path
    value: str
    unset: str


def unified_hierarchy() -> bool:
    """Whether this machine has control groups version 2 alone."""
    return (MOUNT / "cgroup.controllers").exists()


class PodCgroups:
    def __init__(self, root: str, driver: str) -> None:
        self._root = root
        self.driver = driver
        self._unified = unified_hierarchy()
        self.enabled = os.geteuid() == 0 and MOUNT.is_dir()
        self._busy: set[str] = set()  # uids of pods whose groups could not be removed yet

    def _hierarchies(self) -> list[Path]:
        if self._unified:
            return [MOUNT]
        with suppress(OSError):
            return [path for path in MOUNT.iterdir() if path.is_dir() and not path.is_symlink()]
        return []

    def apply(self, pod: Object) -> None:
        """Holds the pod as a whole to its limits. What the machine does not allow is logged; the pod runs on."""
        if not self.enabled or self.driver == "systemd":
            return
        group = cgroup_parent(pod, self._root, self.driver).lstrip("/")
        try:
            self._write(group, group_limits(pod))
            if qos_class(pod) == "BestEffort":
                self._weigh_least(group.rpartition("/")[0])
        except OSError as error:
            log.warning("pod %s: its control group %s is not limited: %s", pods.full_name(pod), group, error)

    def _weigh_least(self, group: str) -> None:
        """All pods that asked for nothing weigh as little as one of them, unless somebody gave their group a weight."""
        if self._unified:
            path, ours, unset = MOUNT / group / "cpu.weight", 1, "100"
        else:
            path, ours, unset = MOUNT / "cpu" / group / "cpu.shares", SHARES_MIN, "1024"
        if path.exists() and path.read_text().strip() == unset:
            path.write_text(str(ours))

    def _write(self, group: str, limits: GroupLimits) -> None:
        if self._unified:
            path = MOUNT / group
            if not path.is_dir():
                return  # the runtime makes it, with the controllers that it delegates
            _set(path / "cpu.weight", str(_weight(limits.cpu_shares)))
            _set(path / "cpu.max", f"{limits.cpu_quota_us or 'max'} {QUOTA_PERIOD_US}")
            _set(path / "memory.max", str(limits.memory_bytes or "max"))
            return
        cpu, memory = MOUNT / "cpu" / group, MOUNT / "memory" / group
        if cpu.is_dir():
            _set(cpu / "cpu.shares", str(limits.cpu_shares))
            _set(cpu / "cpu.cfs_period_us", str(QUOTA_PERIOD_US))
            _set(cpu / "cpu.cfs_quota_us", str(limits.cpu_quota_us or -1))
        if memory.is_dir():
            _set(memory / "memory.limit_in_bytes", str(limits.memory_bytes or -1))

    @property
    def limits_all(self) -> bool:
        """Whether the group above all pods is ours to limit."""
        return self.enabled and self.driver != "systemd"

    def settings_of_all(self, limits: GroupLimits) -> list[Setting]:
        """What limits all pods together; makes their group where it is missing. Raises OSError."""
        group = levels(self._root, self.driver)[0].lstrip("/")
        memory = str(limits.memory_bytes)
        if self._unified:
            place = MOUNT / group
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            with suppress(OSError):  # most machines have given them out already
                (place.parent / "cgroup.subtree_control").write_text("+cpu +memory")
            weight = str(_weight(limits.cpu_shares))
            return [Setting(place / "memory.max", memory, "max"), Setting(place / "cpu.weight", weight, "100")]
        for controller in ("memory", "cpu"):
            (MOUNT / controller / group).mkdir(mode=0o755, parents=True, exist_ok=True)
        page = os.sysconf("SC_PAGE_SIZE")
        whole_pages = str(limits.memory_bytes // page * page)  # as the kernel shows it
        return [
            Setting(MOUNT / "memory" / group / "memory.limit_in_bytes", whole_pages, NO_MEMORY_LIMIT_V1),
            Setting(MOUNT / "cpu" / group / "cpu.shares", str(limits.cpu_shares), "1024"),
        ]

    def remove(self, pod: Object) -> None:
        """Removes the group of a pod of which nothing runs; `remove_orphans` tries again where something still does."""
        if self.enabled and not self._remove(cgroup_parent(pod, self._root, self.driver)):
            self._busy.add(pods.uid(pod))

    def _remove(self, group: str) -> bool:
        """False: there are processes in it."""
        empty = True
        for hierarchy in self._hierarchies():
            top = hierarchy / group.lstrip("/")
            for path, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(path)
                except OSError as error:
                    empty = empty and error.errno != errno.EBUSY
                    if error.errno not in (errno.ENOENT, errno.EBUSY):
                        log.debug("the control group %s stays: %s", path, error)
        return empty

    def remove_orphans(self, had: set[str], known: set[str]) -> None:
        """Removes the groups of pods that this kubelet had and that are gone, by uid; one with processes stays."""
        if not self.enabled:
            return
        uids = (had | self._busy) - known
        shown = {uid.replace("-", "_") if self.driver == "systemd" else uid: uid for uid in uids}
        found: dict[str, str] = {}
        for hierarchy in self._hierarchies():
            for level in levels(self._root, self.driver):
                with suppress(OSError):
                    for name in os.listdir(hierarchy / level.lstrip("/")):
                        if uid := shown.get(pod_uid(name)):
                            found[f"{level}/{name}"] = uid
        self._busy = {uid for group, uid in found.items() if not self._remove(group)}


def _weight(cpu_shares: int) -> int:
    """Version 2's weight for version 1's shares."""
    return 1 + (cpu_shares - 2) * 9999 // 262142


def _set(path: Path, value: str) -> None:
    if path.exists() and path.read_text().strip() != value:
        path.write_text(value)

"""Resource limits by control groups, version 1 or 2, where this user may write them; elsewhere there are none.

A container's group is made below `raykube/CLUSTER/NODE`, under our own group where the kernel allows that, so that the
limits we run under hold for containers too.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykube.pb import cri_pb2

log = logging.getLogger(__name__)

CPU_WEIGHT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller's directory for our containers; under version 2 all controllers share one."""

    name: str
    directory: Path
    version: int


def _mounts() -> list[tuple[str, str, set[str]]]:
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append((place, kind, set(options.split(","))))
    return found


def _own_groups() -> dict[str, str]:
    """Our own group by controller; "" is version 2's."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _enable(directory: Path, names: set[str]) -> bool:
    """Hands controllers down to the children of a version 2 group."""
    if not names <= set((directory / "cgroup.controllers").read_text().split()):
        return False
    if not names <= set((directory / "cgroup.subtree_control").read_text().split()):
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))
    return True


class Cgroups:
    """The groups of one runtime's containers."""

    def __init__(self, controllers: dict[str, Controller]) -> None:
        self._controllers = controllers

    @classmethod
    def find(cls, cluster: str, node: str) -> "Cgroups":
        """What this machine allows us, tried out by making our directory."""
        relative = Path("raykube") / (cluster or "default") / (node or "node")
        controllers: dict[str, Controller] = {}
        own = _own_groups()
        for place, kind, options in _mounts():
            root = Path(place)
            try:
                if kind == "cgroup2":
                    names = {"memory", "cpu"}
                    chain = [root, *(root / parent for parent in reversed(relative.parents) if parent != Path("."))]
                    for directory in chain:
                        directory.mkdir(exist_ok=True)
                        if not _enable(directory, names):
                            break
                    else:
                        (root / relative).mkdir(exist_ok=True)
                        _enable(root / relative, names)
                        controllers |= {name: Controller(name, root / relative, 2) for name in names}
                    continue
                for name in ({"memory", "cpu"} & options) - controllers.keys():
                    base = root / own.get(name, "/").lstrip("/")
                    directory = (base if base.is_dir() else root) / relative
                    directory.mkdir(parents=True, exist_ok=True)
                    controllers[name] = Controller(name, directory, 1)
            except OSError as error:
                log.debug("no control groups in %s: %s", root, error)
        return cls(controllers)

    @property
    def available(self) -> set[str]:
        """Of "memory" and "cpu", those that can be limited."""
        return set(self._controllers)

    def _directories(self, container_id: str) -> set[Path]:
        return {controller.directory / container_id for controller in self._controllers.values()}

    def create(self, container_id: str, resources: cri_pb2.LinuxContainerResources) -> list[str]:
        """Makes the group; returns the files that a process joins it by."""
        for directory in self._directories(container_id):
            directory.mkdir(exist_ok=True)
        self.update(container_id, resources)
        return [str(directory / "cgroup.procs") for directory in sorted(self._directories(container_id))]

    def update(self, container_id: str, resources: cri_pb2.LinuxContainerResources) -> None:
        """Sets limits; zero leaves one as it is."""
        memory, cpu = self._controllers.get("memory"), self._controllers.get("cpu")
        period = resources.cpu_period or 100_000
        if memory is not None and resources.memory_limit_in_bytes > 0:
            name = "memory.limit_in_bytes" if memory.version == 1 else "memory.max"
            (memory.directory / container_id / name).write_text(str(resources.memory_limit_in_bytes))
        if cpu is None:
            return
        group = cpu.directory / container_id
        if cpu.version == 1:
            if resources.cpu_shares:
                (group / "cpu.shares").write_text(str(max(resources.cpu_shares, 2)))
            if resources.cpu_quota:
                (group / "cpu.cfs_period_us").write_text(str(period))
                (group / "cpu.cfs_quota_us").write_text(str(resources.cpu_quota))
        else:
            if resources.cpu_shares:
                # Shares 2…262144 onto weights 1…10000, the mapping that every runtime uses.
                weight = 1 + ((resources.cpu_shares - 2) * (CPU_WEIGHT_MAX - 1)) // 262_142
                (group / "cpu.weight").write_text(str(weight))
            if resources.cpu_quota:
                quota = str(resources.cpu_quota) if resources.cpu_quota > 0 else "max"
                (group / "cpu.max").write_text(f"{quota} {period}")

    def oom_file(self, container_id: str) -> str:
        """The file whose `oom_kill N` line counts kills; "" without a memory controller."""
        memory = self._controllers.get("memory")
        if memory is None:
            return ""
        name = "memory.oom_control" if memory.version == 1 else "memory.events"
        return str(memory.directory / container_id / name)

    def processes(self, container_id: str) -> list[int] | None:
        """The processes in the group; None when it has none of its own."""
        for directory in self._directories(container_id):
            with suppress(OSError, ValueError):
                return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
        return None

    def remove(self, container_id: str) -> None:
        for directory in self._directories(container_id):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("cannot remove the control group %s: %s", directory, error)

    def close(self) -> None:
        """Removes our directories if no container is left in them."""
        for controller in self._controllers.values():
            directory = controller.directory
            for _ in range(3):
                try:
                    os.rmdir(directory)
                except OSError:
                    break
                directory = directory.parent

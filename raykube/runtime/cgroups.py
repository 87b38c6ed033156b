"""Resource limits by control groups, version 1 or 2, where this user may write them; elsewhere there are none.

A container's group is made below `raykube/CLUSTER/NODE`, under our own group where the kernel allows that, so that the
limits we run under hold for containers too. Whoever removes the last group of a level removes that level too: a shim
when its container ends, a runtime when it stops. So a level may vanish at any moment while it is empty, and is made
again when a container needs it.
"""

import errno
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykube.pb import cri_pb2

log = logging.getLogger(__name__)

NAMES = {"memory", "cpu"}
CPU_WEIGHT_MAX = 10_000
MAKE_ATTEMPTS = 100  # each is lost only if another process removes an empty level between two system calls


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller's directory for our containers; under version 2 all controllers share one."""

    name: str
    base: Path
    relative: Path
    version: int

    @property
    def directory(self) -> Path:
        return self.base / self.relative

    def make(self, group: str = "") -> None:
        """Makes the directory, and the group of a container in it."""
        for _ in range(MAKE_ATTEMPTS):
            with suppress(FileNotFoundError):
                self._make(group)
                return
        raise FileNotFoundError(errno.ENOENT, "removed again and again", str(self.directory))

    def _make(self, group: str) -> None:
        directory = self.base
        for part in ("", *self.relative.parts):
            directory /= part
            _make_directory(directory)
            if self.version == 2:
                _enable(directory)
        if group:
            _make_directory(directory / group)


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


def _make_directory(path: Path) -> None:
    with suppress(FileExistsError):  # Path.mkdir would look again, and fail if it was removed meanwhile
        os.mkdir(path)


def _enable(directory: Path) -> None:
    """Hands controllers down to the children of a version 2 group. Raises OSError where they do not exist."""
    if not set((directory / "cgroup.controllers").read_text().split()) >= NAMES:
        raise OSError(errno.ENOTSUP, "the controllers are not in version 2", str(directory))
    if not set((directory / "cgroup.subtree_control").read_text().split()) >= NAMES:
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(NAMES)))


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
            version = 2 if kind == "cgroup2" else 1
            for name in sorted((NAMES if version == 2 else NAMES & options) - controllers.keys()):
                base = root / own.get(name, "/").lstrip("/") if version == 1 else root
                controller = Controller(name, base if base.is_dir() else root, relative, version)
                try:
                    controller.make()
                    controllers[name] = controller
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
        for controller in self._controllers.values():
            controller.make(container_id)
        self.update(container_id, resources)
        return self.files(container_id)

    def files(self, container_id: str) -> list[str]:
        """The files that a process joins the group by."""
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

    def sweep(self, keep: set[str]) -> None:
        """Removes the groups of all containers but `keep`: a shim that was killed could not. One in use stays."""
        for directory in {controller.directory for controller in self._controllers.values()}:
            try:
                groups = [entry.name for entry in os.scandir(directory) if entry.is_dir()]
            except FileNotFoundError:
                continue
            for group in set(groups) - keep:
                with suppress(OSError):
                    os.rmdir(directory / group)

    def close(self, keep: set[str]) -> None:
        """Sweeps, and removes our directories if no container is left in them."""
        self.sweep(keep)
        for controller in self._controllers.values():
            for directory in (controller.directory, *list(controller.directory.parents)[:2]):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError:
                    break

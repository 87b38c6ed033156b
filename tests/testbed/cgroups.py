"""Control groups of a test host: one in every hierarchy, below the tester's own (in the unified one, below the root).

A host sees them as its roots: its namespace is made inside them.
"""

import errno
import os
import time
from pathlib import Path

REMOVE_TIMEOUT_S = 10
INHERITED = ("cpuset.cpus", "cpuset.mems")  # v1: a group without them takes no process


def parents() -> list[str]:
    """Where groups of hosts go, one folder for each hierarchy that is mounted."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4]
        kind, _, options = right.split(" ")[:3]
        if kind == "cgroup2":
            found.append(point)
        elif kind == "cgroup":
            mine = [path for names, path in own.items() if names and set(names.split(",")) <= set(options.split(","))]
            found.append(f"{point}{mine[0] if mine else '/'}".rstrip("/"))
    return found


def paths(name: str, where: list[str]) -> list[str]:
    """The groups `name`: one in each hierarchy."""
    return [f"{parent}/{name}" for parent in where]


def make(groups: list[str]) -> None:
    """Makes groups."""
    for path in groups:
        group = Path(path)
        group.mkdir()
        for setting in INHERITED:
            if (group / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())


def settle(groups: list[str]) -> list[str]:
    """Makes room for a booted host's own groups; returns the files that take more processes into the host.

    In the unified hierarchy, a group with processes gives its children no controllers: the processes move to "init".
    """
    doors = []
    for path in groups:
        group = Path(path)
        if (group / "cgroup.controllers").exists():
            (group / "init").mkdir()
            for pid in (group / "cgroup.procs").read_text().split():
                (group / "init" / "cgroup.procs").write_text(pid)
            if len(groups) == 1:  # beside older hierarchies it has nothing to give
                for name in (group / "cgroup.controllers").read_text().split():
                    (group / "cgroup.subtree_control").write_text(f"+{name}")
            group /= "init"
        doors.append(f"{group}/cgroup.procs")
    return doors


def remove(group: str) -> None:
    """Removes a group whose processes are dead, and those below it. Raises OSError at the time-out."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while os.path.isdir(group):
        try:
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # the last process is still being taken out

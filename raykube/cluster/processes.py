"""Finds and ends the processes of a cluster by the marker in their environment.

Every process that a cluster starts, its Ray processes, its actors, its containers and their shims, has
`RAYKUBE_CLUSTER=<id>` and `RAYKUBE_MACHINE=<name>` in the environment it was started with, which children inherit and
`/proc` shows. So nothing has to be written down, and a crash at any moment leaves nothing that cannot be found.

A process that sets its title, as Ray's agents do, writes it over its environment there: what remains of it may lack the
marker. Such a process is found by its log files, which lie in the cluster's scratch folder.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raykube.cluster.state import scratch_of

CLUSTER_VARIABLE = "RAYKUBE_CLUSTER"
MACHINE_VARIABLE = "RAYKUBE_MACHINE"
ROLE_VARIABLE = "RAYKUBE_ROLE"
RAY_TITLE = b"ray::"
ROLE_RAY = "ray"  # Ray's own processes and our actors; containers and their shims have no role


@dataclass(frozen=True, slots=True)
class Process:
    """A live process of some cluster."""

    pid: int
    machine: str
    role: str


def marker(cluster_id: str, machine: str, role: str = "") -> dict[str, str]:
    """The variables that make a process findable."""
    variables = {CLUSTER_VARIABLE: cluster_id, MACHINE_VARIABLE: machine}
    return variables | {ROLE_VARIABLE: role} if role else variables


def _environment_of(pid: str) -> dict[str, str]:
    try:
        raw = Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0"))
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def _is_zombie(pid: str) -> bool:
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def _has_title(pid: str) -> bool:
    """Whether the process has set a title as Ray does: what /proc shows of its environment is not all of it."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes().startswith(RAY_TITLE)
    except OSError:
        return False


def _machine_by_files(pid: str, scratch: str) -> str:
    """The machine whose part of the scratch folder the process has open files in; "" if there is none."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return ""
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(scratch):
            return target[len(scratch) :].partition("/")[0]
    return ""


def _process(pid: str, cluster_id: str) -> Process | None:
    """The process if it is one of the cluster's."""
    variables = _environment_of(pid)
    owner = variables.get(CLUSTER_VARIABLE)
    name = variables.get(MACHINE_VARIABLE, "")
    role = variables.get(ROLE_VARIABLE, "")
    if owner in (None, cluster_id) and not (owner and name and role) and _has_title(pid):
        if owner is None or not name:  # a machine's name that is left alone may be another cluster's
            name = _machine_by_files(pid, f"{scratch_of(cluster_id)}/")
            owner = owner or (cluster_id if name else None)
        role = ROLE_RAY  # containers and their shims keep their environment
    return Process(int(pid), name, role) if owner == cluster_id else None


def find(cluster_id: str, machine: str | None = None, role: str | None = None) -> Iterator[Process]:
    """The live processes of the cluster, this process excepted, on one machine or with one role if asked."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        process = _process(entry, cluster_id)
        if process is None or _is_zombie(entry):
            continue
        if (machine is None or process.machine == machine) and (role is None or process.role == role):
            yield process


def _signal_all(processes: list[Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end(cluster_id: str, machine: str | None = None, role: str | None = None, grace_s: float = 2.0) -> int:
    """SIGTERM, then SIGKILL after `grace_s`, until no such process is left; returns how many there were."""
    first = list(find(cluster_id, machine, role))
    if grace_s > 0 and first:
        _signal_all(first, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(True for _ in find(cluster_id, machine, role)):
            time.sleep(0.05)
    deadline = time.monotonic() + 10
    while left := list(find(cluster_id, machine, role)):
        if time.monotonic() > deadline:
            raise OSError(f"processes that do not end: {', '.join(str(process.pid) for process in left)}")
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
    return len(first)

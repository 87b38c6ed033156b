"""Finds and ends the processes of a cluster by the marker in their environment.

Every process that a cluster starts, its Ray processes, its actors, its containers and their shims, has
`RAYKUBE_CLUSTER=<id>` and `RAYKUBE_MACHINE=<name>` in the environment it was started with, which children inherit and
`/proc` shows. So nothing has to be written down, and a crash at any moment leaves nothing that cannot be found.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLUSTER_VARIABLE = "RAYKUBE_CLUSTER"
MACHINE_VARIABLE = "RAYKUBE_MACHINE"
ROLE_VARIABLE = "RAYKUBE_ROLE"
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


def find(cluster_id: str, machine: str | None = None, role: str | None = None) -> Iterator[Process]:
    """The live processes of the cluster, this process excepted, on one machine or with one role if asked."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        variables = _environment_of(entry)
        if variables.get(CLUSTER_VARIABLE) != cluster_id or _is_zombie(entry):
            continue
        process = Process(int(entry), variables.get(MACHINE_VARIABLE, ""), variables.get(ROLE_VARIABLE, ""))
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

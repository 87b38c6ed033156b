"""Which pods of a StatefulSet run where, seen in the processes of all hosts at once.

    with watching(hosts) as watch:
        ...
    watch.twice()      # the identities that ran on two hosts at a time

A container's command line carries MARKER and the pod's name. All hosts share one kernel: its start times and its uptime
order what happens on any of them, also on one without network.
"""

import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit import images
from tests.testbed.host import Host

MARKER = "raykube-loss-identity"
NAME = "identity"
LOOK_S = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")
_line = re.compile(rf"{MARKER} ({NAME}-[0-9]+)")


def stateful_set(replicas: int) -> dict[str, Any]:
    """One pod for each host, all at once."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",  # an identity may move to a machine that has one
        "labelSelector": {"matchLabels": {"app": NAME}},
    }
    container = {
        "name": NAME,
        "image": images.BUSYBOX,
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "command": ["sh", "-c", f"while :; do sleep 1; done # {MARKER} $(POD)"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,  # 0 ends a pod without asking its kubelet
                    "topologySpreadConstraints": [spread],
                    "containers": [container],
                },
            },
        },
    }


@dataclass
class Life:
    """A process of an identity: from its start to when it was seen last, in ticks since the kernel's start."""

    identity: str
    host: str
    start: int
    seen: int


def overlapping(lives: Sequence[Life]) -> list[str]:
    """The identities that were alive on two hosts at a time."""
    pairs = itertools.combinations(lives, 2)
    return sorted(
        {
            one.identity
            for one, other in pairs
            if one.identity == other.identity
            and one.host != other.host
            and one.start < other.seen
            and other.start < one.seen
        }
    )


class Watch:
    """Looks again and again; `lives` grows."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.lives: dict[tuple[int, int], Life] = {}
        self._groups = {f"/{Path(host.groups[0]).name}": host.name for host in hosts}
        self._now = 0

    def look(self) -> None:
        """One pass over all processes."""
        self._now = now = int(float(Path("/proc/uptime").read_text().split()[0]) * _TICKS)
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with suppress(OSError, IndexError):  # it ends meanwhile
                    self._look_at(int(entry.name), now)

    def _look_at(self, pid: int, now: int) -> None:
        folder = f"/proc/{pid}"
        found = _line.search(Path(folder, "cmdline").read_bytes().decode(errors="replace"))
        if found is None:
            return
        groups = Path(folder, "cgroup").read_text()
        host = next((name for group, name in self._groups.items() if f"{group}/" in groups), "")
        fields = Path(folder, "stat").read_text().rpartition(")")[2].split()
        if host and fields[0] not in "ZX":
            life = self.lives.setdefault((pid, int(fields[19])), Life(found[1], host, int(fields[19]), now))
            life.seen = max(life.seen, now)

    def running(self) -> dict[str, str]:
        """Identity → host, as the last look saw them."""
        return {life.identity: life.host for life in self.lives.values() if life.seen == self._now}

    def twice(self) -> list[str]:
        return overlapping(list(self.lives.values()))


@contextmanager
def watching(hosts: Sequence[Host]) -> Iterator[Watch]:
    """Looks all the time, in a thread."""
    watch, stopped = Watch(hosts), threading.Event()

    def run() -> None:
        while not stopped.wait(LOOK_S):
            watch.look()

    watch.look()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stopped.set()
        thread.join()

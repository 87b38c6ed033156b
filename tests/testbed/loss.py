"""The loss table: each machine in turn loses its power or its network, under a client that writes all the time.

    python -m tests.testbed.loss            4 hosts, 3 of them control plane; each killed and cut off for 10 s and 60 s
    python -m tests.testbed.loss --seconds 10 --only host1 --faults kill

What one row says: how many writes were acknowledged and how many of those the cluster has no more (must be 0); the
longest time without an acknowledged write; how long until the Node was no longer Ready; whether every container of the
other machines is the same process as before; how many identities of a StatefulSet ran on two machines at a time (must
be 0), though somebody deletes the lost machine's pods while it is away; and how long after the machine was there again
all was healthy, by itself or after the operator ran `raykube up` again.
"""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from tests.kit import images
from tests.testbed import identities
from tests.testbed.bed import CHECKOUT, Testbed
from tests.testbed.cluster import HostCluster, running
from tests.testbed.host import Host

FAULTS = ("kill", "cut")
_numbers = itertools.count(1)
CALM_S = 3.0  # of writing before and after
HEAL_TIMEOUT_S = 180.0
MARKER = "raykube-loss-workload"
COLUMNS = (
    *("machine", "fault", "acknowledged", "lost", "failed", "longest pause", "Node not Ready"),
    *("others' pods", "identities run twice", "whole again"),
)
WORKLOAD = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "steady"},
    "spec": {
        "replicas": 8,
        "selector": {"matchLabels": {"app": "steady"}},
        "template": {
            "metadata": {"labels": {"app": "steady"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": "steady"}},
                    }
                ],
                "containers": [
                    {
                        "name": "steady",
                        "image": images.BUSYBOX,
                        "command": ["sh", "-c", f"while :; do sleep 1; done # {MARKER}"],
                    }
                ],
            },
        },
    },
}


@dataclass
class Row:
    """What one loss did."""

    machine: str
    roles: str
    fault: str
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    pause_s: float = 0.0
    noticed_s: float | None = None
    touched: list[str] = field(default_factory=list)  # machines whose containers are not the same processes
    twice: list[str] = field(default_factory=list)  # identities that ran on two machines at a time
    healed_s: float | None = None
    by_hand: bool = False

    def cells(self) -> tuple[str, ...]:
        whole = (
            "not" if self.healed_s is None else f"{self.healed_s:.1f} s{', after raykube up' if self.by_hand else ''}"
        )
        return (
            f"{self.machine} ({self.roles})",
            self.fault,
            str(self.acknowledged),
            str(len(self.lost)),
            str(self.refused),
            f"{self.pause_s:.1f} s",
            "-" if self.noticed_s is None else f"{self.noticed_s:.1f} s",
            "untouched" if not self.touched else f"other processes on {', '.join(self.touched)}",
            str(len(self.twice)),
            whole,
        )


def table(rows: list[Row]) -> str:
    """Rows in columns."""
    cells = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


class Client:
    """The writer on "outside", and what it said."""

    def __init__(self, cluster: HostCluster) -> None:
        # One of its own: that of the last row may be going away still.
        self.namespace = f"writes-{next(_numbers)}"
        writer = f"python -m tests.testbed.writer /root/.kube/config {self.namespace}"
        command = ["sh", "-c", f"cd {CHECKOUT} && exec {writer}"]
        self._process = cluster.outside.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.writes: list[dict[str, object]] = []
        self.nodes: list[dict[str, object]] = []
        self._found: list[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "write" in said:
                self.writes.append(said)
            elif "node" in said:
                self.nodes.append(said)
            else:
                self._found = said["found"]

    def acknowledged(self) -> list[dict[str, object]]:
        return [each for each in list(self.writes) if each["outcome"] == 201]

    def finish(self) -> set[str]:
        """Ends the writing; returns the names of the objects that the cluster has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(120)
        complaint = self._process.stderr.read() if self._process.stderr else ""
        self._process.wait(10)
        assert self._found is not None, f"the client failed: {complaint}"
        return set(self._found)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def writing(cluster: HostCluster) -> Iterator[Client]:
    """A client that writes, from its first acknowledged write on."""
    client = Client(cluster)
    try:
        _until(lambda: bool(client.acknowledged()), 30, "the first write")
        yield client
    finally:
        client.close()


def _until(check: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.2)


def containers(host: Host) -> set[tuple[int, int]]:
    """The workload's processes on a host: pid and start time, as the host sees them."""
    script = f"for p in $(pgrep -f '{MARKER[:-1]}[{MARKER[-1]}]'); do cut -d' ' -f1,22 /proc/$p/stat; done"
    lines = host.run(script, check=False).stdout.splitlines()
    return {(int(pid), int(start)) for pid, start in (line.split() for line in lines)}


def start_workload(cluster: HostCluster) -> None:
    """Pods on every machine, of a Deployment and of a StatefulSet."""
    wanted = [WORKLOAD, identities.stateful_set(len(cluster.hosts))]
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}))
    cluster.kubectl("rollout", "status", "deployment/steady", "--timeout=20s", check=False)
    _until(lambda: all(containers(host) for host in cluster.hosts), 120, "pods on every machine")
    with identities.watching(cluster.hosts) as watch:
        _until(lambda: len(watch.running()) == len(cluster.hosts), 120, "all identities")


def _ask(cluster: HostCluster, *command: str) -> None:
    """kubectl, asking one apiserver after the other until one has done it."""
    contexts = itertools.cycle(cluster.kubectl("config", "get-contexts", "-o", "name").split())

    def done() -> str:
        return cluster.kubectl(*command, "--context", next(contexts), "--request-timeout=5s", check=False)

    _until(done, HEAL_TIMEOUT_S, " ".join(command))


def _give_up(cluster: HostCluster, host: Host) -> None:
    """What an operator may do to a lost machine: nothing new goes there, and its identities shall end.

    Their successors could run elsewhere at once; they have to wait for the machine's word."""
    _ask(cluster, "cordon", host.name)
    fields = ("-l", f"app={identities.NAME}", "--field-selector", f"spec.nodeName={host.name}")
    _ask(cluster, "delete", "pods", *fields, "--wait=false")


def _give_identity(cluster: HostCluster, watch: identities.Watch, host: Host) -> None:
    """Moves identities until one is on `host`: those of an earlier row may be elsewhere."""
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    while host.name not in (found := watch.running()).values():
        assert time.monotonic() < deadline, f"no identity comes to {host.name}: {found}"
        crowded = [name for name, where in found.items() if list(found.values()).count(where) > 1]
        if len(found) == len(cluster.hosts) and crowded:
            cluster.kubectl("delete", "pod", crowded[0], "--timeout=30s", check=False)
        time.sleep(0.5)


def roles(cluster: HostCluster, host: Host) -> str:
    """What the machine is to the cluster."""
    rows = cluster.status().get("components", [])
    mine = {row["component"]: row["role"] for row in rows if row["machine"] == host.name}
    found = ["Ray's head"] if host is cluster.head else []
    if "kv" in mine:
        found.append(f"store {mine['kv']}")
    return ", ".join(found) or "worker"


def lose(cluster: HostCluster, host: Host, fault: str, seconds: float) -> Row:
    """Takes one machine away for a while, and gives it back."""
    row = Row(host.name, roles(cluster, host), f"{fault} {seconds:.0f} s")
    others = [other for other in cluster.hosts if other is not host]
    before = {other.name: containers(other) for other in others}
    with identities.watching(cluster.hosts) as watch, writing(cluster) as client:
        _give_identity(cluster, watch, host)
        time.sleep(CALM_S)
        begin = time.monotonic()
        (cluster.bed.kill if fault == "kill" else cluster.bed.cut)(host.name)
        _give_up(cluster, host)
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        (cluster.bed.boot if fault == "kill" else cluster.bed.mend)(host.name)
        back = time.monotonic()
        _ask(cluster, "uncordon", host.name)
        row.healed_s = _heal(cluster, back)
        if row.healed_s is None:
            row.by_hand = True
            cluster.up()
            row.healed_s = _heal(cluster, back)
        _until(lambda: len(watch.running()) == len(cluster.hosts), HEAL_TIMEOUT_S, "all identities again")
        time.sleep(CALM_S)
        row.twice = watch.twice()
        stored = client.finish()
        names = [str(each["write"]) for each in client.acknowledged()]
        row.acknowledged, row.refused = len(names), len(client.writes) - len(names)
        row.lost = [name for name in names if name not in stored]
        row.pause_s = longest_pause([float(str(each["to"])) for each in client.acknowledged()], begin)
        noticed = [
            float(str(each["at"]))
            for each in client.nodes
            if each["node"] == host.name and each["ready"] != "True" and float(str(each["at"])) > begin
        ]
        row.noticed_s = noticed[0] - begin if noticed else None
    row.touched = [other.name for other in others if containers(other) != before[other.name]]
    cluster.kubectl("delete", "namespace", client.namespace, "--wait=false", check=False)
    return row


def longest_pause(times: list[float], begin: float) -> float:
    """The longest time without an acknowledged write that ended after `begin`."""
    pauses = [end - max(start, begin) for start, end in itertools.pairwise(times) if end > begin]
    return max(pauses, default=float("inf"))


def _heal(cluster: HostCluster, since: float) -> float | None:
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    while time.monotonic() < deadline:
        if cluster.healthy():
            return time.monotonic() - since
        time.sleep(0.5)
    return None


@click.command()
@click.option("--hosts", default=4, show_default=True)
@click.option("--seconds", multiple=True, type=float, default=(10, 60), show_default=True)
@click.option("--faults", multiple=True, type=click.Choice(FAULTS), default=FAULTS, show_default=True)
@click.option("--only", multiple=True, help="machines, by name; all by default")
@click.option("--extra-config", multiple=True, help="COMPONENT.FLAG=VALUE, as for raykube up")
def main(
    hosts: int,
    seconds: tuple[float, ...],
    faults: tuple[str, ...],
    only: tuple[str, ...],
    extra_config: tuple[str, ...],
) -> None:
    """Prints the loss table."""
    flags = [part for each in extra_config for part in ("--extra-config", each)]
    rows: list[Row] = []
    with Testbed(hosts=hosts) as bed, running(bed, *flags) as cluster:
        start_workload(cluster)
        for name in only or [host.name for host in cluster.hosts]:
            for fault in faults:
                for length in seconds:
                    rows.append(lose(cluster, bed.hosts[name], fault, length))
                    click.echo("  ".join(rows[-1].cells()), err=True)
    click.echo(table(rows))
    sys.exit(any(row.lost or row.touched or row.twice for row in rows))


if __name__ == "__main__":
    main()

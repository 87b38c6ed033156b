"""raykube on hosts, over a Ray that runs there: what `raykube up --address HEAD:PORT` makes of them.

with Testbed(hosts=4) as bed, running(bed) as cluster:
    cluster.kubectl("get", "nodes")      # from the host "outside", with the kubeconfig that `up` wrote
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.kit import eviction
from tests.kit.require import require_program
from tests.testbed import containerd, ray
from tests.testbed.bed import OUTSIDE, Testbed
from tests.testbed.host import Host

UP_TIMEOUT_S = 300
HEALTHY_TIMEOUT_S = 90


class HostCluster:
    """The cluster on all hosts but "outside"; host1 is Ray's head and the operator's."""

    def __init__(self, bed: Testbed, control_plane: int, flags: tuple[str, ...], gcs: str = "") -> None:
        require_program("kubectl")
        self.bed = bed
        self.hosts = [host for name, host in bed.hosts.items() if name != OUTSIDE]
        self.head = self.hosts[0]
        self.outside = bed.hosts[OUTSIDE]
        self.gcs = gcs or ray.address(self.head)
        self._flags = ["--control-plane", str(control_plane), *eviction.FLAGS, *flags]

    def raykube(self, *arguments: str, timeout_s: float = UP_TIMEOUT_S) -> "subprocess.CompletedProcess[str]":
        """Runs raykube as the operator."""
        return self.head.run(["raykube", *arguments], check=False, timeout_s=timeout_s)

    def up(self, *flags: str) -> None:
        """Raises AssertionError with all that may tell why not."""
        done = self.raykube("up", "--address", self.gcs, *self._flags, *flags)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.report()}"
        home = self.outside.disk / "root" / ".kube"
        home.mkdir(exist_ok=True)
        (home / "config").write_text((self.head.disk / "root" / ".kube" / "config").read_text())

    def kubectl(self, *arguments: str, check: bool = True, stdin: str = "", source: Host | None = None) -> str:
        """Runs kubectl, by default on "outside"; returns its output."""
        command = ["kubectl", "--request-timeout=20s", *arguments]
        return (source or self.outside).run(command, check=check, stdin=stdin).stdout

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return items

    def status(self) -> dict[str, Any]:
        """What `raykube status` says; nothing while it does not answer."""
        try:
            done = self.raykube("status", "-o", "json", timeout_s=30)
            document: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return {}
        return document

    def healthy(self) -> bool:
        """Whether every component of every machine is, and every Node is Ready."""
        nodes = self.kubectl("get", "nodes", "--no-headers", check=False).count(" Ready ")
        return nodes == len(self.hosts) and bool(self.status().get("healthy"))

    def store_leader(self) -> str:
        """The machine that the store's leader is on, "" when none is known."""
        rows = self.status().get("components", [])
        return next((row["machine"] for row in rows if row["component"] == "kv" and row["role"] == "leader"), "")

    def report(self) -> str:
        """All that may tell why something failed."""
        parts = ["the head is off"]
        if self.head.running:
            status = self.raykube("status", timeout_s=30)
            parts = [status.stdout + status.stderr]
        command = (
            "tail -n 20 /root/.local/share/raykube/*/machines/*/logs/*.log /var/log/raykube-machine.log 2>/dev/null"
        )
        parts += [f"--- {host.name}\n{host.run(command, check=False).stdout}" for host in self.hosts if host.running]
        return "\n".join(parts)


@contextmanager
def running(
    bed: Testbed,
    *flags: str,
    control_plane: int = 3,
    gcs: str = "",
    head_flags: str = "",
    install: Callable[..., None] = containerd.install,
) -> Iterator[HostCluster]:
    """A cluster on the testbed's running hosts; it ends with them.

    `install`: of the container runtime; `gcs`, `head_flags`: as for `ray.start`.
    """
    cluster = HostCluster(bed, control_plane, flags, gcs)
    install(*cluster.hosts)
    ray.start(*cluster.hosts, gcs=gcs, head_flags=head_flags)
    cluster.up()
    yield cluster

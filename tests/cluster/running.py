"""A cluster on real Ray, driven by commands alone."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from raykube.cluster import processes, state
from raykube.cluster.state import Machine
from tests.kit.require import require_program

NAME = "test"
IMPATIENT = [
    "controller-manager.node-monitor-grace-period=8s",
    "controller-manager.node-monitor-period=1s",
    "kubelet.node-status-update-frequency=2s",
    "kubelet.node-lease-duration-seconds=8",
    "apiserver.default-not-ready-toleration-seconds=2",
    "apiserver.default-unreachable-toleration-seconds=2",
]


@dataclass
class Cluster:
    """The cluster under test, driven by commands alone."""

    folder: Path
    kubectl_program: str

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def raykube(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raykube", *arguments, "--name", NAME, "--data-dir", str(self.data_dir)]
        if arguments[0] != "status":
            command += ["--kubeconfig", str(self.kubeconfig)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    def up(self, *arguments: str) -> None:
        done = self.raykube("up", *arguments)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def logs(self) -> str:
        """The ends of all logs, for the report of a failure: the components' and those of Ray that say why it ends."""
        paths = sorted(self.data_dir.glob("machines/*/logs/*.log"))
        if (found := state.load(self.data_dir)) is not None:
            paths += sorted(found.scratch_dir.glob("*/session_2*/logs/gcs_server*.*"))
            paths += sorted(found.scratch_dir.glob("*/session_2*/logs/raylet*.*"))
        ends = []
        for path in paths:
            with suppress(OSError):  # Ray's go with the cluster, perhaps right now
                lines = path.read_text(errors="replace").splitlines()[-15:]
                ends.append(f"--- {path}\n" + "\n".join(lines))
        return "\n".join(ends)

    def report(self) -> str:
        """What the cluster says of itself, for the report of a failure."""
        parts = [self.raykube("status").stdout]
        for arguments in (
            ("get", "nodes,pods,services,endpointslices", "-o", "wide"),
            ("get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            command = [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", "--request-timeout=5s", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            parts.append("\n".join((done.stdout + done.stderr).splitlines()[-40:]))
        there = range(1, min(len(self.state().machines), 3) + 1)
        parts += [f"{url}: {self.fetched(url)}" for url in self.page_urls(tuple(there))]
        return "\n\n".join(parts)

    def status(self) -> dict[str, Any]:
        done = self.raykube("status", "-o", "json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def component(self, component: str, machine: int) -> dict[str, Any]:
        wanted = f"{NAME}-{machine}"
        return next(
            row for row in self.status()["components"] if row["component"] == component and row["machine"] == wanted
        )

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        command = [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", "--request-timeout=20s", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def kubectl_works(self) -> bool:
        try:
            return "kubernetes" in self.kubectl("get", "service", "kubernetes", check=False)
        except subprocess.TimeoutExpired:
            return False

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return items

    def state(self) -> state.ClusterState:
        found = state.load(self.data_dir)
        assert found is not None
        return found

    def ready_pods(self) -> list[dict[str, Any]]:
        return [
            pod
            for pod in self.objects("pods", "-l", "app=web")
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
        ]

    def page_urls(self, machines: tuple[int, ...] = (1, 2, 3)) -> list[str]:
        """The page's addresses: of the Service, and the node port on each machine."""
        address = self.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}", check=False)
        nodes = [self.state().machines[number - 1].address for number in machines]
        return [f"http://{address}:8080/", *(f"http://{node}:30080/" for node in nodes)]

    def fetched(self, url: str) -> str:
        """What is there, or why nothing is."""
        try:
            return str(urllib.request.urlopen(url, timeout=3).read().decode())
        except (OSError, HTTPException) as error:
            return repr(error)

    def page_is_served(self, machines: tuple[int, ...] = (1, 2, 3)) -> bool:
        return all("Served by raykube" in self.fetched(url) for url in self.page_urls(machines))

    def healthy(self) -> bool:
        return bool(self.status()["healthy"])

    def nodes_ready(self) -> int:
        return self.kubectl("get", "nodes", "--no-headers", check=False).count(" Ready ")

    def kill_machine(self, number: int) -> Machine:
        """Ends every process of a machine at once; returns the machine."""
        victim = self.state().machines[number - 1]
        assert processes.end(self.state().id, victim.name, grace_s=0) > 0
        return victim


@contextmanager
def running_cluster(folder: Path, *arguments: str, extra: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A cluster that `raykube up` made; taken down at the end, whatever happened."""
    made = Cluster(folder, require_program("kubectl"))
    flags = [part for item in (*IMPATIENT, *extra) for part in ("--extra-config", item)]
    try:
        made.up(*arguments, *flags)
        yield made
    finally:
        identifier = found.id if (found := state.load(made.data_dir)) else ""
        made.raykube("down")
        if identifier:
            processes.end(identifier, grace_s=0)

"""A cluster of plain processes: the same plan as on Ray, each component started by its command.

    with ControlPlane(tmp_path) as plane:
        plane.start("kv", "apiserver")
        plane.kubectl("get", "nodes")

Every plane takes a slice of 127.0.0.0/8 of its own, so that several run side by side.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from raykube.cluster import addresses, kubeconfig, pki, processes
from raykube.cluster.plan import Placement, plan
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.wish import port_is_free
from raykube.kubelet.volumes import mounts
from raykube.rpc import Tls
from tests.kit.containerd import Containerd
from tests.kit.require import require_program

COMMANDS = {"controllers": "controller-manager", "kubeproxy": "kube-proxy"}
START_TIMEOUT_S = 60
CLAIM_PORT = 39999


def until(
    what: str, check: Callable[[], bool], timeout_s: float = 90, report: Callable[[], object] | None = None
) -> None:
    """Polls until `check` is true. Raises AssertionError at the time-out, with what `report` tells then."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            told = f"\n{report()}" if report is not None else ""
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s{told}")
        time.sleep(0.1)


def _claim_subnet() -> tuple[int, socket.socket]:
    """A free slice of 127.0.0.0/8, and the socket that keeps it ours while it is open."""
    for subnet in random.sample(range(20, 250), 230):
        claim = socket.socket()
        try:
            claim.bind((addresses.api_address(subnet), CLAIM_PORT))
        except OSError:
            claim.close()
            continue
        if port_is_free(addresses.local_machine_address(subnet, 1), addresses.KV_CLIENT_PORT):
            return subnet, claim
        claim.close()
    raise OSError("no free slice of 127.0.0.0/8")


def _arguments(flags: dict[str, Any]) -> list[str]:
    """A Config's fields as command-line flags."""
    found = []
    for name, value in flags.items():
        if value in (None, "", []):
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if isinstance(value, bool):
            text = text.lower()
        found.append(f"--{name.replace('_', '-')}={text}")
    return found


def _programs(placement: Placement) -> list[tuple[str, dict[str, Any]]]:
    """What of a placement runs as a process: the steward is part of the cluster's actors, and has no command."""
    return [(package, flags) for package, flags in placement.services if not package.startswith("raykube.cluster.")]


def _on_containerd(placement: Placement, containerd: Containerd) -> Placement:
    """The placement with containerd in place of the embedded runtime."""
    if placement.component != "kubelet":
        return placement
    own = {
        "container_runtime_endpoint": containerd.endpoint,
        "root_dir": str(containerd.folder / "kubelet"),
        "cgroup_root": containerd.cgroup_root,
        "pod_cidr": containerd.pod_cidr,
    }
    services = [(package, flags | own) for package, flags in placement.services if package == "raykube.kubelet"]
    return replace(placement, services=tuple(services))


class ControlPlane:
    """Components of one cluster as child processes."""

    def __init__(
        self,
        folder: Path,
        *,
        machines: int = 1,
        control_plane: int = 1,
        extra_config: dict[str, dict[str, str]] | None = None,
        containerd: Containerd | None = None,
        hollow: int = 0,
    ) -> None:
        """With `containerd`, all runs in its network namespace, and the (one) kubelet runs pods on it."""
        self.folder = folder
        self.containerd = containerd
        self.data_dir = folder / "data"
        subnet, self._claim = _claim_subnet()
        self.state = ClusterState(
            name="plane",
            id=uuid.uuid4().hex,
            subnet=subnet,
            local=True,
            machines=[
                Machine(
                    name=f"plane-{index}",
                    address=addresses.local_machine_address(subnet, index),
                    index=index,
                    control_plane=index <= control_plane,
                )
                for index in range(1, machines + 1)
            ],
            extra_config=extra_config or {},
            hollow_nodes=hollow,
            hollow_actors=addresses.hollow_actors(hollow, machines),
            program_path=os.environ["PATH"],
        )
        self.state.scratch_dir.mkdir(mode=0o700)
        self.kubeconfig = folder / "kubeconfig"
        self.placements = {placement.name: placement for placement in plan(self.state, self.data_dir)}
        if containerd is not None:
            self.placements = {name: _on_containerd(one, containerd) for name, one in self.placements.items()}
        self.running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._write_certificates()

    def _write_certificates(self) -> None:
        folder = self.data_dir / "pki"
        pki.write_pki(
            folder,
            {machine.name: [machine.address] for machine in self.state.machines},
            now=time.time(),
            service_ip=addresses.first_service_address(self.state),
            extra_sans=[addresses.api_address(self.state.subnet)],
        )
        for machine in self.state.machines:
            target = self.data_dir / "machines" / machine.name
            (target / "logs").mkdir(parents=True)
            (target / "pki").symlink_to(folder)
        kubeconfig.merge(
            self.kubeconfig,
            self.state.name,
            {"": f"https://{self.state.machines[0].address}:{addresses.APISERVER_PORT}"},
            (folder / "ca.crt").read_bytes(),
            pki.read_pair(folder, "admin"),
            addresses.grpc_servers(self.state),
        )

    def __enter__(self) -> "ControlPlane":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _prefix(self) -> list[str]:
        return self.containerd.network if self.containerd is not None else []

    @property
    def grpc_servers(self) -> list[str]:
        return addresses.grpc_servers(self.state)

    @property
    def kv_endpoints(self) -> list[str]:
        return [f"{machine.address}:{addresses.KV_CLIENT_PORT}" for machine in self.state.control_plane]

    @property
    def server(self) -> str:
        """The first apiserver's URL."""
        return f"https://{self.state.machines[0].address}:{addresses.APISERVER_PORT}"

    def tls(self, name: str = "admin") -> Tls:
        """The files of a pair of the cluster's PKI: "admin", "apiserver-etcd-client" …"""
        folder = self.data_dir / "pki"
        return Tls(folder / f"{name}.crt", folder / f"{name}.key", folder / "ca.crt")

    def start(self, *components: str) -> None:
        """Starts all placements of `components` (or a placement by its name), and waits until each serves."""
        for component in components:
            mine = [p for p in self.placements.values() if component in (p.component, p.name)]
            assert mine, f"no placement {component}"
            for placement in mine:
                self._spawn(placement)
            for placement in mine:
                self._wait_serving(placement)

    def _spawn(self, placement: Placement) -> None:
        processes_of = self.running.setdefault(placement.name, [])
        for package, flags in _programs(placement):
            name = package.removeprefix("raykube.")
            command = [*self._prefix, sys.executable, "-m", "raykube", COMMANDS.get(name, name), *_arguments(flags)]
            log = self._log(placement, name)
            environment = os.environ | processes.marker(self.state.id, placement.machine.name)
            with log.open("ab") as output:
                processes_of.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        env=environment,
                        start_new_session=True,
                    )
                )

    def _log(self, placement: Placement, name: str) -> Path:
        return self.data_dir / "machines" / placement.machine.name / "logs" / f"{name}.log"

    def log(self, component: str, machine: int = 1) -> str:
        """A component's log."""
        name = next((key for key, value in COMMANDS.items() if value == component), component)
        return (self.data_dir / "machines" / f"plane-{machine}" / "logs" / f"{name}.log").read_text(errors="replace")

    def _wait_serving(self, placement: Placement) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        for process, (package, _) in zip(self.running[placement.name], _programs(placement), strict=True):
            log = self._log(placement, package.removeprefix("raykube."))
            while b" serving " not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{placement.name} does not serve:\n{log.read_text(errors='replace')[-4000:]}")
                time.sleep(0.05)

    def pids(self, name: str) -> list[int]:
        """The process ids of a placement, e.g. "kv-plane-1"."""
        return [process.pid for process in self.running[name]]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals a placement's processes and waits for their end."""
        stopping = self.running.pop(name)
        for process in stopping:
            process.send_signal(number)
        for process in stopping:
            process.wait(20)
        for package, _ in _programs(self.placements[name]):
            self._log(self.placements[name], package.removeprefix("raykube.")).unlink()

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Runs real kubectl as the administrator; returns stdout."""
        done = self.kubectl_run(*arguments, stdin=stdin)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def kubectl_run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs real kubectl as the administrator."""
        return subprocess.run(
            self.kubectl_command(*arguments),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            input=stdin,
            env=self.environment,
        )

    @property
    def environment(self) -> dict[str, str]:
        """For kubectl, which caches discovery in its home."""
        return os.environ | {"HOME": str(self.folder)}

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line of kubectl as the administrator."""
        return [*self._prefix, require_program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The items of `kubectl get KIND -o json`."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return items

    def close(self) -> None:
        """Ends everything that belongs to this cluster, containers included."""
        for started in self.running.values():
            for process in started:
                process.terminate()
        for started in self.running.values():
            for process in started:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
        self.running.clear()
        processes.end(self.state.id)  # shims end their containers and remove their control groups
        mounts.detach_pods(self.data_dir.resolve())
        for path in self.state.scratch_dir.iterdir():
            path.unlink()
        self.state.scratch_dir.rmdir()
        self._claim.close()

"""A control plane of plain commands with certificates: `raykube kv`, `raykube apiserver`, `raykube scheduler` …"""

import asyncio
import ctypes
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.cluster import pki
from raykube.rpc import Tls

PODS, NODES = builtin("v1", "Pod"), builtin("v1", "Node")
NAMESPACES = builtin("v1", "Namespace")
ACCOUNTS = builtin("v1", "ServiceAccount")
PORTS = (12_000, 32_000)
START_TIMEOUT_S = 180
POLL_S = 0.1
PR_SET_PDEATHSIG = 1

TICKS_PER_S = 100  # Linux' USER_HZ, as /proc shows CPU times
_MEMORY = ("VmRSS:", "VmHWM:")  # now, and the most so far


def free_port() -> int:
    """A port that nobody listens on.

    The kernel takes ports of connections from 32768 on: one of those may be taken before a component listens there.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass(frozen=True)
class Usage:
    """What a process has used."""

    cpu_s: float
    rss_kib: int
    peak_kib: int  # the most so far


@dataclass
class ControlPlane:
    """Processes by component; `start` in order, `stop` in reverse."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    api_addresses: list[str] = field(default_factory=list)
    kv_address: str = ""

    def __post_init__(self) -> None:
        now = time.time()
        certificates = self.folder / "pki"
        certificates.mkdir(parents=True, exist_ok=True)
        ca = pki.new_ca("bench", now)
        pki.write_pair(certificates, "ca", ca)
        for name, subject in pki.subjects({"bench": ["127.0.0.1"]}, service_ip="10.96.0.1").items():
            pki.write_pair(certificates, name, pki.issue_subject(ca, subject, now))
        private, public = pki.new_signing_key()
        pki.write_file(certificates / "sa.key", private, 0o600)
        pki.write_file(certificates / "sa.pub", public, 0o644)

    def pem(self, name: str) -> str:
        return str(self.folder / "pki" / name)

    def tls(self, name: str) -> Tls:
        return Tls(Path(self.pem(f"{name}.crt")), Path(self.pem(f"{name}.key")), Path(self.pem("ca.crt")))

    def start(self, *, scheduler: bool = True) -> None:
        """Store and apiserver; neither need serve yet when this returns."""
        kv, peer = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.run(
            "kv",
            data_dir=self.folder / "kv",
            name="m1",
            listen_client_urls=f"https://{kv}",
            listen_peer_urls=f"https://{peer}",
            cert_file=self.pem("kv.crt"),
            key_file=self.pem("kv.key"),
            trusted_ca_file=self.pem("ca.crt"),
            peer_cert_file=self.pem("kv-peer.crt"),
            peer_key_file=self.pem("kv-peer.key"),
            peer_trusted_ca_file=self.pem("ca.crt"),
        )
        self.kv_address = kv
        self.start_apiserver()
        if scheduler:
            self.start_scheduler()

    def start_apiserver(self, **flags: object) -> None:
        """One apiserver more."""
        grpc_port = free_port()
        number = len(self.api_addresses) + 1
        self.api_addresses.append(f"127.0.0.1:{grpc_port}")
        self.run(
            "apiserver",
            "apiserver" if number == 1 else f"apiserver-{number}",
            **{
                "etcd_servers": self.kv_address,
                "etcd_cafile": self.pem("ca.crt"),
                "etcd_certfile": self.pem("apiserver-etcd-client.crt"),
                "etcd_keyfile": self.pem("apiserver-etcd-client.key"),
                "bind_address": "127.0.0.1",
                "secure_port": free_port(),
                "grpc_port": grpc_port,
                "tls_cert_file": self.pem("apiserver.crt"),
                "tls_private_key_file": self.pem("apiserver.key"),
                "client_ca_file": self.pem("ca.crt"),
                "service_account_key_file": self.pem("sa.pub"),
                "service_account_signing_key_file": self.pem("sa.key"),
            }
            | flags,
        )

    @property
    def api_address(self) -> str:
        """The first apiserver's gRPC address."""
        return self.api_addresses[0]

    def start_scheduler(self, **flags: object) -> None:
        self.run("scheduler", **self._client("scheduler") | {"secure_port": free_port()} | flags)

    def start_controllers(self, **flags: object) -> None:
        own = {
            "secure_port": free_port(),
            "root_ca_file": self.pem("ca.crt"),
            "service_account_private_key_file": self.pem("sa.key"),
        }
        self.run("controller-manager", **self._client("controller-manager") | own | flags)

    def start_hollow(self, name: str, **flags: object) -> None:
        """A process of hollow machines."""
        self.run("hollow", name, **self._client("hollow") | {"name": name} | flags)

    def _client(self, name: str) -> dict[str, object]:
        return {
            "api_servers": ",".join(self.api_addresses),
            "tls_cert_file": self.pem(f"{name}.crt"),
            "tls_private_key_file": self.pem(f"{name}.key"),
            "client_ca_file": self.pem("ca.crt"),
        }

    def run(self, component: str, name: str = "", /, **flags: object) -> None:
        name = name or component
        words = [sys.executable, "-m", "raykube", component]
        words += [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_us,  # noqa: PLW1509  # it calls one function of the kernel
            )

    def kill(self, name: str) -> None:
        """Ends a process at once; it is no failure."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def usage(self) -> dict[str, Usage]:
        found = {}
        for name, process in self.processes.items():
            words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(_MEMORY)}
            cpu_s = (int(words[11]) + int(words[12])) / TICKS_PER_S
            found[name] = Usage(cpu_s, kib["VmRSS"], kib["VmHWM"])
        return found

    def check(self) -> None:
        """Raises when a component ended, with the last lines that it wrote."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_us() -> None:
    """In a new process: it ends when this one does, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def ready(plane: ControlPlane, client: ApiClient, *, own_account: bool = True) -> None:
    """The apiserver answers, and namespace default has its ServiceAccount: `own_account`, for there is nobody else."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        plane.check()
        try:
            await client.get(NAMESPACES, "", "default", timeout=2)
            if own_account:
                break
            await client.get(ACCOUNTS, "default", "default", timeout=2)
            return
        except ApiError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_S)
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": "default"}}
    await client.write([operations.create(account)])


async def create(client: ApiClient, objects: list[dict[str, Any]]) -> None:
    """Creates objects in bulk. Raises RuntimeError with the first refusal."""
    for result in await client.write([operations.create(obj) for obj in objects]):
        if result.code >= 400:
            raise RuntimeError(f"create: {result.body.decode()}")

"""A control plane of plain commands with certificates: `raykube kv`, `raykube apiserver`, `raykube scheduler`."""

import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from raykube.cluster import pki
from raykube.rpc import Tls

TICKS_PER_S = 100  # Linux' USER_HZ, as /proc shows CPU times


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Usage:
    """What a process has used."""

    cpu_s: float
    rss_kib: int


@dataclass
class ControlPlane:
    """Processes by component; `start` in order, `stop` in reverse."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    api_address: str = ""

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
        grpc_port = free_port()
        self.api_address = f"127.0.0.1:{grpc_port}"
        self.run(
            "apiserver",
            etcd_servers=kv,
            etcd_cafile=self.pem("ca.crt"),
            etcd_certfile=self.pem("apiserver-etcd-client.crt"),
            etcd_keyfile=self.pem("apiserver-etcd-client.key"),
            bind_address="127.0.0.1",
            secure_port=free_port(),
            grpc_port=grpc_port,
            tls_cert_file=self.pem("apiserver.crt"),
            tls_private_key_file=self.pem("apiserver.key"),
            client_ca_file=self.pem("ca.crt"),
            service_account_key_file=self.pem("sa.pub"),
            service_account_signing_key_file=self.pem("sa.key"),
        )
        if scheduler:
            self.start_scheduler()

    def start_scheduler(self) -> None:
        self.run(
            "scheduler",
            api_servers=self.api_address,
            secure_port=free_port(),
            tls_cert_file=self.pem("scheduler.crt"),
            tls_private_key_file=self.pem("scheduler.key"),
            client_ca_file=self.pem("ca.crt"),
        )

    def run(self, component: str, **flags: object) -> None:
        words = [sys.executable, "-m", "raykube", component]
        words += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        with (self.folder / f"{component}.log").open("wb") as log:
            self.processes[component] = subprocess.Popen(words, stdout=log, stderr=log)

    def usage(self) -> dict[str, Usage]:
        found = {}
        for name, process in self.processes.items():
            words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{process.pid}/status").read_text()
            rss = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
            found[name] = Usage((int(words[11]) + int(words[12])) / TICKS_PER_S, int(rss.split()[1]))
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

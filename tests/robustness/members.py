"""Members of a store as processes, `raykube kv`, each at its place in a network; and how they are harmed."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raykube.client.kv import KvClient
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError
from tests.robustness.clocks import Clocks
from tests.robustness.disks import Disk
from tests.robustness.network import Loopback, Namespaces

STATUS_TIMEOUT_S = 1.0
CLOCK_SHIFT_S_MAX = 1e6
READY_TIMEOUT_S = 40.0  # a busy machine starts five interpreters in turn


class Members:
    """Members m1, m2, …; those in `running` have a process."""

    def __init__(
        self, network: Loopback | Namespaces, folder: Path, names: Iterable[str], seed: int, *flags: str
    ) -> None:
        self.network = network
        self.names = list(names)
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.program = [sys.executable, "-m", "raykube"]
        self.joining: set[str] = set()  # those that were added to a group that ran
        self.disks: dict[str, Disk] = {}  # without them, folders
        self.clocks: Clocks | None = None  # without them, the machine's
        self.may_exit: set[str] = set()  # what was done to them is a reason to stop
        self._folder = folder
        self._rng = random.Random(seed)
        self._flags = flags
        self._clients: dict[str, KvClient] = {}

    @property
    def endpoints(self) -> list[str]:
        return [self.network.client_address(name) for name in self.names]

    @property
    def quorum(self) -> int:
        return len(self.names) // 2 + 1

    def make_disks(self) -> None:
        """Gives each member a disk of its own, before the first start. Raises Impossible."""
        self.disks = {name: Disk(self.data_dir(name).parent) for name in self.names}

    def take_disks(self, *, keep: bool) -> None:
        """Ends the disks; with `keep`, what was on them stays to be read."""
        for disk in self.disks.values():
            disk.close(keep=keep)
        self.disks.clear()

    def data_dir(self, name: str) -> Path:
        return self._folder / name / "data"

    def client(self, name: str) -> KvClient:
        """A client of this member alone."""
        if name not in self._clients:
            self._clients[name] = KvClient([self.network.client_address(name)])
        return self._clients[name]

    # ---- life and death

    async def start(self, name: str) -> None:
        """Starts its process, with another monotonic clock each time: as after a reboot."""
        network = self.network
        network.shift_clock(self._rng.uniform(0, CLOCK_SHIFT_S_MAX))
        self.data_dir(name).parent.mkdir(parents=True, exist_ok=True)
        cluster = ",".join(f"{each}=http://{network.peer_address(each)}" for each in self.names)
        command = [
            *self.program, "kv", f"--name={name}", f"--data-dir={self.data_dir(name)}",
            f"--listen-client-urls=http://{network.client_address(name)}",
            f"--listen-peer-urls=http://{network.peer_address(name)}",
            f"--initial-cluster={cluster}", "--auto-compaction-retention=0",
            f"--initial-cluster-state={'existing' if name in self.joining else 'new'}", *self._flags,
        ]  # fmt: skip
        environment = os.environ | (self.clocks.environment(name) if self.clocks is not None else {})
        with self.log_of(name).open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *network.command(name, command), stderr=log, env=environment
            )

    async def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Its exit status."""
        self.signal(name, number)
        process = self.running.pop(name)
        async with asyncio.timeout(20):
            return await process.wait()

    def pause(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.running[name]
        # Not by the process's own method, which may take the exit status away from asyncio.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def limit(self, name: str, what: int, amount: int) -> None:
        """Sets one of the process's soft limits (resource.RLIMIT_…); a negative amount takes the limit away."""
        pid = self.running[name].pid
        _, hard = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (hard if amount < 0 else amount, hard))

    def check_alive(self) -> None:
        """Fails when a member ended that nobody ended."""
        for name, process in self.running.items():
            if process.returncode is not None and name not in self.may_exit:
                raise AssertionError(f"{name} exited with {process.returncode}:\n{self.log_end(name)}")

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        for name in list(self.running):
            await self.end(name)

    # ---- what they say

    def log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def log_end(self, name: str, lines: int = 15) -> str:
        return "\n".join(self.log_of(name).read_text(errors="replace").splitlines()[-lines:])

    def check_logs(self) -> None:
        """Fails when a member wrote a traceback: whatever is done to it, it says what is wrong in a line."""
        for name in self.names:
            text = self.log_of(name).read_text(errors="replace")
            assert "Traceback" not in text, f"{name} wrote:\n{text[text.index('Traceback') - 300 :][:3000]}"

    async def status(self, name: str, timeout_s: float = STATUS_TIMEOUT_S) -> Any:
        """What it says of itself; None when it does not answer."""
        try:
            return await self.client(name).call(
                "Maintenance", "Status", etcd_pb2.StatusRequest(), timeout_s, retry=False
            )
        except RpcError:
            return None

    async def leader(self, among: Iterable[str] = (), timeout_s: float = READY_TIMEOUT_S) -> str:
        """The leader that a quorum knows of; only `among` these are asked."""
        asked = list(among) or list(self.running)
        deadline = time.monotonic() + timeout_s
        statuses: list[Any] = []
        while time.monotonic() < deadline:
            self.check_alive()
            statuses = await asyncio.gather(*(self.status(name) for name in asked))
            ids = {status.header.member_id: name for name, status in zip(asked, statuses, strict=True) if status}
            votes = [(status.raftTerm, status.leader) for status in statuses if status]
            for term, leader in set(votes):
                if leader in ids and votes.count((term, leader)) >= self.quorum:
                    return ids[leader]
            await asyncio.sleep(0.02)
        raise AssertionError(f"no leader in {timeout_s} s: {statuses}")

    async def caught_up(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Returns when every member answers a linearizable read: it has applied all that was acknowledged before."""
        await asyncio.gather(
            *(self.client(name).range(b"nothing", count_only=True, timeout_s=timeout_s) for name in self.running)
        )

"""Members as processes, started by the command line and killed with SIGKILL: nothing acknowledged is lost."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raykube.client.kv import KvClient, UnknownOutcome
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import RpcError
from tests.kit.ports import free_ports
from tests.kit.waiting import until

pytestmark = pytest.mark.integration
PAUSE_S = 2.0  # twice the election time-out


class Processes:
    """`raykube kv` three times."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self.names = ["m1", "m2", "m3"]
        self._folder = folder
        self._peers = dict(zip(self.names, ports[:3], strict=True))
        self.ports = dict(zip(self.names, ports[3:], strict=True))
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        cluster = ",".join(f"{peer}=http://127.0.0.1:{port}" for peer, port in self._peers.items())
        self.running[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "raykube", "kv",
            f"--name={name}", f"--data-dir={self._folder / name}",
            f"--listen-client-urls=http://127.0.0.1:{self.ports[name]}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peers[name]}",
            f"--initial-cluster={cluster}", "--snapshot-count=200",
            stderr=(self._folder / f"{name}.log").open("ab"),
        )  # fmt: skip

    async def end(self, name: str, number: signal.Signals) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        async with asyncio.timeout(15):
            return await process.wait()

    async def status(self, name: str) -> Any:
        """The member's own status, None when it does not answer."""
        alone = KvClient([f"127.0.0.1:{self.ports[name]}"])
        try:
            return await alone.call("Maintenance", "Status", etcd_pb2.StatusRequest(), 1.0, retry=False)
        except RpcError:
            return None
        finally:
            await alone.close()

    async def leader(self, after_term: int = 0) -> str:
        """Who leads in a term after `after_term`, by asking each member."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for name in self.running:
                status = await self.status(name)
                if status and status.leader == status.header.member_id and status.raftTerm > after_term:
                    return name
            await asyncio.sleep(0.05)
        raise AssertionError("no leader")

    @contextmanager
    def standing_still(self, name: str) -> Iterator[None]:
        """The member's process does nothing meanwhile: a collector's pause, an enormous list, a suspended machine."""
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)


class Load:
    """Writers, each with keys of its own, and what they were told is done."""

    def __init__(self, client: KvClient, workers: int = 8) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self._client = client
        self._is_done = False
        self._workers = [asyncio.create_task(self._write(worker)) for worker in range(workers)]

    async def _write(self, worker: int) -> None:
        number = 0
        while not self._is_done:
            key = b"/load/%d/%d" % (worker, number)
            number += 1
            try:
                (result,) = await self._client.write([Write(key=key, value=b"x" * 100, expected_revision=0)])
                assert result.applied
                self.acknowledged[key] = result.revision
            except (UnknownOutcome, RpcError):
                await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        """Returns when `count` more writes are acknowledged."""
        wanted = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= wanted, 20)

    async def end(self) -> None:
        self._is_done = True
        await asyncio.gather(*self._workers)

    async def check(self, group: Processes) -> None:
        """Every member has everything that was acknowledged."""
        for name in group.names:
            alone = KvClient([f"127.0.0.1:{group.ports[name]}"])
            found = await alone.range(b"/load/", b"/load0", timeout_s=20)
            held = {kv.key: kv.mod_revision for kv in found.kvs}
            assert self.acknowledged.items() <= held.items()
            await alone.close()


@asynccontextmanager
async def processes(folder: Path) -> AsyncIterator[tuple[Processes, KvClient]]:
    group = Processes(folder)
    client = KvClient([f"127.0.0.1:{port}" for port in group.ports.values()])
    try:
        for name in group.names:
            await group.start(name)
        yield group, client
    finally:
        await client.close()
        for name in list(group.running):
            await group.end(name, signal.SIGKILL)


async def test_leaders_are_killed_under_load(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        await group.leader()
        load = Load(client)
        for _ in range(3):
            await load.more(100)
            victim = await group.leader()
            await group.end(victim, signal.SIGKILL)
            await load.more(50)
            await group.start(victim)
        await load.end()
        await load.check(group)


async def test_a_follower_s_pause_makes_no_election(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        leader = await group.leader()
        before = await group.status(leader)
        await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        follower = next(name for name in group.names if name != leader)
        alone = KvClient([f"127.0.0.1:{group.ports[leader]}"])
        load = Load(alone, 2)
        with group.standing_still(follower):
            await asyncio.sleep(PAUSE_S)
            await load.more(10)
        # It is back when it has what was written meanwhile; then it had every chance to disturb the others.
        here = KvClient([f"127.0.0.1:{group.ports[follower]}"])
        await here.current_revision(timeout_s=20)
        await here.close()
        await load.more(100)
        await load.end()
        await alone.close()
        for name in group.names:
            status = await group.status(name)
            assert (status.raftTerm, status.leader) == (before.raftTerm, before.leader)


async def test_a_leader_s_pause_loses_no_write(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        leader = await group.leader()
        term = (await group.status(leader)).raftTerm
        load = Load(client)
        await load.more(100)
        with group.standing_still(leader):
            await group.leader(after_term=term)
            await asyncio.sleep(PAUSE_S / 4)  # the old leader sleeps on while the new one takes writes
        await load.more(100)
        await load.end()
        await load.check(group)


async def test_sigterm_ends_cleanly_and_bad_flags_say_why(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        leader = await group.leader()
        await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        assert await group.end(leader, signal.SIGTERM) == 0
        await client.write([Write(key=b"/b", value=b"1", expected_revision=0)])
        # A stopped member's directory is refused when the flags describe another cluster.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "raykube", "kv", f"--data-dir={tmp_path / leader}", f"--name={leader}",
            "--listen-client-urls=http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0",
            "--initial-advertise-peer-urls=http://127.0.0.1:1", f"--initial-cluster={leader}=http://127.0.0.1:1",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            _, output = await process.communicate()
        assert process.returncode == 1
        assert b"belongs to" in output
        assert b"Traceback" not in output


async def test_a_member_that_stands_still_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process keeps its connections open: only missing answers tell, and the others elect without it."""
    monkeypatch.setattr("raykube.client.kv_stream.STALL_S", 1.0)
    async with processes(tmp_path) as (group, client):
        await group.leader()
        await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        address = client._endpoints[client._stream.current].address
        name = next(name for name, port in group.ports.items() if address.endswith(f":{port}"))
        with group.standing_still(name):
            async with asyncio.timeout(15):
                for key in (b"/b", b"/c"):
                    try:
                        await client.write([Write(key=key, value=b"1", expected_revision=-1)])
                    except (UnknownOutcome, RpcError):
                        await client.write([Write(key=key, value=b"2", expected_revision=-1)])
        assert (await client.range(b"/", b"0")).count == 3

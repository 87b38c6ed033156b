"""Members as processes, started by the command line and killed with SIGKILL: nothing acknowledged is lost."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from raykube.client.kv import KvClient, UnknownOutcome
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import RpcError
from tests.kit.waiting import until
from tests.kv.group import free_ports

pytestmark = pytest.mark.integration


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

    async def leader(self, client: KvClient) -> str:
        """Who leads, by asking each member."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for name in self.running:
                alone = KvClient([f"127.0.0.1:{self.ports[name]}"])
                try:
                    status = await alone.call("Maintenance", "Status", etcd_pb2.StatusRequest(), 1.0, retry=False)
                    if status.leader == status.header.member_id:
                        return name
                except RpcError:
                    continue
                finally:
                    await alone.close()
            await asyncio.sleep(0.05)
        raise AssertionError("no leader")


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
        await group.leader(client)
        acknowledged: dict[bytes, int] = {}
        is_done = False

        async def load(worker: int) -> None:
            number = 0
            while not is_done:
                key = b"/load/%d/%d" % (worker, number)
                number += 1
                try:
                    (result,) = await client.write([Write(key=key, value=b"x" * 100, expected_revision=0)])
                    assert result.applied
                    acknowledged[key] = result.revision
                except (UnknownOutcome, RpcError):
                    await asyncio.sleep(0.02)

        workers = [asyncio.create_task(load(worker)) for worker in range(8)]
        for _ in range(4):
            before = len(acknowledged)
            await until(lambda before=before: len(acknowledged) >= before + 100, 20)
            victim = await group.leader(client)
            await group.end(victim, signal.SIGKILL)
            before = len(acknowledged)
            await until(lambda before=before: len(acknowledged) >= before + 50, 20)
            await group.start(victim)
        is_done = True
        await asyncio.gather(*workers)
        for name in group.names:
            alone = KvClient([f"127.0.0.1:{group.ports[name]}"])
            found = await alone.range(b"/load/", b"/load0", timeout_s=20)
            held = {kv.key: kv.mod_revision for kv in found.kvs}
            assert acknowledged.items() <= held.items()
            await alone.close()


async def test_sigterm_ends_cleanly_and_bad_flags_say_why(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        leader = await group.leader(client)
        await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        assert await group.end(leader, signal.SIGTERM) == 0
        await client.write([Write(key=b"/b", value=b"1", expected_revision=0)])
        # A stopped member's directory is refused by another cluster.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "raykube", "kv", f"--data-dir={tmp_path / leader}", f"--name={leader}",
            "--listen-client-urls=http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            _, output = await process.communicate()
        assert process.returncode == 1
        assert b"belongs to" in output
        assert b"Traceback" not in output


async def test_a_member_that_stands_still_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process keeps its connections open: only missing answers tell, and the others elect without it."""
    monkeypatch.setattr("raykube.client.kv.STALL_S", 1.0)
    async with processes(tmp_path) as (group, client):
        await group.leader(client)
        await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        address = client._endpoints[client._current].address
        name = next(name for name, port in group.ports.items() if address.endswith(f":{port}"))
        group.running[name].send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(15):
                for key in (b"/b", b"/c"):
                    try:
                        await client.write([Write(key=key, value=b"1", expected_revision=-1)])
                    except (UnknownOutcome, RpcError):
                        await client.write([Write(key=key, value=b"2", expected_revision=-1)])
        finally:
            group.running[name].send_signal(signal.SIGCONT)
        assert (await client.range(b"/", b"0")).count == 3

"""Debian's etcdctl against a member: what people and scripts use."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb.batch_pb2 import Write
from tests.kit.require import require_program
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration


class Etcdctl:
    """The program, pointed at a group."""

    def __init__(self, path: str, group: Group) -> None:
        self._path = path
        self.group = group

    async def __call__(self, *arguments: str, stdin: str = "", status: int = 0, member: str = "m1") -> str:
        process = await asyncio.create_subprocess_exec(
            self._path,
            "--endpoints",
            f"127.0.0.1:{self.group.ports[member]}",
            *arguments,
            env={"ETCDCTL_API": "3"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate(stdin.encode())
        assert process.returncode == status, output.decode()
        return output.decode()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "-w", "json"))


@pytest.fixture
async def etcdctl(tmp_path: Path) -> AsyncIterator[Etcdctl]:
    path = require_program("etcdctl")
    async with running_group(tmp_path, 3) as group:
        yield Etcdctl(path, group)


async def test_put_get_del(etcdctl: Etcdctl) -> None:
    for key, value in (("a", "3"), ("b", "2"), ("c", "1")):
        assert await etcdctl("put", key, value) == "OK\n"
    assert await etcdctl("put", "a", "4", "--prev-kv") == "OK\na\n3\n"
    assert await etcdctl("get", "a", member="m2") == "a\n4\n"
    assert await etcdctl("get", "a", "--rev=2") == "a\n3\n"
    assert await etcdctl("get", "", "--prefix", "--keys-only") == "a\n\nb\n\nc\n\n"
    assert await etcdctl("get", "a", "c", "--print-value-only") == "4\n2\n"
    assert await etcdctl("get", "", "--prefix", "--order=DESCEND", "--sort-by=KEY", "--limit=2") == "c\n1\nb\n2\n"
    assert (
        await etcdctl("get", "", "--prefix", "--order=ASCEND", "--sort-by=VALUE", "--print-value-only") == "1\n2\n4\n"
    )
    assert "revision is a future revision" in await etcdctl("get", "a", "--rev=99", status=1)
    assert await etcdctl("del", "", "--prefix") == "3\n"
    assert await etcdctl("get", "", "--prefix") == ""


async def test_txn(etcdctl: Etcdctl) -> None:
    await etcdctl("put", "k", "1")
    text = 'value("k") = "1"\n\nput k 2\nget k\n\nput k 9\n\n'
    output = await etcdctl("txn", stdin=text)
    assert output.startswith("SUCCESS")
    assert output.endswith("k\n2\n")
    assert (await etcdctl("txn", stdin=text)).startswith("FAILURE")
    assert await etcdctl("get", "k", "--print-value-only") == "9\n"
    assert "duplicate key" in await etcdctl("txn", stdin="\nput a 1\nput a 2\n\n\n", status=1)


async def test_compaction(etcdctl: Etcdctl) -> None:
    for number in range(5):
        await etcdctl("put", "k", str(number))
    assert "compacted revision 4" in await etcdctl("compaction", "4")
    assert "has been compacted" in await etcdctl("get", "k", "--rev=3", status=1)
    assert await etcdctl("get", "k", "--rev=4", "--print-value-only") == "2\n"
    assert "has been compacted" in await etcdctl("compaction", "4", status=1)


async def test_watch(etcdctl: Etcdctl) -> None:
    await etcdctl("put", "w/a", "1")
    process = await asyncio.create_subprocess_exec(
        etcdctl._path, "--endpoints", f"127.0.0.1:{etcdctl.group.ports['m2']}",
        "watch", "w/", "--prefix", "--rev=2", "--prev-kv",
        env={"ETCDCTL_API": "3"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await etcdctl("put", "w/a", "2")
        await etcdctl("put", "other", "x")
        await etcdctl("del", "w/a")
        assert process.stdout is not None
        async with asyncio.timeout(10):
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(13)]
        assert [line for line in lines if line] == [
            "PUT", "w/a", "1",
            "PUT", "w/a", "1", "w/a", "2",
            "DELETE", "w/a", "2", "w/a",
        ]  # fmt: skip
    finally:
        process.kill()
        await process.wait()


async def test_a_watch_lives_over_a_restart(tmp_path: Path) -> None:
    path = require_program("etcdctl")
    async with running_group(tmp_path, 1) as group:
        etcdctl = Etcdctl(path, group)
        await etcdctl("put", "k", "1")
        process = await asyncio.create_subprocess_exec(
            path, "--endpoints", f"127.0.0.1:{group.ports['m1']}", "watch", "k", "--rev=2",
            env={"ETCDCTL_API": "3"}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                assert await process.stdout.readexactly(8) == b"PUT\nk\n1\n"
                await group.stop("m1")
                await group.start("m1")
                await group.leader()
                await etcdctl("put", "k", "2")
                assert await process.stdout.readexactly(8) == b"PUT\nk\n2\n"
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_leases(etcdctl: Etcdctl) -> None:
    lease = (await etcdctl("lease", "grant", "60")).split()[1]
    await etcdctl("put", "leased", "1", f"--lease={lease}")
    shown = await etcdctl("lease", "timetolive", lease, "--keys", member="m3")
    assert "granted with TTL(60s)" in shown
    assert "leased" in shown
    assert lease in await etcdctl("lease", "list")
    for member in etcdctl.group.names:
        assert "keepalived with TTL(60)" in await etcdctl("lease", "keep-alive", "--once", lease, member=member)
    await etcdctl("lease", "revoke", lease)
    assert await etcdctl("get", "leased") == ""
    assert "already expired" in await etcdctl("lease", "timetolive", lease)


async def test_members_and_status(etcdctl: Etcdctl) -> None:
    await until(lambda: len(etcdctl.group.services["m1"].member.replica.machine.attributes) == 3)
    members = (await etcdctl.json("member", "list"))["members"]
    assert sorted(member["name"] for member in members) == ["m1", "m2", "m3"]
    (status,) = await etcdctl.json("endpoint", "status")
    assert status["Status"]["leader"] in {member["ID"] for member in members}
    # A kube-apiserver takes its watches' progress as reliable from this release on.
    assert (3, 5, 13) <= tuple(map(int, status["Status"]["version"].split("."))) < (3, 6, 0)
    assert "is healthy" in await etcdctl("endpoint", "health")
    hashes = set()
    revision = await etcdctl.group.client.current_revision()
    await etcdctl.group.client.write([Write(key=b"/h", value=b"1", expected_revision=-1)])
    await etcdctl.group.agree()
    for member in etcdctl.group.names:
        hashes.add((await etcdctl("endpoint", "hashkv", f"--rev={revision}", member=member)).split(", ")[1])
    assert len(hashes) == 1


async def test_all_endpoints_at_once(etcdctl: Etcdctl) -> None:
    """`--cluster` asks every member that one of them names."""
    await until(lambda: len(etcdctl.group.services["m1"].member.replica.machine.attributes) == 3)
    await etcdctl("put", "a", "1")
    await etcdctl.group.agree()
    statuses = await etcdctl.json("endpoint", "status", "--cluster")
    assert len({status["Status"]["header"]["member_id"] for status in statuses}) == 3
    assert len({(status["Status"]["leader"], status["Status"]["raftTerm"]) for status in statuses}) == 1
    assert len({status["Status"]["header"]["revision"] for status in statuses}) == 1
    hashes = await etcdctl.json("endpoint", "hashkv", "--cluster")
    assert len({found["HashKV"]["hash"] for found in hashes}) == 1
    assert (await etcdctl("endpoint", "health", "--cluster")).count("is healthy") == 3
    assert (await etcdctl("defrag", "--cluster")).count("Finished defragmenting") == 3
    assert await etcdctl("alarm", "list") == ""


async def test_move_leader(etcdctl: Etcdctl) -> None:
    leader = await etcdctl.group.leader()
    target = next(name for name in etcdctl.group.names if name != leader)
    number = etcdctl.group.services[target].member.id
    assert "Leadership transferred" in await etcdctl("move-leader", f"{number:x}", member=leader)
    assert await etcdctl.group.leader() == target

"""Debian's etcdctl changes the membership of a group of processes, which start with the flags that it prints."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.ports import free_ports
from tests.kit.require import require_program
from tests.kv.test_processes import Load, processes

pytestmark = pytest.mark.integration


class Etcdctl:
    """The program, pointed at one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._path = require_program("etcdctl")
        self.endpoint = endpoint

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            self._path, "--endpoints", self.endpoint, *arguments, env={"ETCDCTL_API": "3"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(20):
            output = (await process.communicate())[0].decode()
        assert process.returncode == status, output
        return output

    async def members(self) -> dict[str, dict[str, Any]]:
        """What `member list` says, by peer URL."""
        found = json.loads(await self("member", "list", "-w", "json"))["members"]
        return {member["peerURLs"][0]: member for member in found}


@asynccontextmanager
async def member_process(folder: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`raykube kv` with these flags; killed at the end if it still runs."""
    with (folder / "joined.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "raykube", "kv", *flags, stderr=log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def flags_of(output: str, folder: Path, client_port: int) -> list[str]:
    """The flags for what `member add` printed as environment variables of etcd."""
    found = dict(re.findall(r'^ETCD_(\w+)="(.*)"$', output, re.MULTILINE))
    assert set(found) == {"NAME", "INITIAL_CLUSTER", "INITIAL_ADVERTISE_PEER_URLS", "INITIAL_CLUSTER_STATE"}
    flags = [f"--{name.lower().replace('_', '-')}={value}" for name, value in found.items()]
    return [
        *flags,
        f"--listen-peer-urls={found['INITIAL_ADVERTISE_PEER_URLS']}",
        f"--listen-client-urls=http://127.0.0.1:{client_port}",
        f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--data-dir={folder / found['NAME']}",
    ]


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline, f"not within 20 s: {condition}"
        await asyncio.sleep(0.1)


async def test_a_member_is_replaced_under_load(tmp_path: Path) -> None:
    async with processes(tmp_path) as (group, client):
        leader = await group.leader()
        etcdctl = Etcdctl(f"127.0.0.1:{group.ports[leader]}")

        async def all_named() -> bool:
            return all(member.get("name") for member in (await etcdctl.members()).values())

        await _until(all_named)
        load = Load(client)
        await load.more(50)
        victim = next(name for name in group.names if name != leader)
        by_name = {member["name"]: member for member in (await etcdctl.members()).values()}
        number = by_name[victim]["ID"]
        assert "removed from cluster" in await etcdctl("member", "remove", f"{number:x}")
        async with asyncio.timeout(20):
            assert await group.running.pop(victim).wait() == 3
        log = (tmp_path / f"{victim}.log").read_text()
        assert "has been permanently removed from the cluster" in log
        assert "Traceback" not in log
        assert "member not found" in await etcdctl("member", "remove", f"{number:x}", status=1)

        peer, port = free_ports(2)
        url = f"http://127.0.0.1:{peer}"
        output = await etcdctl("member", "add", "m4", f"--peer-urls={url}", "--learner")
        assert "added to cluster" in output
        assert "Peer URLs already exists" in await etcdctl("member", "add", "m5", f"--peer-urls={url}", status=1)
        added = (await etcdctl.members())[url]
        assert added["isLearner"]
        learner = f"{added['ID']:x}"
        assert "in sync with leader" in await etcdctl("member", "promote", learner, status=1)
        async with member_process(tmp_path, *flags_of(output, tmp_path, port)):
            await _until(all_named)
            await load.more(50)

            async def promoted() -> bool:
                try:
                    return "promoted in cluster" in await etcdctl("member", "promote", learner)
                except AssertionError as error:
                    assert "in sync with leader" in str(error)
                    return False

            await _until(promoted)
            assert "can only promote a learner member" in await etcdctl("member", "promote", learner, status=1)
            await load.more(50)
            await load.end()
            here = Etcdctl(f"127.0.0.1:{port}")
            held = await here("get", "/load/", "--prefix", "--keys-only")
            assert {key.decode() for key in load.acknowledged} <= set(held.split())
            moved = f"http://127.0.0.1:{free_ports(1)[0]}"
            assert "updated in cluster" in await here("member", "update", learner, f"--peer-urls={moved}")
            assert (await etcdctl.members())[moved]["name"] == "m4"

"""Connections that end at any byte: every call ends, with its whole answer or UNAVAILABLE, and leaves nothing."""

import asyncio
import contextlib
import gc
import random
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raykube.base.backoff import Backoff
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel, Timing
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, Handler, say, served, serving


@contextlib.asynccontextmanager
async def cutting(address: str, draw: random.Random) -> AsyncIterator[str]:
    """The address of a proxy whose connections live for some thousand bytes; some are cut softly, some hard."""
    host, _, port = address.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]) -> None:
        while left[0] > 0:
            data = await reader.read(draw.choice([100, 1000, 65_536]))
            writer.write(data[: left[0]])
            left[0] -= len(data) if data else left[0]
            await writer.drain()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        left = [draw.choice([10, 3000, 100_000, 1_000_000])]
        ways = [
            asyncio.create_task(carry(reader, far_writer, left)),
            asyncio.create_task(carry(far_reader, writer, left)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, far_writer):
            if draw.random() < 0.5:
                end.transport.abort()
            end.close()
        tasks.discard(task)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def one_call(stub: Any, kind: int, body: bytes) -> str:
    """Makes a call of one kind; returns how it ended."""
    request = Bytes(value=b" " + body)

    async def requests() -> AsyncIterator[Any]:
        for _ in range(3):
            yield request

    try:
        if kind == 0:
            assert (await stub.Unary(request, timeout=20)).value == request.value
        elif kind == 1:
            sizes = [len(m.value) async for m in stub.Spread(Bytes(value=b"count 3 %d" % len(body)), timeout=20)]
            assert sizes == [len(body)] * 3 + [3]
        elif kind == 2:
            await stub.Gather(requests(), timeout=20)
        else:
            assert [m.value async for m in stub.Both(requests(), timeout=20)] == [request.value] * 3
    except RpcError as error:
        assert error.code is Code.UNAVAILABLE, error
        return "unavailable"
    return "answered"


@pytest.mark.parametrize("kind", ["reference", "ours"])
@pytest.mark.parametrize("seed", range(3))
async def test_every_call_ends(kind: str, seed: int) -> None:
    draw = random.Random(seed)
    before = len(asyncio.all_tasks())
    timing = Timing(connect_s=2, backoff=Backoff(0.001, 0.01))
    ends: list[str] = []
    async with served(kind, Handler()) as address, cutting(address, draw) as through:
        channel = Channel(through, timing=timing)
        stub: Any = channel.stub(ECHO)

        async def caller() -> None:
            for _ in range(15):
                ends.append(await one_call(stub, draw.randrange(4), bytes(draw.choice([0, 10, 1000, 30_000]))))
                await asyncio.sleep(0 if ends[-1] == "answered" else 0.01)  # the back-off is at most that

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller() for _ in range(20)))
        await channel.close()
    assert {"answered", "unavailable"} == set(ends)
    if kind == "ours":
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_connection_that_is_closed_leaves_nothing_to_the_collector() -> None:
    """The store's processes collect seldom: a cycle of each connection that ever was would stay."""
    async with serving(Handler()) as (server, channel):
        await channel.stub(ECHO).Unary(say("hello"))
        known = [weakref.ref(one) for connection in server._connections for one in (connection, connection.core)]
        gc.collect()
        gc.disable()
        try:
            await channel.close()
            await until(lambda: not any(one() for one in known), 5, "all of it is gone")
        finally:
            gc.enable()

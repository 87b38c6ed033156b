"""A channel closed under a running call ends it with an error; it does not look as if the caller was cancelled."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel
from raykube.rpc.link import Link
from raykube.rpc.server import Server
from tests.kit.waiting import until

API = api_pb2.DESCRIPTOR.services_by_name["Api"]


class Silent:
    """Answers nothing for a long time."""

    async def Get(self, _request: Any, _call: Any) -> Any:
        await asyncio.Event().wait()

    async def Watch(self, _request: Any, _call: Any) -> AsyncIterator[Any]:
        yield api_pb2.WatchResponse()
        await asyncio.Event().wait()


async def follow(stub: Any, started: asyncio.Event) -> None:
    async for _ in stub.Watch(api_pb2.WatchRequest()):
        started.set()


async def get(stub: Any, started: asyncio.Event) -> None:
    started.set()
    await stub.Get(api_pb2.GetRequest())


@pytest.mark.parametrize("call", [follow, get])
@pytest.mark.parametrize("cancel", [False, True])
async def test_who_ended_the_call(call: Any, cancel: bool) -> None:
    server = Server()
    server.add(API, Silent())
    port = server.listen("127.0.0.1:0")
    await server.start()
    channel = Channel(f"127.0.0.1:{port}")
    started = asyncio.Event()
    task = asyncio.create_task(call(channel.stub(API), started))
    try:
        async with asyncio.timeout(10):
            await started.wait()
            await asyncio.sleep(0.05)
            if cancel:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await channel.close()
                with pytest.raises(RpcError) as error:
                    await task
                assert error.value.code is Code.UNAVAILABLE
                assert error.value.message == "the channel was closed during the call"
    finally:
        task.cancel()
        await channel.close()
        await server.stop(0)


async def test_connecting_ends_when_the_connection_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for connecting is over at the very moment of success: nothing of that connection is left."""
    server = Server()
    server.add(API, Silent())
    port = server.listen("127.0.0.1:0")
    await server.start()
    channel = Channel(f"127.0.0.1:{port}")
    connection_made = Link.connection_made

    def too_late(link: Link, transport: asyncio.BaseTransport) -> None:
        connection_made(link, transport)
        assert channel._connecting is not None
        channel._connecting.cancel()

    monkeypatch.setattr(Link, "connection_made", too_late)
    async with asyncio.timeout(10):
        with pytest.raises(RpcError) as error:
            await get(channel.stub(API), asyncio.Event())
        await until(lambda: not channel._links)
        await channel.close()
    assert error.value.code is Code.UNAVAILABLE
    await server.stop(0)

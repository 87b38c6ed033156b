"""Servers and clients over real sockets: answers, streams, errors, identities."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import api_pb2, batch_pb2, cri_pb2
from raykube.rpc import Code, Identity, RpcError
from raykube.rpc.channel import Channel, once
from raykube.rpc.server import Call, Server

API = api_pb2.DESCRIPTOR.services_by_name["Api"]
BATCH = batch_pb2.DESCRIPTOR.services_by_name["Batch"]
RUNTIME = cri_pb2.DESCRIPTOR.services_by_name["RuntimeService"]


class Handler:
    """Answers with what the tests look for."""

    def __init__(self) -> None:
        self.identities: list[Identity | None] = []
        self.cancelled = asyncio.Event()

    async def Write(self, request: Any, call: Call) -> Any:
        self.identities.append(call.identity)
        return api_pb2.WriteResponse(results=[api_pb2.Result(code=201)] * len(request.operations))

    async def Get(self, request: Any, call: Call) -> Any:
        if request.name == "bug":
            raise KeyError("oops")
        raise RpcError(Code.NOT_FOUND, f"no {request.name}")

    async def Watch(self, request: Any, call: Call) -> AsyncIterator[Any]:
        try:
            number = 0
            while True:
                number += 1
                yield api_pb2.WatchResponse(events=[api_pb2.Event(resource_version=number)])
                await asyncio.sleep(0)
        finally:
            self.cancelled.set()

    async def Stream(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            yield batch_pb2.BatchResponse(id=request.id)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Handler, Channel]]:
    handler, server = Handler(), Server()
    server.add(API, handler)
    server.add(BATCH, handler)
    port = server.listen("127.0.0.1:0")
    await server.start()
    channel = Channel(f"127.0.0.1:{port}")
    yield handler, channel
    await channel.close()
    await server.stop()


async def test_a_unary_call(served: tuple[Handler, Channel]) -> None:
    handler, channel = served
    request = api_pb2.WriteRequest(operations=[api_pb2.Operation()] * 3)
    assert len((await channel.stub(API).Write(request, timeout=5)).results) == 3
    assert handler.identities == [None]


async def test_errors_keep_code_and_message(served: tuple[Handler, Channel]) -> None:
    with pytest.raises(RpcError) as caught:
        await served[1].stub(API).Get(api_pb2.GetRequest(name="x"))
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no x")


async def test_a_bug_in_a_handler_is_internal(served: tuple[Handler, Channel]) -> None:
    with pytest.raises(RpcError) as caught:
        await served[1].stub(API).Get(api_pb2.GetRequest(name="bug"))
    assert caught.value.code is Code.INTERNAL


async def test_a_method_that_the_handler_lacks_is_unimplemented(served: tuple[Handler, Channel]) -> None:
    with pytest.raises(RpcError) as caught:
        async for _ in served[1].stub(API).Logs(api_pb2.LogsRequest()):
            pass
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_leaving_a_stream_cancels_it_at_the_server(served: tuple[Handler, Channel]) -> None:
    handler, channel = served
    seen = []
    stream = channel.stub(API).Watch(api_pb2.WatchRequest())
    async for response in stream:
        seen.append(response.events[0].resource_version)
        if len(seen) == 5:
            break
    await stream.aclose()
    assert seen == [1, 2, 3, 4, 5]
    await asyncio.wait_for(handler.cancelled.wait(), 5)


async def test_both_sides_stream(served: tuple[Handler, Channel]) -> None:
    async def requests() -> AsyncIterator[Any]:
        for number in range(100):
            yield batch_pb2.BatchRequest(id=number)

    stub = served[1].stub(BATCH)
    assert [response.id async for response in stub.Stream(requests())] == list(range(100))
    assert [response.id async for response in stub.Stream(once(batch_pb2.BatchRequest(id=7)))] == [7]


async def test_nobody_there_is_unavailable() -> None:
    channel = Channel("127.0.0.1:1")
    with pytest.raises(RpcError) as caught:
        await channel.stub(API).Write(api_pb2.WriteRequest(), timeout=5)
    assert caught.value.code is Code.UNAVAILABLE
    await channel.close()


async def test_a_taken_port_is_one_clear_error() -> None:
    first, second = Server(), Server()
    port = first.listen("127.0.0.1:0")
    await first.start()
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        second.listen(f"127.0.0.1:{port}")
    await first.stop()


async def test_a_unix_socket(tmp_path: Path) -> None:
    class Runtime:
        async def Version(self, request: Any, call: Call) -> Any:
            assert call.identity is None
            return cri_pb2.VersionResponse(runtime_name="test")

    server = Server()
    server.add(RUNTIME, Runtime())
    server.listen(f"unix:{tmp_path}/s")
    await server.start()
    channel = Channel(f"unix:{tmp_path}/s")
    assert (await channel.stub(RUNTIME).Version(cri_pb2.VersionRequest())).runtime_name == "test"
    await channel.close()
    await server.stop()

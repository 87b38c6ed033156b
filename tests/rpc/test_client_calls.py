"""Calls of every kind through `Channel`, against grpcio's server and ours alike."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel, once
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, Handler, new_server, say, served, unix_address

KINDS = ("reference", "ours")


@pytest.fixture(params=KINDS)
async def echo(request: Any) -> AsyncIterator[tuple[Handler, Any]]:
    """A handler behind a server of each kind, and a stub for it."""
    handler = Handler()
    async with served(request.param, handler) as address:
        channel = Channel(address)
        yield handler, channel.stub(ECHO)
        await channel.close()


Echo = tuple[Handler, Any]


async def stream_of(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def test_the_four_kinds(echo: Echo) -> None:
    stub = echo[1]
    assert (await stub.Unary(say("hello"))).value == b"hello"
    assert [len(m.value) async for m in stub.Spread(say("count 3 5"))] == [5, 5, 5, 3]
    assert (await stub.Gather(stream_of([say("a"), say("bc"), say("")]))).value == b"3 3"
    assert [m.value async for m in stub.Both(stream_of([say("x"), say("y")]))] == [b"x", b"y"]
    assert [m.value async for m in stub.Both(once(say("one")))] == [b"one"]


async def test_empty_messages_and_empty_streams(echo: Echo) -> None:
    stub = echo[1]
    assert (await stub.Unary(Bytes())).value == b""
    assert (await stub.Gather(stream_of([]))).value == b"0 0"
    assert [m async for m in stub.Both(stream_of([]))] == []
    assert [m.value async for m in stub.Both(stream_of([Bytes()] * 3))] == [b""] * 3


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
async def test_every_code_arrives(echo: Echo, code: Code) -> None:
    with pytest.raises(RpcError) as caught:
        await echo[1].Unary(say(f"fail {code.name} because"))
    assert (caught.value.code, caught.value.message) == (code, "because")


@pytest.mark.parametrize("text", ["", "100% of it", "Grüße, 世界 🚀", "two\nlines\tand\r\n", "a" * 1000, "%41%zz"])
async def test_every_message_arrives_as_it_was(echo: Echo, text: str) -> None:
    with pytest.raises(RpcError) as caught:
        await echo[1].Unary(say(f"fail ABORTED {text}"))
    assert caught.value.message == text


async def test_an_error_after_answers(echo: Echo) -> None:
    stream = echo[1].Spread(say("count 2 1 fail DATA_LOSS late"))
    assert [len((await anext(stream)).value), len((await anext(stream)).value)] == [1, 1]
    with pytest.raises(RpcError) as caught:
        await anext(stream)
    assert (caught.value.code, caught.value.message) == (Code.DATA_LOSS, "late")


async def test_a_method_that_is_not_there(echo: Echo) -> None:
    with pytest.raises(RpcError) as caught:
        await echo[1].Missing(say("x"))
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_deadline_ends_both_sides(echo: Echo) -> None:
    handler, stub = echo
    with pytest.raises(RpcError) as caught:
        await stub.Unary(say("hang"), timeout=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await until(lambda: handler.cancelled == 1)
    assert handler.remaining_s[0] is not None
    assert 0 < handler.remaining_s[0] <= 0.21
    with pytest.raises(RpcError) as caught:
        async for _ in stub.Spread(say("count 1 1 hang"), timeout=0.2):
            pass
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await until(lambda: handler.cancelled >= 2)


async def test_no_deadline_is_none(echo: Echo) -> None:
    handler, stub = echo
    await stub.Unary(say("x"))
    await stub.Unary(say("x"), timeout=5000)
    assert handler.remaining_s[0] is None
    assert handler.remaining_s[1] is not None
    assert 4900 < handler.remaining_s[1] <= 5050  # a coarse encoding may round up


async def test_a_deadline_that_is_over(echo: Echo) -> None:
    with pytest.raises(RpcError) as caught:
        await echo[1].Unary(say("hang"), timeout=0)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_cancelling_a_call_cancels_its_handler(echo: Echo) -> None:
    handler, stub = echo
    task = asyncio.create_task(stub.Unary(say("hang")))
    await until(lambda: handler.started == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: handler.cancelled == 1)


async def test_leaving_a_stream_cancels_its_handler(echo: Echo) -> None:
    handler, stub = echo
    stream = stub.Spread(say("count 1 1 hang"))
    async for _ in stream:
        break
    await stream.aclose()
    await until(lambda: handler.cancelled >= 1)
    assert (await stub.Unary(say("still there"))).value == b"still there"


async def test_an_error_while_the_client_streams(echo: Echo) -> None:
    async def endless() -> AsyncIterator[Any]:
        yield say("fail RESOURCE_EXHAUSTED full")
        while True:
            yield say("more")
            await asyncio.sleep(0)

    with pytest.raises(RpcError) as caught:
        await echo[1].Gather(endless())
    assert (caught.value.code, caught.value.message) == (Code.RESOURCE_EXHAUSTED, "full")
    with pytest.raises(RpcError) as caught:
        async for _ in echo[1].Both(endless()):
            pass
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_stream_ended_by_the_server_ends_the_request_stream(echo: Echo) -> None:
    """The request generator is closed, not left hanging."""
    closed = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        try:
            yield say("fail ABORTED enough")
            await asyncio.Event().wait()
        finally:
            closed.set()

    with pytest.raises(RpcError):
        async for _ in echo[1].Both(requests()):
            pass
    await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("kind", ["Gather", "Both"])
async def test_an_error_of_the_request_stream_cancels_the_call(echo: Echo, kind: str) -> None:
    handler, stub = echo

    async def requests() -> AsyncIterator[Any]:
        yield say("x")
        await until(lambda: handler.started == 1)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        if kind == "Gather":
            await stub.Gather(requests())
        else:
            async for _ in stub.Both(requests()):
                pass
    if kind == "Both":
        await until(lambda: handler.ended == 1)


@pytest.mark.parametrize("size", [16_383, 16_384, 65_530, 65_535, 65_536, 1 << 20, 20 << 20])
async def test_large_messages_both_ways(echo: Echo, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    request = Bytes(value=b" " + body[:size])
    assert (await echo[1].Unary(request)).value == request.value


async def test_a_large_message_each_in_many_calls(echo: Echo) -> None:
    answers = await asyncio.gather(*(echo[1].Unary(say(f"bytes {200_000 + n}")) for n in range(50)))
    assert [len(a.value) for a in answers] == [200_000 + n for n in range(50)]


async def test_a_slow_reader_holds_the_server_back(echo: Echo) -> None:
    handler, stub = echo
    stream = stub.Spread(say("count 4000 100000"))
    await anext(stream)
    before = -1
    while handler.sent != before:  # until nothing moves any more
        before = handler.sent
        await asyncio.sleep(0.3)
    assert handler.sent < 400, "the server was let to send far ahead of its reader"
    assert [len(m.value) async for m in stream][-1] == 3


async def test_a_slow_handler_holds_the_client_back(echo: Echo) -> None:
    handler, stub = echo
    given = 0

    async def requests() -> AsyncIterator[Any]:
        nonlocal given
        yield say("wait")
        while given < 4000:
            given += 1
            yield Bytes(value=bytes(100_000))

    task = asyncio.create_task(stub.Gather(requests()))
    before = -1
    while given != before:
        before = given
        await asyncio.sleep(0.3)
    assert given < 400, "the client sent far ahead of what the handler read"
    handler.gate.set()
    assert (await asyncio.wait_for(task, 60)).value == b"4001 400000004"


async def test_a_slow_reader_does_not_hold_back_others(echo: Echo) -> None:
    stub = echo[1]
    slow = stub.Spread(say("count 1000 100000"))
    await anext(slow)
    for _ in range(20):
        assert len((await stub.Unary(say("bytes 100000"), timeout=10)).value) == 100_000
    await slow.aclose()


async def test_a_thousand_calls_at_once(echo: Echo) -> None:
    stub = echo[1]
    answers = await asyncio.gather(*(stub.Unary(say(f"sleep 0.2{n:05}"), timeout=30) for n in range(1000)))
    assert [a.value for a in answers] == [f"sleep 0.2{n:05}".encode() for n in range(1000)]


async def test_a_thousand_streams_at_once(echo: Echo) -> None:
    handler, stub = echo
    seen = 0

    async def follow() -> None:
        nonlocal seen
        with contextlib.suppress(RpcError):
            async for _ in stub.Spread(say("count 2 10 hang")):
                seen += 1

    tasks = [asyncio.create_task(follow()) for _ in range(1000)]
    await until(lambda: seen == 2000, 30)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: handler.cancelled >= 1000, 30)


@pytest.mark.parametrize("kind", KINDS)
async def test_over_a_unix_socket(kind: str, tmp_path: Path) -> None:
    async with served(kind, Handler(), unix_address(tmp_path)) as address:
        channel = Channel(address)
        assert (await channel.stub(ECHO).Unary(say("x"))).value == b"x"
        await channel.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_stops_lets_calls_finish(kind: str) -> None:
    handler, server = Handler(), new_server(kind)
    server.add(ECHO, handler)
    channel = Channel(f"127.0.0.1:{server.listen('127.0.0.1:0')}")
    await server.start()
    stub: Any = channel.stub(ECHO)
    calls = [asyncio.create_task(stub.Unary(say("sleep 0.5"))) for _ in range(5)]
    stream = stub.Spread(say("count 1 1 sleep 0.5"))
    await anext(stream)
    await until(lambda: handler.started == 6)
    stopping = asyncio.create_task(server.stop(10))
    assert [(await call).value for call in calls] == [b"sleep 0.5"] * 5
    assert (await anext(stream)).value == b"sleep 0.5"
    await asyncio.wait_for(stopping, 5)
    with pytest.raises(RpcError) as caught:
        await stub.Unary(say("late"))
    assert caught.value.code is Code.UNAVAILABLE
    await stream.aclose()
    await channel.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_stops_at_once_ends_calls(kind: str) -> None:
    handler, server = Handler(), new_server(kind)
    server.add(ECHO, handler)
    channel = Channel(f"127.0.0.1:{server.listen('127.0.0.1:0')}")
    await server.start()
    stub: Any = channel.stub(ECHO)
    call = asyncio.create_task(stub.Unary(say("hang")))
    await until(lambda: handler.started == 1)
    await server.stop(0)
    with pytest.raises(RpcError) as caught:
        await asyncio.wait_for(call, 5)
    assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)
    await channel.close()

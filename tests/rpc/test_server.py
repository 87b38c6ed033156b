"""Our server against grpcio's client, which knows nothing of us: calls of all kinds, ends of all kinds."""

import asyncio
import gc
import socket
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import hpack
import pytest

from raykube.rpc import Code, RpcError
from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.events import CallFinished
from raykube.rpc.core.limits import WIDE, Limits
from raykube.rpc.server import Server
from tests.kit.waiting import until
from tests.rpc import peer
from tests.rpc.echo import ECHO, Bytes, Handler, say

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
LARGE = 20 << 20
MIB = 1 << 20


class Client:
    """grpcio's client of the echo service."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        types: Any = {"request_serializer": Bytes.SerializeToString, "response_deserializer": Bytes.FromString}
        self.Unary = self.channel.unary_unary("/tests.rpc.Echo/Unary", **types)
        self.Spread = self.channel.unary_stream("/tests.rpc.Echo/Spread", **types)
        self.Gather = self.channel.stream_unary("/tests.rpc.Echo/Gather", **types)
        self.Both = self.channel.stream_stream("/tests.rpc.Echo/Both", **types)


Served = tuple[Server, Handler, Client]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    handler, server = Handler(), Server()
    server.add(ECHO, handler)
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = Client(port)
    yield server, handler, client
    await client.channel.close(None)
    await server.stop(0)


async def stream_of(*requests: Any) -> AsyncIterator[Any]:
    for request in requests:
        yield request


async def test_the_four_kinds(served: Served) -> None:
    client = served[2]
    assert await client.Unary(say("hello")) == say("hello")
    assert [len(m.value) async for m in client.Spread(say("count 3 7"))] == [7, 7, 7, 3]
    assert await client.Gather(stream_of(say("aa"), say("b"))) == say("2 3")
    assert [m async for m in client.Both(stream_of(say("x"), say("y")))] == [say("x"), say("y")]


async def test_empty_messages_and_streams(served: Served) -> None:
    client = served[2]
    assert await client.Unary(Bytes()) == Bytes()
    assert await client.Gather(stream_of()) == say("0 0")
    assert [m async for m in client.Both(stream_of())] == []


@pytest.mark.parametrize("text", ["", "no such key", "Grüße, 100 % 🚀", "two\nlines"])
@pytest.mark.parametrize("kind", ["Unary", "Spread", "Gather", "Both"])
async def test_errors_arrive_as_they_are(served: Served, kind: str, text: str) -> None:
    request: Any = say(f"fail OUT_OF_RANGE {text}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call = getattr(served[2], kind)(request if kind in ("Unary", "Spread") else stream_of(request))
        if kind in ("Spread", "Both"):
            async for _ in call:
                pass
        else:
            await call
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, text)


async def test_a_deadline_of_the_client_reaches_the_handler_and_ends_it(served: Served) -> None:
    _, handler, client = served
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.Unary(say("hang"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: handler.cancelled == 1)
    (remaining_s,) = handler.remaining_s
    assert remaining_s is not None and 0 < remaining_s <= 0.31  # the loop rounds


async def test_the_server_keeps_deadlines_of_clients_that_do_not(served: Served) -> None:
    _, handler, client = served
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    core = ClientConnection("server:1")
    for path, message in (("Unary", say("hang")), ("Spread", say("hang")), ("Unary", None)):
        call = core.open_call(f"/tests.rpc.Echo/{path}", 0.1)
        if message is not None:
            core.send_message(call, message.SerializeToString(), end=True)
    finished: list[CallFinished] = []
    async with asyncio.timeout(10):
        while len(finished) < 3:
            writer.write(core.outgoing())
            finished += [e for e in core.receive(await reader.read(65536), 0.0) if isinstance(e, CallFinished)]
    assert [event.code for event in finished] == [Code.DEADLINE_EXCEEDED] * 3
    assert handler.cancelled == 3  # Spread counts twice
    writer.close()


async def test_cancelling_ends_the_handler(served: Served) -> None:
    _, handler, client = served
    calls: list[Any] = [client.Unary(say("hang")), client.Spread(say("hang")), client.Both(stream_of(say("hang")))]
    await until(lambda: handler.started == 3 and handler.read == 1)
    for call in calls:
        call.cancel()
    await until(lambda: handler.cancelled == 4 and handler.ended == 1)  # Spread counts twice


async def test_a_client_that_is_gone_ends_its_handlers(served: Served) -> None:
    _, handler, client = served
    calls = [client.Unary(say("hang")) for _ in range(5)]
    await until(lambda: handler.started == 5)
    await client.channel.close(None)
    await until(lambda: handler.cancelled == 5)
    assert len(calls) == 5


async def test_large_messages_both_ways(served: Served) -> None:
    client = served[2]
    large = Bytes(value=bytes(range(256)) * (LARGE // 256))
    assert await client.Unary(large) == large
    assert [len(m.value) async for m in client.Spread(say(f"count 2 {LARGE}"))] == [LARGE, LARGE, 3]


async def test_a_thousand_calls_at_once_on_one_connection(served: Served) -> None:
    client = served[2]
    calls = [client.Unary(say(f"{number}")) for number in range(1000)]
    assert await asyncio.gather(*calls) == [say(f"{number}") for number in range(1000)]
    streams = [client.Both(stream_of(say(f"{number}"))) for number in range(1000)]
    assert [await stream.read() for stream in streams] == [say(f"{number}") for number in range(1000)]


async def test_a_client_that_does_not_read_is_not_sent_more(served: Served) -> None:
    _, handler, client = served
    call = client.Spread(say(f"count 400 {MIB // 4}"))
    answers = aiter(call)
    assert len((await anext(answers)).value) == MIB // 4
    sent = -1
    while sent != handler.sent:
        sent = handler.sent
        for _ in range(20):
            assert await client.Unary(say("others go on")) == say("others go on")
    assert handler.sent < 400
    assert len([m async for m in answers]) == 400


async def test_requests_that_are_not_read_stop_the_client(served: Served) -> None:
    _, handler, client = served
    given = 0

    async def requests() -> AsyncIterator[Any]:
        nonlocal given
        yield say("wait")
        for _ in range(400):
            given += 1
            yield Bytes(value=bytes(MIB // 4))

    call = client.Gather(requests())
    before = -1
    while before != given or not given:
        before = given
        for _ in range(20):
            assert await client.Unary(say("others go on")) == say("others go on")
    assert given < 400
    handler.gate.set()
    async with asyncio.timeout(30):
        assert await call == say(f"401 {4 + 100 * MIB}")


async def test_stop_lets_calls_end(served: Served) -> None:
    server, handler, client = served
    calls: list[Any] = [client.Unary(say("sleep 0.3")), client.Spread(say("count 2 9 sleep 0.3"))]
    await until(lambda: handler.started == 2)
    stopped = asyncio.create_task(server.stop(20))
    assert await calls[0] == say("sleep 0.3")
    assert len([m async for m in calls[1]]) == 3
    async with asyncio.timeout(10):
        await stopped


@pytest.mark.parametrize("reads", [True, False])
async def test_stop_lets_answers_arrive(served: Served, reads: bool) -> None:
    """Their handlers are done, but the client's windows or its reading hold them back."""
    server, handler, client = served
    core = ClientConnection(f"127.0.0.1:{client.port}", limits=Limits() if reads else WIDE)
    for _ in range(4):
        core.send_message(core.open_call("/tests.rpc.Echo/Unary"), say(f"bytes {MIB}").SerializeToString(), end=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
    writer.write(core.outgoing())
    await until(lambda: handler.started == 4 and not any(each._calls for each in server._connections))
    stopped = asyncio.create_task(server.stop(25))
    finished: list[Code] = []
    async with asyncio.timeout(20):
        while data := await reader.read(1 << 16):
            finished += [event.code for event in core.receive(data, 0.0) if isinstance(event, CallFinished)]
            writer.write(core.outgoing())
        await stopped
    writer.close()
    assert finished == [Code.OK] * 4


async def test_stop_ends_calls_after_the_grace(served: Served) -> None:
    server, handler, client = served
    calls: list[Any] = [client.Unary(say("hang")), client.Spread(say("hang"))]
    await until(lambda: handler.started == 2)
    async with asyncio.timeout(10):
        await server.stop(0.1)
    assert handler.cancelled == 3  # Spread counts twice
    for call in calls:
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(10):
        await server.wait()


async def test_what_is_no_request(served: Served) -> None:
    raw = served[2].channel.unary_unary("/tests.rpc.Echo/Unary")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "google.protobuf.BytesValue" in str(caught.value.details())


async def test_requests_compressed_with_gzip_are_taken_and_no_others(served: Served) -> None:
    client = served[2]
    requests = [say(f"{number}" * 300_000) for number in range(3)]
    assert await client.Unary(requests[0], compression=grpc.Compression.Gzip) == requests[0]
    assert [m async for m in client.Both(stream_of(*requests), compression=grpc.Compression.Gzip)] == requests
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.Unary(say("x" * 10_000), compression=grpc.Compression.Deflate)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.Unary(say("x" * (5 << 20)), compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_methods_and_services_that_are_not_there(served: Served) -> None:
    for path in ("/tests.rpc.Echo/Missing", "/tests.rpc.Echo/Nothing", "/no.Service/Unary"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served[2].channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_messages_and_metadata_have_limits() -> None:
    server = Server(limits=Limits(message_bytes_max=1000))
    server.add(ECHO, Handler())
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = Client(port)
    for kind, request in (("Unary", say("x" * 2000)), ("Both", stream_of(say("x" * 2000)))):
        call = getattr(client, kind)(request)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, kind
    assert await client.Unary(say("x" * 900)) == say("x" * 900)
    await client.channel.close(None)
    await server.stop(0)


class InTheFirstStep:
    """A handler that needs its task before it first suspends."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    async def Unary(self, request: Any, call: Any) -> Any:
        self.tasks.append(asyncio.current_task())
        if request.value == b"timeout":
            try:
                async with asyncio.timeout(0.05):
                    await asyncio.Event().wait()
            except TimeoutError:
                return say("timed out")
        if request.value == b"group":
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fail())
                    await asyncio.Event().wait()
            except* RpcError as errors:
                raise errors.exceptions[0] from None
        if request.value == b"cancel":
            self.tasks[-1].cancel()
            await asyncio.Event().wait()
        return say("at once")

    async def _fail(self) -> None:
        await asyncio.sleep(0)
        raise RpcError(Code.ABORTED, "a part failed")


async def test_a_handler_has_a_task_in_its_first_step() -> None:
    server = Server()
    server.add(ECHO, InTheFirstStep())
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = Client(port)
    async with asyncio.timeout(10):
        assert await client.Unary(say("timeout")) == say("timed out")
        assert await client.Unary(say("")) == say("at once")
        assert await client.Unary(say("group")).code() is grpc.StatusCode.ABORTED
        assert await client.Unary(say("cancel")).code() is grpc.StatusCode.CANCELLED
    await client.channel.close(None)
    await server.stop(0)


async def test_a_handler_that_never_began_leaves_nothing() -> None:
    """The client takes its call back in the same breath: what would have answered is closed, without a warning."""
    handler, server = Handler(), Server()
    server.add(ECHO, handler)
    port = server.listen("127.0.0.1:0")
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    encoder = hpack.Encoder()

    def call(stream: int) -> bytes:
        head = encoder.encode(
            [(":method", "POST"), (":scheme", "http"), (":path", "/tests.rpc.Echo/Unary"), (":authority", "x"),
             ("te", "trailers"), ("content-type", "application/grpc")]
        )  # fmt: skip
        body = peer.message(say("sleep 0.01").SerializeToString())
        return peer.frame(peer.HEADERS, peer.END_HEADERS, stream, head) + peer.frame(
            peer.DATA, peer.END_STREAM, stream, body
        )

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # The first shows that this handler waits, and the next get a task from the start.
        writer.write(peer.PREFACE + peer.settings() + call(1))
        await until(lambda: handler.started == 1)
        for stream in (3, 5, 7):
            writer.write(call(stream) + peer.frame(peer.RST_STREAM, 0, stream, b"\0\0\0\x08"))
        writer.write(call(9))
        await until(lambda: handler.started == 2)
        gc.collect()
    assert [str(warning.message) for warning in warned if warning.category is RuntimeWarning] == []
    writer.close()
    await server.stop(0)


async def test_a_client_that_vanished_is_found() -> None:
    handler, server = Handler(), Server(keepalive_s=0.2, keepalive_timeout_s=0.2)
    server.add(ECHO, handler)
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = Client(port)
    assert await client.Unary(say("sleep 1")) == say("sleep 1")  # who answers pings stays
    mute = socket.create_connection(("127.0.0.1", port))
    mute.setblocking(False)
    mute.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        try:
            while await loop.sock_recv(mute, 65536):
                pass
        except ConnectionError:
            pass
    mute.close()
    await client.channel.close(None)
    await server.stop(0)


@pytest.mark.parametrize("answers", ["before", "after"])
async def test_a_client_that_answers_stays_though_the_server_stood_still(answers: str) -> None:
    server = Server(keepalive_s=0.4, keepalive_timeout_s=0.4)
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(10)
    client.sendall(peer.PREFACE + peer.settings() + peer.frame(peer.SETTINGS, peer.ACK))
    await until(lambda: server._connections)
    (connection,) = server._connections
    await until(lambda: connection._asked_s is not None)
    heard_s, answer = connection._heard_s, peer.frame(peer.PING, peer.ACK, 0, bytes(8))
    if answers == "before":
        client.sendall(answer)
        await until(lambda: connection._heard_s != heard_s)
    asked_s = connection._asked_s
    time.sleep(1)  # noqa: ASYNC251 - it is the loop that stands still
    if answers == "after":
        await asyncio.sleep(0.05)
    else:
        await until(lambda: connection._asked_s != asked_s)
    client.sendall(answer)
    await asyncio.sleep(0.2)
    assert connection in server._connections
    client.close()
    await server.stop(0)


class Swallowing:
    """Takes what is no message for the end, as handlers do whose client is gone."""

    async def Both(self, requests: Any, call: Any) -> AsyncIterator[Any]:
        with suppress(RpcError):
            async for request in requests:
                yield request


@pytest.mark.parametrize("message", ["no protobuf", "too long"])
async def test_a_stream_with_what_is_no_message_never_ends_well(message: str) -> None:
    server = Server()
    server.add(ECHO, Swallowing())
    port = server.listen("127.0.0.1:0")
    await server.start()
    client = Client(port)
    try:
        raw = client.channel.stream_stream("/tests.rpc.Echo/Both")
        body = b"\xff\xff\xff" if message == "no protobuf" else bytes(5 << 20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in raw(stream_of(say("x").SerializeToString(), body), compression=grpc.Compression.Gzip):
                pass
        code = grpc.StatusCode.INTERNAL if message == "no protobuf" else grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.code() is code
    finally:
        await client.channel.close(None)
        await server.stop(0)

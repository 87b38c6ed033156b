"""What `Channel` makes of a connection that fails, ends, stalls or misbehaves: a scripted peer plays the server."""

import asyncio
import contextlib
import math
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raykube.base.backoff import Backoff
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel, Timing
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, Handler, say, served
from tests.rpc.peer import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    OK_HEADERS,
    OK_TRAILERS,
    PING,
    RST_STREAM,
    Pairs,
    Peer,
    frame,
    message,
    scripted,
    settings,
)

QUICK = Timing(connect_s=0.3, backoff=Backoff(0.05, 0.2), keepalive_s=0.2, keepalive_timeout_s=0.2)


async def failing(call: Any) -> RpcError:
    """The error of a call that must fail within seconds."""
    with pytest.raises(RpcError) as caught:
        await asyncio.wait_for(call, 10)
    return caught.value


async def test_what_a_call_looks_like_on_the_wire() -> None:
    seen: list[tuple[int, dict[str, str], bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(2):
            seen.append(await peer.call())
            peer.answer(seen[-1][0], b"")
        await peer.until_closed()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"))
        await stub.Unary(say("y"), timeout=1.5)
        await channel.close()
    (stream, headers, body), (second, more, _) = seen
    assert (stream, second, body) == (1, 3, say("x").SerializeToString())
    assert headers.pop("user-agent").startswith("raykube")
    assert headers == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/tests.rpc.Echo/Unary",
        ":authority": address,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    assert more["grpc-timeout"] == "1500m"


async def test_time_outs_that_differ_little_look_alike() -> None:
    """A server remembers header blocks; a time-out that is counted down must not make each a new one."""
    seen: set[str] = set()

    async def script(peer: Peer) -> None:
        await peer.greet()
        while True:
            stream, headers, body = await peer.call()
            seen.add(headers["grpc-timeout"])
            peer.answer(stream, body)

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"), timeout=4.99)
        for n in range(1000):
            await stub.Unary(say("x"), timeout=4.9 + n * 0.00003)
        await channel.close()
    assert len(seen) <= 5
    assert all(4900 <= int(text[:-1]) <= 5000 for text in seen if text.endswith("m"))


async def test_calls_above_the_last_stream_of_a_goaway_go_to_a_new_connection() -> None:
    finished, left = asyncio.Event(), asyncio.Event()

    async def leaving(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        for _ in range(2):
            await peer.call()
        peer.goaway(stream)
        await finished.wait()
        peer.answer(stream, body)
        await peer.until_closed()
        left.set()

    async def next_one(peer: Peer) -> None:
        await peer.greet()
        await peer.echo()

    async with scripted(leaving, next_one) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        first, *others = [asyncio.create_task(stub.Unary(say(f"{n}"))) for n in range(3)]
        assert [(await task).value for task in others] == [b"1", b"2"]
        assert (await stub.Unary(say("new"))).value == b"new"
        assert not first.done()
        finished.set()
        assert (await first).value == b"0"
        await asyncio.wait_for(left.wait(), 5)  # nobody needs the old connection any more
        await channel.close()


async def test_a_goaway_without_calls_is_not_noticed_by_callers() -> None:
    async def leaving(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.answer(stream, body)
        peer.goaway(2**31 - 1)
        peer.goaway(stream)
        await peer.until_closed()

    async with scripted(leaving) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        for n in range(5):
            assert (await stub.Unary(say(f"{n}"), timeout=5)).value == f"{n}".encode()
        await channel.close()


async def test_a_refused_stream_is_tried_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, _, _ = await peer.call()
        peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 7)))
        await peer.echo()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await stub.Unary(say("x"), timeout=5)).value == b"x"
        await channel.close()


@pytest.mark.parametrize(
    ("http2", "code"),
    [
        (0, Code.INTERNAL),
        (1, Code.INTERNAL),
        (2, Code.INTERNAL),
        (3, Code.INTERNAL),
        (8, Code.CANCELLED),
        (11, Code.RESOURCE_EXHAUSTED),
        (12, Code.PERMISSION_DENIED),
        (7, Code.UNAVAILABLE),
    ],
)
async def test_a_reset_stream_is_an_error(http2: int, code: Code) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        while True:
            stream, _, _ = await peer.call()
            peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", http2)))

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await failing(stub.Unary(say("x")))).code is code
        await channel.close()


async def test_a_lost_connection_is_unavailable_and_the_next_call_gets_a_new_one() -> None:
    async def dying(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        await peer.call()

    async def living(peer: Peer) -> None:
        await peer.greet()
        await peer.echo()

    async with scripted(dying, living) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        calls = [asyncio.create_task(failing(stub.Unary(say(f"{n}")))) for n in range(2)]
        assert [(await call).code for call in calls] == [Code.UNAVAILABLE] * 2
        assert (await stub.Unary(say("x"), timeout=5)).value == b"x"
        await channel.close()


async def test_a_stream_on_a_lost_connection_is_unavailable() -> None:
    async def dying(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.send(peer.headers(stream), frame(DATA, 0, stream, message(body)))
        await peer.writer.drain()

    async with scripted(dying) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        stream = stub.Spread(say("x"))
        assert (await anext(stream)).value == b"x"
        assert (await failing(anext(stream))).code is Code.UNAVAILABLE
        await channel.close()


async def test_while_nobody_listens_calls_fail_at_once_and_attempts_are_spaced() -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    channel = Channel(f"127.0.0.1:{port}", timing=QUICK)
    stub: Any = channel.stub(ECHO)
    for _ in range(20):
        error = await failing(stub.Unary(say("x")))
        assert error.code is Code.UNAVAILABLE
        assert f"127.0.0.1:{port}" in error.message
    assert channel.attempts <= 3
    handler = Handler()
    async with served("ours", handler, f"127.0.0.1:{port}"), asyncio.timeout(5):
        for _ in range(1000):
            try:
                await stub.Unary(say("x"))
                break
            except RpcError:
                await asyncio.sleep(0.02)
        await channel.close()
    assert handler.started == 1


async def test_attempts_are_spaced_at_a_peer_that_greets_and_leaves() -> None:
    """But the first may have met a server that was about to stop, and the next call is not to notice."""
    visits = 0

    async def leaving(peer: Peer) -> None:
        nonlocal visits
        visits += 1
        await peer.greet()
        if visits > 1:
            return
        await peer.call()  # of the one that `connect` was for; nobody waits for it
        peer.goaway(2**31 - 1)

    async with scripted(leaving) as address:
        channel = Channel(address, timing=Timing(backoff=Backoff(60, 60)))
        stub: Any = channel.stub(ECHO)
        for _ in range(20):
            error = await failing(stub.Unary(say("x")))
            assert error.code is Code.UNAVAILABLE
        assert "closed the connection at once" in error.message
        assert channel.attempts == visits == 2
        await channel.close()


async def test_a_peer_that_refuses_a_call_and_leaves_has_answered() -> None:
    async def refusing(peer: Peer) -> None:
        await peer.greet()
        stream, _, _ = await peer.call()
        peer.send(peer.trailers(stream, (*OK_HEADERS, ("grpc-status", "5"), ("grpc-message", "none such"))))
        peer.goaway(stream)

    async with scripted(refusing) as address:
        channel = Channel(address, timing=Timing(backoff=Backoff(60, 60)))
        stub: Any = channel.stub(ECHO)
        for _ in range(4):
            error = await failing(stub.Unary(say("x")))
            assert (error.code, error.message) == (Code.NOT_FOUND, "none such")
        await channel.close()


async def test_a_peer_that_leaves_but_ends_the_calls_it_took_is_a_good_one() -> None:
    taken: list[int] = []
    all_taken = asyncio.Event()

    async def draining(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.goaway(stream)
        taken.append(stream)
        await all_taken.wait()
        peer.answer(stream, body)
        await peer.until_closed()

    async with scripted(draining) as address:
        channel = Channel(address, timing=Timing(backoff=Backoff(60, 60)))
        stub: Any = channel.stub(ECHO)
        calls: list[asyncio.Task[Any]] = []
        for number in range(1, 5):
            calls.append(asyncio.create_task(stub.Unary(say("x"))))
            await until(lambda number=number: len(taken) == number and not channel.connected, 10, "the call was taken")
        all_taken.set()
        assert [answer.value for answer in await asyncio.gather(*calls)] == [b"x"] * 4
        await channel.close()


async def test_a_name_s_next_address_is_tried_beside_one_that_swallows_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(_greet_and_echo) as address, contextlib.AsyncExitStack() as stack:
        port = int(address.rpartition(":")[2])
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.2", port))
        silent.listen(0)
        for _ in range(3):  # its queue is full: it drops who comes next
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))

        loop = asyncio.get_running_loop()
        known = loop.getaddrinfo

        async def found(host: Any, *args: Any, **options: Any) -> list[Any]:
            if host != "two-addresses.example":
                return await known(host, *args, **options)
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(loop, "getaddrinfo", found)
        channel = Channel(f"two-addresses.example:{port}")
        stub: Any = channel.stub(ECHO)
        assert (await stub.Unary(say("x"), timeout=60)).value == b"x"
        await channel.close()


async def _greet_and_echo(peer: Peer) -> None:
    await peer.greet()
    await peer.echo()


async def test_a_time_out_without_an_end_is_none() -> None:
    async with scripted(_greet_and_echo) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await stub.Unary(say("x"), timeout=math.inf)).value == b"x"
        await channel.close()


async def test_a_peer_that_says_nothing_is_unavailable() -> None:
    async def silent(peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(silent) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        error = await failing(stub.Unary(say("x")))
        assert (error.code, "0.3 s" in error.message) == (Code.UNAVAILABLE, True)
        await channel.close()


async def test_a_deadline_while_connecting() -> None:
    async def silent(peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(silent) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await failing(stub.Unary(say("x"), timeout=0.1))).code is Code.DEADLINE_EXCEEDED
        await channel.close()


async def test_a_peer_that_speaks_http1_is_unavailable() -> None:
    async def old(peer: Peer) -> None:
        await peer.reader.readexactly(10)
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await peer.until_closed()

    async with scripted(old) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await failing(stub.Unary(say("x")))).code is Code.UNAVAILABLE
        await channel.close()


async def test_a_peer_that_vanished_is_found_by_pings() -> None:
    async def frozen(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        await asyncio.Event().wait()

    async with scripted(frozen) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        begun = time.monotonic()
        assert (await failing(stub.Unary(say("x")))).code is Code.UNAVAILABLE
        assert time.monotonic() - begun >= 0.39
        await channel.close()


@pytest.mark.parametrize(
    ("reason", "keepalive_s"), [(b"too_many_pings", 0.4), (b"a flood of calls that are reset", 0.2)]
)
async def test_pings_become_rarer_when_the_peer_says_they_are_too_many(reason: bytes, keepalive_s: float) -> None:
    """Not when it asks for calm for another reason: peers that vanish would be found later and later."""

    async def annoyed(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.send(frame(GOAWAY, payload=struct.pack(">II", stream, 11) + reason))
        peer.answer(stream, body)
        await peer.until_closed()

    async with scripted(annoyed) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        assert await stub.Unary(say("x")) == say("x")
        assert channel._timing.keepalive_s == keepalive_s
        await channel.close()


async def test_a_peer_that_answers_pings_may_think_as_long_as_it_likes() -> None:
    async def slow(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        for _ in range(3):
            ping = await peer.frame(PING)
            assert len(ping.payload) == 8
            peer.send(frame(PING, ACK, 0, ping.payload))
        peer.answer(stream, body)
        await peer.until_closed()

    async with scripted(slow) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        assert (await stub.Unary(say("x"), timeout=5)).value == b"x"
        await channel.close()


async def test_a_peer_that_vanished_while_nobody_called_is_found_by_the_next_call() -> None:
    async def frozen(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.answer(stream, body)
        with pytest.raises(TimeoutError):  # an idle connection is not pinged: other makes of servers mind
            await asyncio.wait_for(peer.frame(PING), 0.5)
        idle.set()
        await asyncio.Event().wait()

    async def living(peer: Peer) -> None:
        await peer.greet()
        await peer.echo()

    idle = asyncio.Event()
    async with scripted(frozen, living) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"))
        await idle.wait()
        assert (await failing(stub.Unary(say("y")))).code is Code.UNAVAILABLE
        assert (await stub.Unary(say("z"), timeout=5)).value == b"z"
        await channel.close()


async def test_no_more_streams_than_the_peer_allows() -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        await peer.greet((MAX_CONCURRENT_STREAMS, 2))
        waiting: list[tuple[int, bytes]] = []
        for _ in range(3):
            for _ in range(2):
                stream, _, body = await peer.call()
                waiting.append((stream, body))
            most = max(most, len(waiting))
            peer.send(frame(PING, 0, 0, bytes(8)))
            await peer.frame(PING)  # everything that the client had to say has been read
            assert peer.seen[-1].kind == PING
            assert sum(f.kind == HEADERS for f in peer.seen) % 2 == 0
            while waiting:
                peer.answer(*waiting.pop())
        await peer.until_closed()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        calls = [asyncio.create_task(stub.Unary(say(f"{n}"), timeout=5)) for n in range(6)]
        assert [(await call).value for call in calls] == [f"{n}".encode() for n in range(6)]
        await channel.close()
    assert most == 2


async def test_a_peer_that_vanished_is_found_by_a_call_that_waits_for_its_turn() -> None:
    """No call is under way: the peer allowed none, and said no more."""

    async def frozen(peer: Peer) -> None:
        await peer.greet((MAX_CONCURRENT_STREAMS, 0))
        await asyncio.Event().wait()

    async def well(peer: Peer) -> None:
        await peer.greet()
        await peer.echo()

    async with scripted(frozen, well) as address:
        channel = Channel(address, timing=QUICK)
        stub: Any = channel.stub(ECHO)
        assert await asyncio.wait_for(stub.Unary(say("x")), 10) == say("x")
        await channel.close()


async def test_a_call_that_waits_for_its_turn_can_time_out_and_be_cancelled() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet((MAX_CONCURRENT_STREAMS, 1))
        stream, _, body = await peer.call()
        await release.wait()
        peer.answer(stream, body)
        await peer.echo()

    release = asyncio.Event()
    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        first = asyncio.create_task(stub.Unary(say("first")))
        await until(lambda: channel.connected)
        second = asyncio.create_task(stub.Unary(say("second")))
        assert (await failing(stub.Unary(say("third"), timeout=0.1))).code is Code.DEADLINE_EXCEEDED
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        fourth = asyncio.create_task(stub.Unary(say("fourth")))
        release.set()
        assert ((await first).value, (await fourth).value) == (b"first", b"fourth")
        await channel.close()


async def test_a_turn_that_comes_to_a_call_just_cancelled_goes_to_the_next() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet((MAX_CONCURRENT_STREAMS, 1))
        await peer.echo()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"))

        async def call_and_cancel() -> None:
            await stub.Unary(say("first"))
            second.cancel()  # in the turn in which its turn came

        first = asyncio.create_task(call_and_cancel())
        second = asyncio.create_task(stub.Unary(say("second")))
        third = asyncio.create_task(stub.Unary(say("third"), timeout=5))
        await first
        assert (await third).value == b"third"
        assert second.cancelled()
        await channel.close()


async def test_the_peer_s_window_is_respected() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet((INITIAL_WINDOW_SIZE, 0))
        stream, _, _ = await peer.open()
        peer.send(frame(PING, 0, 0, bytes(8)))
        assert (await peer.frame(PING, DATA)).kind == PING, "sent without a window"
        peer.window_update(stream, 3)
        assert len((await peer.frame(DATA)).payload) == 3
        peer.send(settings((INITIAL_WINDOW_SIZE, 10)))
        assert len((await peer.frame(DATA)).payload) == 10
        peer.send(settings((INITIAL_WINDOW_SIZE, 0)))
        peer.window_update(stream, 15)
        assert len((await peer.frame(DATA)).payload) == 5, "10 were taken back, so 5 of 15 are left"
        peer.send(settings((INITIAL_WINDOW_SIZE, 1000)))
        rest = await peer.frame(DATA)
        assert (len(rest.payload), rest.flags) == (5 + 102 - 18, END_STREAM)
        peer.answer(stream, b"")
        await peer.until_closed()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await asyncio.wait_for(stub.Unary(Bytes(value=bytes(100))), 5)
        await channel.close()


async def test_a_call_that_times_out_resets_its_stream() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, headers, _ = await peer.call()
        assert "grpc-timeout" in headers
        reset = await peer.frame(RST_STREAM)
        assert (reset.stream, reset.payload) == (stream, struct.pack(">I", 8))
        done.set()
        await peer.until_closed()

    done = asyncio.Event()
    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await failing(stub.Unary(say("x"), timeout=0.1))).code is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(done.wait(), 5)
        await channel.close()


HTML: Pairs = ((":status", "200"), ("content-type", "text/html"))


@pytest.mark.parametrize(
    ("headers", "body", "trailers", "code"),
    [
        (((":status", "401"),), b"", None, Code.UNAUTHENTICATED),
        (((":status", "403"),), b"", None, Code.PERMISSION_DENIED),
        (((":status", "404"),), b"", None, Code.UNIMPLEMENTED),
        (((":status", "429"),), b"", None, Code.UNAVAILABLE),
        (((":status", "503"), ("content-type", "text/html")), b"<html>", None, Code.UNAVAILABLE),
        (((":status", "500"),), b"", None, Code.UNKNOWN),
        (HTML, b"<html>", None, Code.UNKNOWN),
        (OK_HEADERS, message(b""), (), Code.UNKNOWN),  # no status at all
        (OK_HEADERS, message(b""), (("grpc-status", "x"),), Code.UNKNOWN),
        (OK_HEADERS, message(b""), (("grpc-status", "77"),), Code.UNKNOWN),
        (OK_HEADERS, b"", OK_TRAILERS, Code.INTERNAL),  # OK without an answer
        (OK_HEADERS, message(b"") * 2, OK_TRAILERS, Code.INTERNAL),  # two answers
        (OK_HEADERS, message(b"")[:4], OK_TRAILERS, Code.INTERNAL),  # cut in a length
        (OK_HEADERS, message(b"\x0a\x01x")[:-1], OK_TRAILERS, Code.INTERNAL),  # cut in a message
        (OK_HEADERS, message(b"", compressed=1), OK_TRAILERS, Code.INTERNAL),
        (OK_HEADERS, b"\0\xff\xff\xff\xff", OK_TRAILERS, Code.RESOURCE_EXHAUSTED),  # 4 GiB announced
        (OK_HEADERS, message(b"\xff\xff"), OK_TRAILERS, Code.INTERNAL),  # no such protobuf
        (OK_HEADERS, b"", (("grpc-status", "9"), ("grpc-message", "a%20b%C3%A4")), Code.FAILED_PRECONDITION),
    ],
)
async def test_answers_that_are_none(headers: Pairs, body: bytes, trailers: Pairs | None, code: Code) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, _, _ = await peer.call()
        peer.send(peer.headers(stream, headers))
        if trailers is None:
            peer.send(frame(DATA, END_STREAM, stream, body))
        else:
            peer.send(frame(DATA, 0, stream, body) if body else b"", peer.trailers(stream, trailers))
        await peer.echo()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        error = await failing(stub.Unary(say("x")))
        assert error.code is code, error
        if code is Code.FAILED_PRECONDITION:
            assert error.message == "a bä"
        assert (await stub.Unary(say("next"), timeout=5)).value == b"next", "one bad answer harms no other call"
        await channel.close()


async def test_interim_headers_are_passed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.send(peer.headers(stream, ((":status", "103"), ("link", "x"))))
        peer.answer(stream, body)
        await peer.until_closed()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await stub.Unary(say("x"), timeout=5)).value == b"x"
        await channel.close()


@pytest.mark.parametrize(
    "garbage",
    [
        frame(DATA, 0, 0, b"x"),
        frame(HEADERS, 4, 2, b"\x88"),
        frame(5, 4, 1, struct.pack(">I", 2)),
        b"\xff" * 100,
        frame(99, 0, 0, b"x") + frame(DATA, 0, 1001, b"x"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_left(garbage: bytes) -> None:
    async def broken(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        peer.send(garbage)
        goaway = await peer.frame(7)
        assert int.from_bytes(goaway.payload[4:8], "big") != 0
        await peer.until_closed()

    async def good(peer: Peer) -> None:
        await peer.greet()
        await peer.echo()

    async with scripted(broken, good) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        assert (await failing(stub.Unary(say("x")))).code is Code.UNAVAILABLE
        assert (await stub.Unary(say("x"), timeout=5)).value == b"x"
        await channel.close()


async def test_many_small_calls_leave_in_few_writes() -> None:
    """One write a turn of the loop, not one a call."""
    sizes: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.answer(stream, body)
        while data := await peer.reader.read(1 << 20):
            sizes.append(len(data))

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"))
        calls = [asyncio.create_task(stub.Unary(say(f"{n}"))) for n in range(100)]
        await until(lambda: sum(sizes) > 100 * 20)
        assert len(sizes) <= 3
        await channel.close()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_closing_ends_calls_that_wait_for_a_connection() -> None:
    async def silent(peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(silent) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        call = asyncio.create_task(failing(stub.Unary(say("x"))))
        await until(lambda: channel.attempts == 1)
        await channel.close()
        assert (await call).code is Code.UNAVAILABLE
        assert (await failing(stub.Unary(say("x")))).code is Code.UNAVAILABLE
        await channel.close()


async def test_closing_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet()
        stream, _, body = await peer.call()
        peer.answer(stream, body)
        await peer.until_closed()
        closed.set()

    async with scripted(script) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        await stub.Unary(say("x"))
        await channel.close()
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_request_stream_stays_open_after_answers() -> None:
    """Half-closed by nobody: a watch stream lives on while requests come."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while (item := await queue.get()) is not None:
            yield item

    async with served("reference", Handler()) as address:
        channel = Channel(address)
        stub: Any = channel.stub(ECHO)
        stream = stub.Both(requests())
        for n in range(5):
            queue.put_nowait(say(f"{n}"))
            assert (await anext(stream)).value == f"{n}".encode()
        queue.put_nowait(None)
        assert [m async for m in stream] == []
        await channel.close()

"""Two connections joined: bytes both ways, ends, idleness, and the last word of who answers."""

import array
import asyncio
import fcntl
import socket
import termios
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from raykube.streaming.core import http1
from raykube.streaming.splice import Idle, splice
from raykube.streaming.wire import Wire, dial, switching


class Ends:
    """client <-> (near, splice, far) <-> server, over TCP."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []

    async def pair(self) -> tuple[Wire, Wire]:
        accepted: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(Wire(reader, writer))

        listener = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        outer = Wire(*await asyncio.open_connection("127.0.0.1", port))
        inner = await accepted
        listener.close()
        self.wires += [outer, inner]
        return outer, inner

    async def join(self, idle_s: float | None = None) -> None:
        self.client, near = await self.pair()
        self.server, far = await self.pair()
        self.splicing = asyncio.ensure_future(splice(near, far, idle_s))


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    for wire in ends.wires:
        wire.abort()


async def read_all(wire: Wire) -> bytes:
    found = b""
    while data := await wire.read():
        found += data
    return found


async def test_both_ways(ends: Ends) -> None:
    await ends.join()
    await ends.client.write(b"question")
    assert await ends.server.read() == b"question"
    await ends.server.write(b"answer")
    ends.server.close()
    assert await read_all(ends.client) == b"answer"
    ends.client.close()
    await asyncio.wait_for(ends.splicing, 20)


async def test_who_leaves_is_gone_at_the_other_end(ends: Ends) -> None:
    await ends.join()
    ends.client.close()
    assert await read_all(ends.server) == b""
    await asyncio.wait_for(ends.splicing, 20)


async def test_idle_for_too_long(ends: Ends) -> None:
    await ends.join(idle_s=0.2)
    await asyncio.wait_for(ends.splicing, 20)
    assert await read_all(ends.client) == b""
    assert await read_all(ends.server) == b""


async def test_traffic_either_way_is_a_touch(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[None] = []
    monkeypatch.setattr(Idle, "touch", lambda _idle: touched.append(None))
    await ends.join(idle_s=3600)
    for number, (source, sink) in enumerate(((ends.client, ends.server), (ends.server, ends.client)), 1):
        await source.write(b"tick")
        assert await sink.read() == b"tick"
        assert len(touched) == number
    assert not ends.splicing.done()


async def test_idleness_is_counted_from_the_last_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, []

    async def sleep(delay_s: float) -> None:
        nonlocal now
        slept.append(delay_s)
        if len(slept) == 1:
            now += 0.25
            idle.touch()
            delay_s -= 0.25
        now += delay_s

    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(
        "raykube.streaming.splice.asyncio", SimpleNamespace(get_running_loop=lambda: clock, sleep=sleep)
    )
    idle = Idle(1.0)
    await idle.watch()
    assert (slept, now) == ([1.0, 0.25], 101.25)


async def test_the_last_word_arrives_though_input_was_not_read(ends: Ends) -> None:
    """Who closes with unread input resets the connection; the answer must not go down with it."""
    await ends.join()

    async def pour() -> None:
        try:
            while True:
                await ends.client.write(b"x" * 65536)
        except OSError:
            pass

    pouring = asyncio.ensure_future(pour())
    await asyncio.sleep(0.2)
    await ends.server.write(b"that was enough")
    finishing = asyncio.ensure_future(ends.server.finish())
    assert await ends.client.read() == b"that was enough"
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    ends.client.close()
    await asyncio.wait_for(asyncio.gather(ends.splicing, finishing), 30)


async def test_back_pressure(ends: Ends) -> None:
    await ends.join()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await ends.client.write(b"x" * 65536)
            sent += 65536

    pouring = asyncio.ensure_future(pour())
    before = -1
    while before != sent:  # until nothing more fits in between
        before = sent
        await asyncio.sleep(0.5)
    assert sent < 64 * 1024 * 1024
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    received = 0
    while received < sent:
        received += len(await ends.server.read())
    assert not ends.splicing.done()


async def test_the_last_words_of_a_server_that_is_gone_arrive(ends: Ends) -> None:
    """It closed with a client that still talks and has not read yet: its refusal of more is no reason to drop them."""
    words = bytes(150_000)
    said = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http1.response_head(switching("x")) + words)
        unsent = array.array("i", [1])
        while unsent[0] or writer.transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
            fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unsent)
        writer.close()
        said.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    answer = await dial(f"http://127.0.0.1:{port}/", "POST", http1.spdy_headers("x"))
    far = answer.wire
    assert far is not None
    client, near = await ends.pair()
    for wire, option in ((near, socket.SO_SNDBUF), (client, socket.SO_RCVBUF)):
        wire._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 4096)
    client._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a ReadTransport too
    await said.wait()
    splicing = asyncio.ensure_future(splice(near, far))
    while not far._writer.transport.is_closing():
        await client.write(b"more")
        await asyncio.sleep(0.01)
    client._writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await read_all(client) == words
    client.close()
    await asyncio.wait_for(splicing, 20)
    listener.close()

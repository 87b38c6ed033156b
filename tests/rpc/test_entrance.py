"""One port for gRPC and HTTP: who gets where, whatever pieces the first bytes come in."""

import asyncio
from typing import Any

import pytest

from raykube.rpc import entrance
from raykube.rpc.channel import Channel
from raykube.rpc.core.frames import PREFACE
from raykube.rpc.server import Server
from tests.rpc.echo import ECHO, Handler, say
from tests.rpc.peer import frame


class Http(asyncio.Protocol):
    """Says what it got."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"http:" + data)
        self.transport.close()


async def started() -> tuple[Server, int]:
    server = Server(http=Http)
    server.add(ECHO, Handler())
    port = server.listen("127.0.0.1:0")
    await server.start()
    return server, port


async def told(port: int, pieces: list[bytes]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.02)
            return await reader.read(100)
    finally:
        writer.close()


async def test_who_speaks_what_gets_there() -> None:
    server, port = await started()
    try:
        for pieces in ([b"GET / HTTP/1.1\r\n"], [b"P", b"UT /x"], [b"PRI", b"NT"], [b"\x16\x03\x01"]):
            first = b"".join(pieces) if len(pieces) == 1 or pieces[0] != b"PRI" else b"PRINT"
            assert await told(port, pieces) == b"http:" + first
        settings = frame(4, 0, 0, b"")
        for pieces in ([PREFACE + settings], [bytes((byte,)) for byte in PREFACE] + [settings]):
            answer = await told(port, pieces)
            assert answer[3] == 4, "SETTINGS come first"
        channel = Channel(f"127.0.0.1:{port}")
        assert await channel.stub(ECHO).Unary(say("x")) == say("x")
        await channel.close()
    finally:
        await server.stop()


async def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "PATIENCE_S", 0.1)
    server, port = await started()
    try:
        for said in (b"", PREFACE[:10]):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            async with asyncio.timeout(5):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
            writer.close()
        assert not server._entering
        assert not server._connections
    finally:
        await server.stop()


async def test_a_stop_leaves_nobody_waiting() -> None:
    server, port = await started()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.05)
    assert server._entering
    async with asyncio.timeout(2):
        await server.stop()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()

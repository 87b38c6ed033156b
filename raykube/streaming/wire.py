"""A connection of raw bytes after its upgrade, on the server's side (`take_over`) or the client's (`dial`)."""

import asyncio
import asyncio.trsock
import os
import select
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from raykube.streaming.core import http1

READ_BYTES = 64 * 1024
BUFFER_BYTES_MAX = 64 * 1024  # asyncio reads up to twice as much before it stops
CONNECT_S = 10.0
ANSWER_S = 60.0
BODY_BYTES_MAX = 1024 * 1024
HANGUP_CHECK_S = 5.0
LINGER_S = 5.0
# A peer whose machine is gone says nothing: after a minute it counts as closed.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 30, 10, 3


class Wire:
    """Bytes both ways, with back-pressure. Closing sends what was written, for `LINGER_S` at most, then ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        keep_alive(writer.transport)

    async def read(self) -> bytes:
        """Some bytes; none at the end, be it clean or not."""
        try:
            return await self._reader.read(READ_BYTES)
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def write(self, data: bytes, gone: Callable[[], bool] | None = None) -> None:
        """Returns when there is room for more. Raises ConnectionError when the peer is gone, or when `gone` says that
        of the one whose data this is: who is not read meanwhile cannot be seen to leave otherwise."""
        self._writer.write(data)
        await patiently(self._writer.drain, gone)

    def hung_up(self) -> bool:
        """The peer closed its side, whatever may still be unread here. (What is still unsent there hides it.)"""
        return hung_up(self._writer.transport)

    async def finish(self) -> None:
        """Closes, but hears the peer out first, until it closes too or `LINGER_S` are over.

        Who closes while there is something unread resets the connection, and the peer loses what it had not read yet:
        the status of a command that ended before its input, for one. What is said last must say that it is the last.
        """
        self.end_writing()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self.read():
                    pass
        self.close()

    def end_writing(self) -> None:
        """Tells the peer that nothing more comes, where the transport can (TLS cannot)."""
        with suppress(OSError, RuntimeError):
            if self._writer.can_write_eof():
                self._writer.write_eof()

    def close(self) -> None:
        with suppress(OSError, RuntimeError):
            self._writer.close()
            # A peer that reads no more would keep us from ending it, and so from telling it that it is over.
            asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Ends the connection at once. What was not sent is lost, or the kernel would keep the end back behind it."""
        found = self._writer.transport.get_extra_info("socket")
        if found is None or found.fileno() < 0:
            return  # it is closed already
        with suppress(OSError, RuntimeError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()


def keep_alive(transport: asyncio.BaseTransport) -> None:
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def hung_up(transport: asyncio.BaseTransport | None) -> bool:
    found = transport.get_extra_info("socket") if transport is not None else None
    if transport is None or transport.is_closing() or found is None or found.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(found.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


async def patiently(wait: Callable[[], Awaitable[object]], gone: Callable[[], bool] | None) -> None:
    """Waits for `wait`, which may be asked again, unless `gone`. Raises ConnectionError."""
    while True:
        try:
            async with asyncio.timeout(HANGUP_CHECK_S):
                await wait()
                return
        except TimeoutError:
            if gone is not None and gone():
                raise ConnectionResetError("the other side of the stream is gone") from None


class Takeover(web.StreamResponse):
    """What a handler returns to aiohttp when the connection is no longer aiohttp's: there is nothing left to send."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class _Protocol(asyncio.StreamReaderProtocol):
    """Lets what arrived be read, however the connection ended: asyncio's own would raise the error first."""

    def __init__(self, reader: asyncio.StreamReader, old: asyncio.BaseProtocol | None = None) -> None:
        """`old`: the protocol that this one replaces, to be told of the end: the server counts its connections."""
        super().__init__(reader)
        self._reader = reader
        self._old = old
        self._socket: asyncio.trsock.TransportSocket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is None:
            self._socket = transport.get_extra_info("socket")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._socket is not None:
            # A write failed on a connection that the peer reset; what it said before that still waits in the kernel.
            with suppress(OSError, ValueError):
                while data := os.read(self._socket.fileno(), READ_BYTES):
                    self._reader.feed_data(data)
        super().connection_lost(None)
        if self._old is not None:
            self._old.connection_lost(exc)


def take_over(request: web.BaseRequest, head: http1.ResponseHead) -> Wire:
    """Answers a request with `head`, and takes its connection from aiohttp; the handler then returns a `Takeover`.

    Raises ConnectionError when the client is gone.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=BUFFER_BYTES_MAX, loop=loop)
    protocol = _Protocol(reader, transport.get_protocol())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(cast(asyncio.WriteTransport, transport), protocol, reader, loop)
    writer.write(http1.response_head(head))
    return Wire(reader, writer)


def switching(protocol: str, upgrade: str = "SPDY/3.1") -> http1.ResponseHead:
    """The answer that accepts an upgrade to SPDY with this stream protocol."""
    headers = [("Connection", "Upgrade"), ("Upgrade", upgrade), ("X-Stream-Protocol-Version", protocol)]
    return http1.ResponseHead(101, "Switching Protocols", headers)


def unverified() -> ssl.SSLContext:
    """For servers in pods: nobody here can check their certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a dialled server: the connection if it upgraded, else the body of its refusal."""

    head: http1.ResponseHead
    wire: Wire | None
    body: bytes = b""


async def dial(url: str, method: str, headers: http1.Headers, context: ssl.SSLContext | None = None) -> Answer:
    """Asks the server at `url` for an upgrade. Raises OSError (TimeoutError, too) when it does not answer."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise OSError(f"cannot stream from {url!r}")
    async with asyncio.timeout(CONNECT_S):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=BUFFER_BYTES_MAX, loop=loop)
        protocol = _Protocol(reader)
        transport, _ = await loop.create_connection(
            lambda: protocol,
            parts.hostname,
            parts.port or (443 if tls else 80),
            ssl=(context or ssl.create_default_context()) if tls else None,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        writer.write(http1.request_head(method, target, parts.netloc.rpartition("@")[2], headers))
        async with asyncio.timeout(ANSWER_S):
            try:
                head = http1.parse_response_head(await reader.readuntil(b"\r\n\r\n"))
                if head.status == 101:
                    return Answer(head, Wire(reader, writer))
                body = await _body(reader, head)
            except (
                http1.HeadError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                ValueError,
                ConnectionResetError,
            ) as error:
                raise ConnectionError(f"{parts.netloc} does not speak HTTP: {error}") from None
    except BaseException:
        writer.close()
        raise
    writer.close()
    return Answer(head, None, body)


async def _body(reader: asyncio.StreamReader, head: http1.ResponseHead) -> bytes:
    """The body of a refusal, as far as it is bearable."""
    if head.get("transfer-encoding").lower() == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(body) + size > BODY_BYTES_MAX:
                return body
            body += (await reader.readexactly(size + 2))[:-2]
        return body
    length = head.get("content-length")
    if length:
        return await reader.readexactly(min(int(length), BODY_BYTES_MAX))
    return await reader.read(BODY_BYTES_MAX)

"""An HTTP/2 server that does what a test's script says, frame by frame: what no well-behaved server would do.

async def script(peer: Peer) -> None:      # once for each connection
    await peer.greet()
    stream, _headers, request = await peer.call()
    peer.answer(stream, request)

async with scripted(script) as address: ...
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITY_FLAG = 32
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 3, 4, 5
OK_HEADERS = ((":status", "200"), ("content-type", "application/grpc"))
OK_TRAILERS = (("grpc-status", "0"),)

Pairs = tuple[tuple[str, str], ...]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def message(body: bytes, *, compressed: int = 0) -> bytes:
    """A gRPC message: `body` is what protobuf made."""
    return struct.pack(">BI", compressed, len(body)) + body


@dataclass(frozen=True, slots=True)
class Frame:
    """As it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seen: list[Frame] = []
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()

    async def frame(self, *kinds: int) -> Frame:
        """The next frame, of one of `kinds` if given (others: in `seen` only). IncompleteReadError at the end."""
        while True:
            head = await self.reader.readexactly(9)
            body = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            found = Frame(head[3], head[4], int.from_bytes(head[5:], "big"), body)
            self.seen.append(found)
            if not kinds or found.kind in kinds:
                return found

    async def greet(self, *pairs: tuple[int, int]) -> None:
        """The prefaces both ways."""
        assert await self.reader.readexactly(len(PREFACE)) == PREFACE
        assert (await self.frame()).kind == SETTINGS, "a client's first frame is SETTINGS"
        self.send(settings(*pairs), frame(SETTINGS, ACK))

    async def call(self) -> tuple[int, dict[str, str], bytes]:
        """The next request of one message: (stream, headers, protobuf bytes)."""
        stream, headers, ended = await self.open()
        body = b""
        while not ended:
            got = await self.frame(DATA)
            assert got.stream == stream
            body += got.payload
            ended = bool(got.flags & END_STREAM)
        assert len(body) == 5 + int.from_bytes(body[1:5], "big")
        return stream, headers, body[5:]

    async def open(self) -> tuple[int, dict[str, str], bool]:
        """The next HEADERS: (stream, headers, whether it ended the stream)."""
        got = await self.frame(HEADERS)
        assert got.flags & END_HEADERS
        return got.stream, dict(self._decoder.decode(got.payload)), bool(got.flags & END_STREAM)  # type: ignore[arg-type]

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def headers(self, stream: int, pairs: Pairs = OK_HEADERS, flags: int = END_HEADERS) -> bytes:
        return frame(HEADERS, flags, stream, self._encoder.encode(pairs))

    def trailers(self, stream: int, pairs: Pairs = OK_TRAILERS) -> bytes:
        return self.headers(stream, pairs, END_HEADERS | END_STREAM)

    def answer(self, stream: int, body: bytes) -> None:
        """A whole unary answer."""
        self.send(self.headers(stream), frame(DATA, 0, stream, message(body)), self.trailers(stream))

    def goaway(self, last: int, code: int = 0) -> None:
        self.send(frame(GOAWAY, payload=struct.pack(">II", last, code)))

    def window_update(self, stream: int, size: int) -> None:
        self.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size)))

    async def echo(self) -> None:
        """Answers every call with its request until the client goes."""
        while True:
            stream, _, body = await self.call()
            self.answer(stream, body)

    async def until_closed(self) -> None:
        """Reads until the client closes."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self.frame()


@contextlib.asynccontextmanager
async def scripted(*scripts: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a server that plays `scripts` to its connections in order, the last one to all others.

    A connection is closed when its script ends. A script's failed assertion fails the test.
    """
    problems: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()
    count = 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        script = scripts[min(count, len(scripts) - 1)]
        count += 1
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the test is over
        except BaseException as problem:
            problems.append(problem)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if problems:
        raise problems[0]

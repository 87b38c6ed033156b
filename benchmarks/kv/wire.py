"""A load generator's end of gRPC: many unary calls of one method on a few connections, as cheap as Python allows.

It is its own, not `raykube.rpc`, so that both stores meet the same client and its cost stays small beside theirs.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import cast

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
RST_STREAM = 3
WINDOW_BYTES = 1 << 24


HEAD = struct.Struct(">IBI")  # length and type, flags, stream


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def message(body: bytes) -> bytes:
    """gRPC's framing of one message."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def header_block(path: str, authority: str) -> bytes:
    """Request headers that leave the peer's dynamic table alone, so that every call's are the same bytes."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*header) for header in headers])


class Calls(asyncio.Protocol):
    """One connection that keeps a number of calls under way. `body()` makes the next request.

    `on_answer(seconds, answer)` gets each answer's latency and its data frames' content. A status other than OK, or a
    connection that ends, is in `problem`.
    """

    def __init__(self, path: str, authority: str, body: Callable[[], bytes],
                 on_answer: Callable[[float, bytes], None]) -> None:  # fmt: skip
        self.problem = ""
        self.lost = asyncio.get_running_loop().create_future()
        self._block = header_block(path, authority)
        self._body, self._on_answer = body, on_answer
        self._decoder = hpack.Decoder()
        self._statuses: dict[bytes, str] = {}  # header blocks met before → the gRPC status in them
        self._rest = b""
        self._next = 1
        self._begun: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self._window = 65535
        self._shut_out: list[bytes] = []  # requests that wait for the peer's window
        self._received = 0
        self._out: list[bytes] = []
        self._is_stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = (4).to_bytes(2, "big") + WINDOW_BYTES.to_bytes(4, "big")
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, settings)
                              + frame(WINDOW_UPDATE, 0, 0, WINDOW_BYTES.to_bytes(4, "big")))  # fmt: skip

    def begin(self, count: int) -> None:
        """Starts `count` calls; each answer starts the next."""
        for _ in range(count):
            self._call(time.perf_counter())
        self._flush()

    def stop(self) -> None:
        """Starts no more."""
        self._is_stopped = True

    @property
    def under_way(self) -> int:
        return len(self._begun)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _call(self, now: float) -> None:
        stream = self._next
        self._next += 2
        body = message(self._body())
        head = HEAD.pack(len(self._block) << 8 | HEADERS, 4, stream)
        request = b"".join((head, self._block, HEAD.pack(len(body) << 8, 1, stream), body))
        self._begun[stream] = now
        if self._shut_out or self._window < len(body):
            self._shut_out.append(request)
            return
        self._window -= len(body)
        self._out.append(request)

    def _open_window(self, size: int) -> None:
        self._window += size
        head = 18 + len(self._block)
        while self._shut_out and self._window >= len(self._shut_out[0]) - head:
            request = self._shut_out.pop(0)
            self._window -= len(request) - head
            self._out.append(request)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        now = time.perf_counter()
        offset, size = 0, len(data)
        while size - offset >= HEAD.size:
            word, flags, stream = HEAD.unpack_from(data, offset)
            start = offset + HEAD.size
            end = start + (word >> 8)
            if end > size:
                break
            offset = end
            self._on_frame(word & 0xFF, flags, stream, data[start:end], now)
        self._rest = data[offset:]
        if self._received > WINDOW_BYTES // 4:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        self._flush()

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == DATA:
            self._received += len(payload)
            before = self._answers.get(stream)
            self._answers[stream] = payload if before is None else before + payload
        elif kind == HEADERS:
            status = self._statuses.get(payload)
            if status is None:
                status = self._status(payload)
            if flags & 1:
                self._end(stream, status, now)
        elif kind == SETTINGS and not flags & 1:
            self._out.append(frame(SETTINGS, 1, 0))
        elif kind == PING and not flags & 1:
            self._out.append(frame(PING, 1, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._open_window(int.from_bytes(payload, "big"))
        elif kind == RST_STREAM:
            self._end(stream, f"reset {int.from_bytes(payload, 'big')}", now)
        elif kind == GOAWAY:
            self.problem = self.problem or "the peer goes away"

    def _status(self, block: bytes) -> str:
        table = self._decoder.header_table
        before = list(table.dynamic_entries)
        status = dict(self._decoder.decode(block)).get("grpc-status", "")
        if list(table.dynamic_entries) == before:
            self._statuses[block] = status
        else:
            self._statuses.clear()
        return status

    def _end(self, stream: int, status: str, now: float) -> None:
        begun = self._begun.pop(stream, None)
        if begun is None:
            return
        answer = self._answers.pop(stream, b"")
        if status == "0":
            self._on_answer(now - begun, answer)
        else:
            self.problem = self.problem or f"grpc-status {status}"
        if not self._is_stopped:
            self._call(now)


class Stream(Calls):
    """One call that stays open: `messages` go at once; each answer's body goes to `on_message`."""

    def __init__(self, path: str, authority: str, messages: list[bytes], on_message: Callable[[bytes], None]) -> None:
        super().__init__(path, authority, lambda: b"", lambda _latency, _answer: None)
        self._messages, self._on_message = messages, on_message
        self._partial = b""

    def begin(self, count: int = 1) -> None:
        """Opens the call."""
        body = b"".join(map(message, self._messages))
        self._out.append(frame(HEADERS, 4, 1, self._block))
        for start in range(0, len(body), 16384):
            self._out.append(frame(DATA, 0, 1, body[start : start + 16384]))
        self._flush()

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind != DATA:
            super()._on_frame(kind, flags, stream, payload, now)
            return
        self._received += len(payload)
        if payload:
            self._out.append(frame(WINDOW_UPDATE, 0, stream, len(payload).to_bytes(4, "big")))
        data = self._partial + payload
        offset = 0
        while len(data) - offset >= 5:
            end = offset + 5 + int.from_bytes(data[offset + 1 : offset + 5], "big")
            if end > len(data):
                break
            self._on_message(data[offset + 5 : end])
            offset = end
        self._partial = data[offset:]


async def open_stream(address: str, path: str, messages: list[bytes], on_message: Callable[[bytes], None]) -> Stream:
    """A connection with one open call. Raises OSError."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    made = await loop.create_connection(lambda: Stream(path, address, messages, on_message), host, int(port))
    made[1].begin()
    return made[1]


async def connect(address: str, path: str, body: Callable[[], bytes],
                  on_answer: Callable[[float, bytes], None]) -> Calls:  # fmt: skip
    """A connection to `host:port`. Raises OSError."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(lambda: Calls(path, address, body, on_answer), host, int(port)))[1]

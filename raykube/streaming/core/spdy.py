"""SPDY/3.1 as Kubernetes uses it: streams with headers, data and ends; no priorities, no settings, no push.

A connection is fed what arrives and answers with events; what is to be sent collects in it until it is taken:

    events = connection.receive(data)
    transport.write(connection.take_output())

There is no flow control: the field's implementations (moby/spdystream) ignore windows, and containerd loses data when
it is sent a WINDOW_UPDATE. What holds a fast sender back is that its connection is not read.

Frames (draft-mbelshe-httpbis-spdy-00):

    control  1 version:15 type:16 | flags:8 length:24 | body        data  0 stream:31 | flags:8 length:24 | body
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 1
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6

CONTROL_BYTES_MAX = 64 * 1024
HEADER_BYTES_MAX = 8 * 1024  # of a decompressed block: a stream keeps its headers
DATA_BYTES_MAX = 32 * 1024  # of a frame that is sent: others get their turn between frames
STREAMS_MAX = 2000  # open at once

# The names that both sides' compressors know before the first byte, each behind its length, then common values.
_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_CODES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
_LAST_NAMES = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
DICTIONARY = (
    b"".join(struct.pack(">I", len(name)) + name.encode() for name in (*_NAMES.split(), *_LAST_NAMES)) + _CODES.encode()
)


class SpdyError(Exception):
    """The peer does not speak SPDY/3.1, or asks for more than we hold; the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream."""

    stream: int
    headers: dict[str, str]  # names in lower case


@dataclass(frozen=True, slots=True)
class Replied:
    """The peer accepted a stream that we opened."""

    stream: int


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer will send no more on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer gave the stream up: it neither sends nor listens."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer will open and accept no more streams."""


Event = Opened | Replied | Data | Ended | Reset | GoneAway

_OURS, _THEIRS = 1, 2  # which sides of a stream are open


class Connection:
    """One side of a connection: the server's or the client's."""

    def __init__(self, *, server: bool) -> None:
        self._next = 2 if server else 1
        self._peer_parity = 1 if server else 0
        self._last_peer_stream = 0
        self._streams: dict[int, int] = {}
        self._compressor = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._decompressor = zlib.decompressobj(15, DICTIONARY)
        self._input = bytearray()
        self._data_left = 0  # bytes of a data frame that are still to come
        self._data_stream = 0
        self._data_fin = False
        self._output = bytearray()

    # -- sending

    def take_output(self) -> bytes:
        """What must be sent now, once."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def open(self, headers: Mapping[str, str]) -> int:
        """Opens a stream; returns its number."""
        stream = self._next
        self._next += 2
        self._streams[stream] = _OURS | _THEIRS
        self._control(SYN_STREAM, 0, struct.pack(">IIH", stream, 0, 0) + self._block(headers))
        return stream

    def reply(self, stream: int) -> None:
        """Accepts a stream that the peer opened."""
        if stream in self._streams:
            self._control(SYN_REPLY, 0, struct.pack(">I", stream) + self._block({}))

    def send(self, stream: int, data: bytes) -> None:
        """Sends data; on a stream that is closed on our side it is dropped, for nobody listens."""
        if not self._streams.get(stream, 0) & _OURS:
            return
        for start in range(0, len(data), DATA_BYTES_MAX):
            part = data[start : start + DATA_BYTES_MAX]
            self._output += struct.pack(">II", stream, len(part)) + part

    def end(self, stream: int) -> None:
        """Ends our side of a stream; idempotent."""
        if self._streams.get(stream, 0) & _OURS:
            self._output += struct.pack(">II", stream, FIN << 24)
            self._close(stream, _OURS)

    def reset(self, stream: int, code: int = CANCEL) -> None:
        """Gives a stream up; idempotent."""
        if self._streams.pop(stream, 0):
            self._control(RST_STREAM, 0, struct.pack(">II", stream, code))

    def go_away(self) -> None:
        self._control(GOAWAY, 0, struct.pack(">II", self._last_peer_stream, 0))

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        self._output += struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(body)) + body

    def _block(self, headers: Mapping[str, str]) -> bytes:
        texts = [text.encode() for name, value in headers.items() for text in (name.lower(), value)]
        parts = [struct.pack(">I", len(headers)), *(struct.pack(">I", len(text)) + text for text in texts)]
        return self._compressor.compress(b"".join(parts)) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def _close(self, stream: int, side: int) -> None:
        left = self._streams.get(stream, 0) & ~side
        if left:
            self._streams[stream] = left
        else:
            self._streams.pop(stream, None)

    # -- receiving

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say. A data frame's content is passed on as it comes. Raises SpdyError."""
        self._input += data
        events: list[Event] = []
        while True:
            if self._data_left:
                if not self._input:
                    return events
                self._take_data(events)
                continue
            if len(self._input) < 8:
                return events
            first, second = struct.unpack_from(">II", self._input)
            flags, length = second >> 24, second & 0xFFFFFF
            if not first >> 31:
                del self._input[:8]
                self._data_stream, self._data_left, self._data_fin = first, length, bool(flags & FIN)
                if not length:
                    self._finish_data(events)
                continue
            if (first >> 16) & 0x7FFF != VERSION:
                raise SpdyError(f"version {(first >> 16) & 0x7FFF} of SPDY is not spoken here")
            if length > CONTROL_BYTES_MAX:
                raise SpdyError(f"a control frame of {length} bytes is too large")
            if len(self._input) < 8 + length:
                return events
            body = bytes(self._input[8 : 8 + length])
            del self._input[: 8 + length]
            try:
                self._on_control(first & 0xFFFF, flags, body, events)
            except (struct.error, zlib.error, UnicodeDecodeError) as error:
                raise SpdyError(f"a control frame is broken: {error}") from None

    def _take_data(self, events: list[Event]) -> None:
        part = bytes(self._input[: self._data_left])
        del self._input[: len(part)]
        self._data_left -= len(part)
        if self._streams.get(self._data_stream, 0) & _THEIRS:
            events.append(Data(self._data_stream, part))
        if not self._data_left:
            self._finish_data(events)

    def _finish_data(self, events: list[Event]) -> None:
        if self._data_fin:
            self._on_fin(self._data_stream, events)

    def _on_fin(self, stream: int, events: list[Event]) -> None:
        if self._streams.get(stream, 0) & _THEIRS:
            self._close(stream, _THEIRS)
            events.append(Ended(stream))

    def _on_control(self, kind: int, flags: int, body: bytes, events: list[Event]) -> None:
        if kind == SYN_STREAM:
            self._on_syn_stream(flags, body, events)
        elif kind in (SYN_REPLY, HEADERS):
            stream = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
            self._headers(body[4:])  # of any stream: the decompressor must see every block
            if kind == SYN_REPLY and stream in self._streams:
                events.append(Replied(stream))
            if flags & FIN:
                self._on_fin(stream, events)
        elif kind == RST_STREAM:
            stream, code = struct.unpack(">II", body)
            if self._streams.pop(stream, 0):
                events.append(Reset(stream, code))
        elif kind == PING:
            (number,) = struct.unpack(">I", body)
            if number % 2 == self._peer_parity:  # else it answers a ping of ours
                self._control(PING, 0, body)
        elif kind == GOAWAY:
            events.append(GoneAway())

    def _on_syn_stream(self, flags: int, body: bytes, events: list[Event]) -> None:
        stream = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
        headers = self._headers(body[10:])
        if stream % 2 != self._peer_parity or stream <= self._last_peer_stream:
            raise SpdyError(f"the peer opened stream {stream} after {self._last_peer_stream}")
        self._last_peer_stream = stream
        if len(self._streams) >= STREAMS_MAX:
            self._control(RST_STREAM, 0, struct.pack(">II", stream, REFUSED_STREAM))
            return
        self._streams[stream] = _OURS | _THEIRS
        events.append(Opened(stream, headers))
        if flags & FIN:
            self._on_fin(stream, events)

    def _headers(self, block: bytes) -> dict[str, str]:
        raw = self._decompressor.decompress(block, HEADER_BYTES_MAX)
        if self._decompressor.unconsumed_tail:
            raise SpdyError(f"headers of more than {HEADER_BYTES_MAX} bytes are too large")
        at = 4
        texts: list[str] = []
        for _ in range(2 * int(struct.unpack_from(">I", raw)[0])):
            (length,) = struct.unpack_from(">I", raw, at)
            if at + 4 + length > len(raw):
                raise SpdyError("a header is longer than its block")
            texts.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return {name.lower(): value for name, value in zip(texts[::2], texts[1::2], strict=True)}

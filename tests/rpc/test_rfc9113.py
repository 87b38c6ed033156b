"""The rules of RFC 9113, sections 3 to 10, one by one: what breaks them ends the stream or the connection.

A case is what the peer sends after the prefaces, and the verdict: None (tolerated), `reset(CODE)` (of stream 1, unless
said), or `goaway(CODE)`. For the server's role stream 1 is what the case makes of it; for the client's, call 1 is under
way. Where the RFC leaves a choice between the two, both are accepted.
"""

import struct
from dataclasses import dataclass
from typing import Any

import hpack
import pytest

from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.connection import Connection
from raykube.rpc.core.events import CallFinished, ConnectionEnded
from raykube.rpc.core.frames import ErrorCode
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code
from tests.rpc.peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OK_HEADERS,
    OK_TRAILERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    frame,
    message,
    settings,
)

OPEN, WHOLE = END_HEADERS, END_HEADERS | END_STREAM
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/M"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


@dataclass(frozen=True)
class Verdict:
    """How the machine must react; several: any of them."""

    any_of: frozenset[tuple[str, int, int]]

    def __or__(self, other: "Verdict") -> "Verdict":
        return Verdict(self.any_of | other.any_of)


def reset(code: ErrorCode, stream: int = 1) -> Verdict:
    return Verdict(frozenset({("reset", stream, int(code))}))


def goaway(code: ErrorCode) -> Verdict:
    return Verdict(frozenset({("goaway", 0, int(code))}))


def block(*pairs: tuple[str, str]) -> bytes:
    """A header block that leaves the dynamic table alone."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)


def headers(stream: int = 1, flags: int = OPEN, pairs: Any = REQUEST) -> bytes:
    return frame(HEADERS, flags, stream, block(*pairs))


def without(name: str) -> Any:
    return tuple(pair for pair in REQUEST if pair[0] != name)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def frames_of(data: bytes) -> list[Frame]:
    """Whole frames in `data`, which may begin with a client's preface."""
    data = data.removeprefix(PREFACE)
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        assert len(found[-1].payload) == size, "a frame is cut"
        data = data[9 + size :]
    return found


def verdicts(data: bytes) -> list[tuple[str, int, int]]:
    """The ends that these bytes tell of; resets that only say "enough" (NO_ERROR) are none."""
    found = []
    for got in frames_of(data):
        if got.kind == RST_STREAM and got.payload != u32(0):
            found.append(("reset", got.stream, int.from_bytes(got.payload, "big")))
        elif got.kind == GOAWAY:
            found.append(("goaway", 0, int.from_bytes(got.payload[4:8], "big")))
    return found


def server(limits: Limits | None = None) -> ServerConnection:
    made = ServerConnection(limits)
    made.receive(PREFACE + settings() + frame(SETTINGS, ACK), 0.0)
    made.outgoing()
    return made


def client() -> ClientConnection:
    made = ClientConnection("server:1")
    made.receive(settings() + frame(SETTINGS, ACK), 0.0)
    made.open_call("/s/M")
    made.outgoing()
    return made


def check(machine: Connection, data: bytes, wanted: Verdict | None) -> None:
    """Plays a case."""
    events = machine.receive(data, 0.0)
    found = verdicts(machine.outgoing())
    if wanted is None:
        assert found == []
        assert not machine.ended
        return
    assert len(found) == 1, f"one verdict, not {found}"
    assert found[0] in wanted.any_of
    assert machine.ended == (found[0][0] == "goaway")
    assert any(isinstance(event, ConnectionEnded) for event in events) == machine.ended


E = ErrorCode
SERVER: dict[str, tuple[bytes, Verdict | None]] = {
    # 4: frames
    "4.1 the reserved bit of a stream id": (frame(PING, 0, 1 << 31, bytes(8)), None),
    "4.1 an unknown type": (frame(200, 255, 0, b"x") + frame(200, 0, 7, b"x"), None),
    "4.1 undefined flags": (frame(PING, 0xFE, 0, bytes(8)), None),
    "4.2 DATA longer than MAX_FRAME_SIZE": (
        headers() + frame(DATA, 0, 1, bytes(65_537)),
        goaway(E.FRAME_SIZE_ERROR) | reset(E.FRAME_SIZE_ERROR),
    ),
    "4.2 HEADERS longer than MAX_FRAME_SIZE": (frame(HEADERS, OPEN, 1, bytes(65_537)), goaway(E.FRAME_SIZE_ERROR)),
    "4.3 a block that is no HPACK": (frame(HEADERS, OPEN, 1, b"\x40"), goaway(E.COMPRESSION_ERROR)),
    "4.3 an index beyond the table": (frame(HEADERS, OPEN, 1, b"\xff\xff\x7f"), goaway(E.COMPRESSION_ERROR)),
    "4.3 a table larger than allowed": (frame(HEADERS, OPEN, 1, b"\x3f\xe2\x1f"), goaway(E.COMPRESSION_ERROR)),
    "4.3 PRIORITY within a block": (
        frame(HEADERS, 0, 1, block(*REQUEST)) + frame(PRIORITY, 0, 1, bytes(5)),
        goaway(E.PROTOCOL_ERROR),
    ),
    "4.3 HEADERS of another stream within a block": (
        frame(HEADERS, 0, 1, block(*REQUEST)) + headers(3),
        goaway(E.PROTOCOL_ERROR),
    ),
    "5.5 an unknown frame within a block": (
        frame(HEADERS, 0, 1, block(*REQUEST)) + frame(200),
        goaway(E.PROTOCOL_ERROR),
    ),
    # 5.1: states
    "5.1 DATA on an idle stream": (frame(DATA, 0, 1, b"x"), goaway(E.PROTOCOL_ERROR)),
    "5.1 RST_STREAM on an idle stream": (frame(RST_STREAM, 0, 1, u32(8)), goaway(E.PROTOCOL_ERROR)),
    "5.1 WINDOW_UPDATE on an idle stream": (frame(WINDOW_UPDATE, 0, 1, u32(1)), goaway(E.PROTOCOL_ERROR)),
    "5.1 CONTINUATION on an idle stream": (frame(CONTINUATION, 4, 1, block(*REQUEST)), goaway(E.PROTOCOL_ERROR)),
    "5.1 PRIORITY on an idle stream": (frame(PRIORITY, 0, 1, bytes(5)), None),
    "5.1 DATA after END_STREAM": (
        headers(1, WHOLE) + frame(DATA, 0, 1, message(b"x")),
        reset(E.STREAM_CLOSED) | goaway(E.STREAM_CLOSED),
    ),
    "5.1 HEADERS after END_STREAM": (
        headers(1, WHOLE) + headers(1, WHOLE),
        reset(E.STREAM_CLOSED) | goaway(E.STREAM_CLOSED),
    ),
    "5.1 CONTINUATION after END_STREAM": (
        headers(1, WHOLE) + frame(CONTINUATION, 4, 1, block(*REQUEST)),
        goaway(E.PROTOCOL_ERROR) | goaway(E.STREAM_CLOSED),
    ),
    "5.1 WINDOW_UPDATE, PRIORITY after END_STREAM": (
        headers(1, WHOLE) + frame(WINDOW_UPDATE, 0, 1, u32(1)) + frame(PRIORITY, 0, 1, bytes(5)),
        None,
    ),
    "5.1 RST_STREAM after END_STREAM, twice": (headers(1, WHOLE) + frame(RST_STREAM, 0, 1, u32(8)) * 2, None),
    "5.1 DATA after RST_STREAM": (
        headers() + frame(RST_STREAM, 0, 1, u32(8)) + frame(DATA, 0, 1, message(b"x")),
        reset(E.STREAM_CLOSED) | goaway(E.STREAM_CLOSED),
    ),
    "5.1 HEADERS after RST_STREAM": (
        headers() + frame(RST_STREAM, 0, 1, u32(8)) + headers(),
        reset(E.STREAM_CLOSED) | goaway(E.STREAM_CLOSED),
    ),
    "5.1 WINDOW_UPDATE, PRIORITY after RST_STREAM": (
        headers()
        + frame(RST_STREAM, 0, 1, u32(8))
        + frame(WINDOW_UPDATE, 0, 1, u32(1))
        + frame(PRIORITY, 0, 1, bytes(5)),
        None,
    ),
    "5.1.1 an even stream": (headers(2), goaway(E.PROTOCOL_ERROR)),
    "5.1.1 a stream below one that was opened": (
        headers(5) + headers(3),
        goaway(E.PROTOCOL_ERROR) | goaway(E.STREAM_CLOSED),
    ),
    "5.3.1 a stream that depends on itself": (frame(PRIORITY, 0, 1, u32(1) + b"\x10"), None),
    # 6.1: DATA
    "6.1 DATA on stream 0": (frame(DATA, 0, 0, b"x"), goaway(E.PROTOCOL_ERROR)),
    "6.1 padding as long as the frame": (headers() + frame(DATA, PADDED, 1, b"\x02ab"[:2]), goaway(E.PROTOCOL_ERROR)),
    "6.1 padding without its length": (
        headers() + frame(DATA, PADDED, 1, b""),
        goaway(E.PROTOCOL_ERROR) | goaway(E.FRAME_SIZE_ERROR),
    ),
    "6.1 nothing but padding": (headers() + frame(DATA, PADDED, 1, b"\x03abc"), None),
    "6.1 a padded message": (headers() + frame(DATA, PADDED, 1, b"\x03" + message(b"x") + b"abc"), None),
    # 6.2: HEADERS
    "6.2 HEADERS on stream 0": (headers(0), goaway(E.PROTOCOL_ERROR)),
    "6.2 padding longer than the block": (frame(HEADERS, OPEN | PADDED, 1, b"\x05\x88"), goaway(E.PROTOCOL_ERROR)),
    "6.2 a padded block": (frame(HEADERS, OPEN | PADDED, 1, b"\x02" + block(*REQUEST) + b"ab"), None),
    "6.2 a block with priority": (frame(HEADERS, OPEN | PRIORITY_FLAG, 1, bytes(5) + block(*REQUEST)), None),
    "6.2 priority cut short": (
        frame(HEADERS, OPEN | PRIORITY_FLAG, 1, bytes(4)),
        goaway(E.FRAME_SIZE_ERROR) | goaway(E.PROTOCOL_ERROR),
    ),
    # 6.3, 6.4: PRIORITY, RST_STREAM
    "6.3 PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), goaway(E.PROTOCOL_ERROR)),
    "6.3 PRIORITY of 4 bytes": (
        headers() + frame(PRIORITY, 0, 1, bytes(4)),
        reset(E.FRAME_SIZE_ERROR) | goaway(E.FRAME_SIZE_ERROR),
    ),
    "6.4 RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, u32(8)), goaway(E.PROTOCOL_ERROR)),
    "6.4 RST_STREAM of 3 bytes": (headers() + frame(RST_STREAM, 0, 1, bytes(3)), goaway(E.FRAME_SIZE_ERROR)),
    # 6.5: SETTINGS
    "6.5 an acknowledgement with content": (frame(SETTINGS, ACK, 0, bytes(6)), goaway(E.FRAME_SIZE_ERROR)),
    "6.5 SETTINGS on a stream": (frame(SETTINGS, 0, 1), goaway(E.PROTOCOL_ERROR)),
    "6.5 SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, bytes(5)), goaway(E.FRAME_SIZE_ERROR)),
    "6.5.2 ENABLE_PUSH of 2": (settings((2, 2)), goaway(E.PROTOCOL_ERROR)),
    "6.5.2 INITIAL_WINDOW_SIZE of 2^31": (settings((4, 1 << 31)), goaway(E.FLOW_CONTROL_ERROR)),
    "6.5.2 MAX_FRAME_SIZE of 16,383": (settings((5, 16_383)), goaway(E.PROTOCOL_ERROR)),
    "6.5.2 MAX_FRAME_SIZE of 2^24": (settings((5, 1 << 24)), goaway(E.PROTOCOL_ERROR)),
    "6.5.2 an unknown setting": (settings((77, 1)), None),
    "6.5.2 all settings, twice": (settings((1, 0), (2, 0), (3, 0), (4, 0), (5, 16_384), (6, 0)) * 2, None),
    # 6.6 to 6.8
    "6.6 a client that promises": (headers() + frame(PUSH_PROMISE, 4, 1, u32(2)), goaway(E.PROTOCOL_ERROR)),
    "6.7 PING on a stream": (frame(PING, 0, 1, bytes(8)), goaway(E.PROTOCOL_ERROR)),
    "6.7 PING of 7 bytes": (frame(PING, 0, 0, bytes(7)), goaway(E.FRAME_SIZE_ERROR)),
    "6.7 an answer to no PING": (frame(PING, ACK, 0, bytes(8)), None),
    "6.8 GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), goaway(E.PROTOCOL_ERROR)),
    "6.8 GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, bytes(7)), goaway(E.FRAME_SIZE_ERROR)),
    "6.8 a client that leaves": (frame(GOAWAY, 0, 0, bytes(8)), None),
    # 6.9: windows
    "6.9 an increment of 0": (frame(WINDOW_UPDATE, 0, 0, u32(0)), goaway(E.PROTOCOL_ERROR)),
    "6.9 an increment of 0 on a stream": (
        headers() + frame(WINDOW_UPDATE, 0, 1, u32(0)),
        reset(E.PROTOCOL_ERROR) | goaway(E.PROTOCOL_ERROR),
    ),
    "6.9 the reserved bit of an increment": (frame(WINDOW_UPDATE, 0, 0, u32(1 << 31 | 1)), None),
    "6.9 WINDOW_UPDATE of 3 bytes": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), goaway(E.FRAME_SIZE_ERROR)),
    "6.9.1 a window beyond 2^31-1": (frame(WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), goaway(E.FLOW_CONTROL_ERROR)),
    "6.9.1 a stream's window beyond 2^31-1": (
        headers() + frame(WINDOW_UPDATE, 0, 1, u32(2**31 - 1)),
        reset(E.FLOW_CONTROL_ERROR) | goaway(E.FLOW_CONTROL_ERROR),
    ),
    "6.9.2 a stream's window beyond 2^31-1 by SETTINGS": (
        headers() + frame(WINDOW_UPDATE, 0, 1, u32(2**31 - 1 - 65_535)) + settings((4, 65_536)),
        goaway(E.FLOW_CONTROL_ERROR),
    ),
    "6.9.2 windows below 0": (headers() + settings((4, 0)), None),
    # 6.10: CONTINUATION
    "6.10 a block in three frames": (
        frame(HEADERS, END_STREAM, 1, block(*REQUEST)[:9])
        + frame(CONTINUATION, 0, 1, block(*REQUEST)[9:20])
        + frame(CONTINUATION, END_HEADERS, 1, block(*REQUEST)[20:]),
        None,
    ),
    "6.10 CONTINUATION after a whole block": (
        headers() + frame(CONTINUATION, END_HEADERS, 1, block(*REQUEST)),
        goaway(E.PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION of another stream": (
        frame(HEADERS, 0, 1, block(*REQUEST)) + frame(CONTINUATION, END_HEADERS, 3),
        goaway(E.PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION on stream 0": (
        frame(HEADERS, 0, 1, block(*REQUEST)) + frame(CONTINUATION, END_HEADERS, 0),
        goaway(E.PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION after one that ended": (
        frame(HEADERS, 0, 1, block(*REQUEST))
        + frame(CONTINUATION, END_HEADERS, 1)
        + frame(CONTINUATION, END_HEADERS, 1),
        goaway(E.PROTOCOL_ERROR),
    ),
    # 8: what requests must look like
    "8.1 trailers that do not end the stream": (headers() + headers(1, OPEN, (("x", "y"),)), reset(E.PROTOCOL_ERROR)),
    "8.1 trailers": (headers() + headers(1, WHOLE, (("x", "y"),)), None),
    "8.2.1 an upper-case name": (headers(1, OPEN, (*REQUEST, ("X", "y"))), reset(E.PROTOCOL_ERROR)),
    "8.2.1 a line's end in a value": (headers(1, OPEN, (*REQUEST, ("x", "a\r\nb: c"))), reset(E.PROTOCOL_ERROR)),
    "8.2.1 a NUL in a value": (headers(1, OPEN, (*REQUEST, ("x", "a\0b"))), reset(E.PROTOCOL_ERROR)),
    "8.2.1 an empty name": (headers(1, OPEN, (*REQUEST, ("", "y"))), reset(E.PROTOCOL_ERROR)),
    "8.2.2 connection": (headers(1, OPEN, (*REQUEST, ("connection", "close"))), reset(E.PROTOCOL_ERROR)),
    "8.2.2 transfer-encoding": (
        headers(1, OPEN, (*REQUEST, ("transfer-encoding", "chunked"))),
        reset(E.PROTOCOL_ERROR),
    ),
    "8.2.2 te other than trailers": (headers(1, OPEN, (*without("te"), ("te", "gzip"))), reset(E.PROTOCOL_ERROR)),
    "8.3 an unknown pseudo-header": (headers(1, OPEN, ((":x", "y"), *REQUEST)), reset(E.PROTOCOL_ERROR)),
    "8.3 a response's pseudo-header": (headers(1, OPEN, ((":status", "200"), *REQUEST)), reset(E.PROTOCOL_ERROR)),
    "8.3 a late pseudo-header": (headers(1, OPEN, (*REQUEST, (":authority", "x"))), reset(E.PROTOCOL_ERROR)),
    "8.3.1 no :method": (headers(1, OPEN, without(":method")), reset(E.PROTOCOL_ERROR)),
    "8.3.1 no :scheme": (headers(1, OPEN, without(":scheme")), reset(E.PROTOCOL_ERROR)),
    "8.3.1 no :path": (headers(1, OPEN, without(":path")), reset(E.PROTOCOL_ERROR)),
    "8.3.1 an empty :path": (headers(1, OPEN, ((":path", ""), *without(":path"))), reset(E.PROTOCOL_ERROR)),
    "10.5.1 a block that is longer than allowed": (
        headers(1, OPEN, (*REQUEST, ("x", "y" * 20_000))),
        goaway(E.ENHANCE_YOUR_CALM),
    ),
    "10.5.1 a long block that says nothing": (
        frame(HEADERS, OPEN, 1, b"\x20" * 20_000 + block(*REQUEST)),
        goaway(E.ENHANCE_YOUR_CALM),
    ),
    "10.5.1 a small block of a long list": (
        frame(HEADERS, OPEN, 1, block(*REQUEST) + b"\x40\x01x\x7f\x81\x06" + b"y" * 896 + b"\xbe" * 100),
        goaway(E.ENHANCE_YOUR_CALM),
    ),
    "8.3.1 :path twice": (headers(1, OPEN, ((":path", "/s/M"), *REQUEST)), reset(E.PROTOCOL_ERROR)),
}


@pytest.mark.parametrize("name", SERVER)
def test_what_a_client_sends(name: str) -> None:
    data, wanted = SERVER[name]
    check(server(), data, wanted)


@pytest.mark.parametrize("name", [name for name, (_, wanted) in SERVER.items() if wanted is None])
def test_what_is_tolerated_leaves_the_connection_usable(name: str) -> None:
    machine = server()
    machine.receive(SERVER[name][0], 0.0)
    machine.outgoing()
    machine.receive(settings((4, 65_535)) + headers(101, WHOLE), 0.0)
    machine.respond(101, b"answer")
    assert [got.kind for got in frames_of(machine.outgoing())] == [SETTINGS, HEADERS, DATA, HEADERS]


RESPONSE = tuple(OK_HEADERS)
CLIENT: dict[str, tuple[bytes, Verdict | None]] = {
    "5.1 HEADERS on a stream that was not opened": (headers(3, OPEN, RESPONSE), goaway(E.PROTOCOL_ERROR)),
    "5.1 DATA on a stream that was not opened": (frame(DATA, 0, 3, b"x"), goaway(E.PROTOCOL_ERROR)),
    "5.1 a stream of the server's": (headers(2, OPEN, RESPONSE), goaway(E.PROTOCOL_ERROR)),
    "5.1 DATA after END_STREAM": (
        headers(1, OPEN, RESPONSE) + headers(1, WHOLE, OK_TRAILERS) + frame(DATA, 0, 1, b"x"),
        None,  # our side was open, and was closed by a reset that crosses with it
    ),
    "6.5.2 ENABLE_PUSH of 2": (settings((2, 2)), goaway(E.PROTOCOL_ERROR)),
    "6.6 a promise, which was declined": (
        frame(PUSH_PROMISE, 4, 1, u32(2) + block(*REQUEST)),
        goaway(E.PROTOCOL_ERROR),
    ),
    "6.8 GOAWAY": (frame(GOAWAY, 0, 0, u32(1) + u32(0)), None),
    "6.8 GOAWAY twice, the second lower": (
        frame(GOAWAY, 0, 0, u32(2**31 - 1) + u32(0)) + frame(GOAWAY, 0, 0, u32(1) + u32(0)),
        None,
    ),
    "8.1 DATA before HEADERS": (frame(DATA, 0, 1, message(b"x")), reset(E.PROTOCOL_ERROR) | reset(E.CANCEL)),
    "8.1 interim answers": (headers(1, OPEN, ((":status", "100"),)) * 3, None),
    "8.1 an interim answer that ends the stream": (headers(1, WHOLE, ((":status", "100"),)), None),
    "8.1 a second head": (headers(1, OPEN, RESPONSE) * 2, reset(E.PROTOCOL_ERROR)),
    "8.3.2 no :status": (headers(1, OPEN, (("content-type", "application/grpc"),)), reset(E.PROTOCOL_ERROR)),
    "8.3.2 a request's pseudo-header": (headers(1, OPEN, ((":path", "/"), *RESPONSE)), reset(E.PROTOCOL_ERROR)),
    "8.2.1 an upper-case name": (headers(1, OPEN, (*RESPONSE, ("X", "y"))), reset(E.PROTOCOL_ERROR)),
}


@pytest.mark.parametrize("name", CLIENT)
def test_what_a_server_sends(name: str) -> None:
    data, wanted = CLIENT[name]
    machine = client()
    check(machine, data, wanted)
    if wanted is not None:
        assert machine.calls == 0, "the call has ended"


def test_an_interim_answer_that_ends_the_stream_is_no_success() -> None:
    (finished,) = client().receive(headers(1, WHOLE, ((":status", "100"),)), 0.0)
    assert isinstance(finished, CallFinished)
    assert finished.code is not Code.OK


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"X", PREFACE + frame(PING, 0, 0, bytes(8))]
)
def test_3_4_a_client_s_preface(data: bytes) -> None:
    check(ServerConnection(), data, goaway(E.PROTOCOL_ERROR))


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK)]
)
def test_3_4_a_server_s_preface(data: bytes) -> None:
    check(ClientConnection("x"), data, goaway(E.PROTOCOL_ERROR) | goaway(E.FRAME_SIZE_ERROR))


def test_5_1_2_more_streams_than_allowed() -> None:
    machine = server(Limits(streams_max=2))
    check(machine, headers(1) + headers(3) + headers(5), reset(E.REFUSED_STREAM, 5) | reset(E.PROTOCOL_ERROR, 5))


def test_6_5_3_settings_are_acknowledged() -> None:
    machine = server()
    machine.receive(settings((1, 0)), 0.0)
    assert frames_of(machine.outgoing()) == [Frame(SETTINGS, ACK, 0, b"")]


def test_6_7_a_ping_comes_back() -> None:
    machine = server()
    machine.receive(frame(PING, 0, 0, b"12345678"), 0.0)
    assert frames_of(machine.outgoing()) == [Frame(PING, ACK, 0, b"12345678")]


def test_6_9_1_more_data_than_the_stream_s_window() -> None:
    limits = Limits(stream_window_bytes=65_535, connection_window_bytes=1 << 20)
    body = message(bytes(200_000))
    part = [frame(DATA, 0, 1, body[at : at + 16_384]) for at in range(0, 5 * 16_384, 16_384)]
    # The window of a message that is incomplete is given back at once, so the bytes come in one piece.
    check(
        server(limits),
        headers() + b"".join(frame(DATA, 0, 1, message(bytes(16_000))) for _ in range(5)),
        reset(E.FLOW_CONTROL_ERROR) | goaway(E.FLOW_CONTROL_ERROR),
    )
    machine = server(limits)
    machine.receive(headers(), 0.0)
    for data in part:
        machine.receive(data, 0.0)
    assert not any(kind == "reset" for kind, _, _ in verdicts(machine.outgoing())), "room for one whole message"


def test_6_9_1_more_data_than_the_connection_s_window() -> None:
    limits = Limits(stream_window_bytes=1 << 20, connection_window_bytes=65_535, frame_bytes_max=70_000)
    check(server(limits), headers() + frame(DATA, 0, 1, bytes(65_536)), goaway(E.FLOW_CONTROL_ERROR))


def test_5_1_an_answer_after_the_answer() -> None:
    machine = client()
    machine.end(1)
    machine.receive(headers(1, OPEN, RESPONSE) + headers(1, WHOLE, OK_TRAILERS), 0.0)
    machine.outgoing()
    check(machine, headers(1, WHOLE, OK_TRAILERS), reset(E.STREAM_CLOSED) | goaway(E.STREAM_CLOSED))


def test_5_1_a_late_answer_to_a_call_given_up_long_ago_harms_no_other() -> None:
    machine = ClientConnection("server:1", limits=Limits(streams_max=1))  # remembers as many
    machine.receive(settings() + frame(SETTINGS, ACK), 0.0)
    for stream in (1, 3, 5):
        assert machine.open_call("/s/M") == stream
    machine.reset(1)
    machine.reset(3)
    machine.outgoing()
    machine.receive(headers(1, OPEN, RESPONSE) + headers(3, OPEN, RESPONSE), 0.0)
    assert not machine.ended
    (finished,) = machine.receive(headers(5, WHOLE, (*RESPONSE, *OK_TRAILERS)), 0.0)
    assert finished == CallFinished(5, Code.OK, "", {})


def test_after_goaway_nothing_is_said_or_heard() -> None:
    machine = server()
    machine.receive(frame(DATA, 0, 0, b"x"), 0.0)
    machine.outgoing()
    assert machine.receive(headers() + frame(PING, 0, 0, bytes(8)), 0.0) == []
    assert machine.outgoing() == b""
    assert not machine.wants_write

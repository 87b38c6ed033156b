"""Clients that send the same for ever: they are borne at little cost, or left."""

import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from raykube.rpc.core.events import CallCancelled
from raykube.rpc.core.server import ServerConnection
from tests.rpc import peer as wire
from tests.rpc.test_fuzz import TIGHT
from tests.rpc.test_rfc9113 import REQUEST, block


def _floods() -> dict[str, tuple[bytes, Iterator[bytes]]]:
    """What comes first, and what comes then without an end."""
    head = wire.frame(wire.HEADERS, wire.END_HEADERS, 1, block(*REQUEST))

    def calls(*more: tuple[int, int, bytes], flags: int = wire.END_HEADERS, pairs: Any = REQUEST) -> Iterator[bytes]:
        content = block(*pairs)
        for stream in range(1, 2**31, 2):
            yield wire.frame(wire.HEADERS, flags, stream, content) + b"".join(
                wire.frame(kind, bits, stream, payload) for kind, bits, payload in more
            )

    def again(*frames: bytes) -> Iterator[bytes]:
        while True:
            yield b"".join(frames)

    def unique_headers() -> Iterator[bytes]:
        for stream in range(1, 2**31, 2):
            content = b"\x40\x05" + b"x%04d" % (stream // 2 % 10_000) + b"\x7f\x81\x06" + bytes(1024)[: 127 + 769]
            yield wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream, content)

    kib = bytes(1024)
    cancel = struct.pack(">I", 8)
    return {
        "pings": (b"", again(wire.frame(wire.PING, 0, 0, bytes(8)))),
        "settings": (b"", again(wire.settings((4, 65_535)))),
        "empty data": (head, again(wire.frame(wire.DATA, 0, 1))),
        "padding": (head, again(wire.frame(wire.DATA, wire.PADDED, 1, b"\xff" + bytes(255)))),
        "continuations": (
            wire.frame(wire.HEADERS, 0, 1, b""),
            again(wire.frame(wire.CONTINUATION, 0, 1, kib)),
        ),
        "empty continuations": (wire.frame(wire.HEADERS, 0, 1, b""), again(wire.frame(wire.CONTINUATION, 0, 1))),
        "rapid resets": (b"", calls((wire.RST_STREAM, 0, cancel))),
        "resets that we are made to send": (b"", calls((wire.WINDOW_UPDATE, 0, bytes(4)))),
        "open calls": (b"", calls()),
        "refused calls": (b"", calls(pairs=(*REQUEST, ("grpc-encoding", "zstd")))),
        "headers of every kind": (b"", unique_headers()),
        "messages that nobody takes": (head, again(wire.frame(wire.DATA, 0, 1, wire.message(kib)))),
        "a message without an end": (
            head + wire.frame(wire.DATA, 0, 1, b"\0\xff\xff\xff\xff"),
            again(wire.frame(wire.DATA, 0, 1, kib)),
        ),
        "messages of many calls, not ended": (b"", calls((wire.DATA, 0, b"\0\0\1\0\0" + kib))),
        "priorities": (b"", again(wire.frame(wire.PRIORITY, 0, 1, bytes(5)))),
        "unknown frames": (b"", again(wire.frame(77, 0, 0, kib))),
        "window updates": (head, again(wire.frame(wire.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))),
        "goaways": (b"", again(wire.frame(wire.GOAWAY, 0, 0, bytes(8) + kib))),
    }


# They cost the time to read them and nothing else.
BORNE = {
    "messages that nobody takes",
    "a message without an end",
    "priorities",
    "unknown frames",
    "window updates",
    "goaways",
}


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("name", _floods())
def test_floods_are_borne_or_ended(name: str, reads: bool) -> None:
    """12,000 frames in no time: little memory is held, whether our answers are read or not."""
    first, then = _floods()[name]
    made = ServerConnection(TIGHT)
    made.receive(wire.PREFACE + wire.settings() + first, 0.0)
    made.outgoing()
    tracemalloc.start()
    try:
        for _ in range(12_000):
            made.receive(next(then), 0.0)
            if reads:
                made.outgoing()
                made.drained()
            if made.ended:
                break
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3_000_000, f"{held} bytes are held"
    assert made.ended == (name not in BORNE and not (reads and name == "refused calls"))


def test_what_all_calls_together_hold_is_bounded() -> None:
    """Messages that nobody takes, each within its own call's window: one call too many is refused, others live."""
    made = ServerConnection(TIGHT)
    made.receive(wire.PREFACE + wire.settings(), 0.0)
    body = wire.message(bytes(50_000))
    cancelled: list[int] = []
    for stream in range(1, 81, 2):
        data = wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block(*REQUEST))
        data += b"".join(wire.frame(wire.DATA, 0, stream, body[at : at + 16_384]) for at in range(0, len(body), 16_384))
        events = made.receive(data, 0.0)
        cancelled += [event.stream for event in events if isinstance(event, CallCancelled)]
        made.outgoing()
    held = len(range(1, 81, 2)) - len(cancelled)
    assert held == TIGHT.buffered_bytes_max // len(body)
    assert made.calls == held
    assert not made.ended


def test_what_all_answers_together_hold_is_bounded() -> None:
    """A client without a window asks for more and more: large answers beyond the bound are refused, small ones not."""
    made = ServerConnection(TIGHT)
    made.receive(wire.PREFACE + wire.settings((wire.INITIAL_WINDOW_SIZE, 0)), 0.0)
    for stream in range(1, 81, 2):
        made.receive(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream, block(*REQUEST)), 0.0)
        made.respond(stream, bytes(100_000))
        answered = made.outgoing()
        assert (b"grpc-status\x018" in answered) == (stream // 2 >= TIGHT.buffered_bytes_max // 100_000)
    held = made.calls
    assert held == TIGHT.buffered_bytes_max // 100_000
    made.receive(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 101, block(*REQUEST)), 0.0)
    made.respond(101, b"small")
    assert made.calls == held + 1
    # One that is given up makes room for another.
    made.receive(wire.frame(wire.RST_STREAM, 0, 1, bytes(4)), 0.0)
    made.receive(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 103, block(*REQUEST)), 0.0)
    made.respond(103, bytes(100_000))
    assert made.calls == held + 1
    # All that was held arrives.
    made.receive(wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)), 0.0)
    made.receive(wire.settings((wire.INITIAL_WINDOW_SIZE, 1 << 20)), 0.0)
    while made.wants_write:
        made.outgoing()
    assert made.calls == 0
    assert made._output.pending_bytes == 0


def test_an_answer_larger_than_the_bound_is_sent_where_none_waits() -> None:
    made = ServerConnection(TIGHT)
    made.receive(wire.PREFACE + wire.settings(), 0.0)
    made.receive(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 1, block(*REQUEST)), 0.0)
    made.respond(1, bytes(TIGHT.buffered_bytes_max + 1))
    assert made.calls == 1


def test_windows_that_are_changed_over_and_over_with_many_calls_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB of SETTINGS cost a look at every call, not ten thousand; and more of them end the connection."""
    made = ServerConnection()
    made.receive(wire.PREFACE + wire.settings(), 0.0)
    content, calls = block(*REQUEST), 10_000
    for stream in range(1, 2 * calls, 2):
        made.receive(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, content), 0.0)
    looks = 0
    widen = ServerConnection._widen

    def counted(self: ServerConnection, stream: Any, more: int) -> None:
        nonlocal looks
        looks += 1
        widen(self, stream, more)

    monkeypatch.setattr(ServerConnection, "_widen", counted)
    made.receive(wire.settings(*((4, 60_000 + number % 100) for number in range(10_000))), 0.0)
    assert looks == calls
    for number in range(200):
        made.receive(wire.settings((4, 70_000 + number)), 0.0)
        made.outgoing()
    assert made.ended
    assert looks <= 100 * calls


def test_windows_may_change_often_with_few_calls_open() -> None:
    made = ServerConnection()
    made.receive(wire.PREFACE + wire.settings() + wire.frame(wire.HEADERS, 4, 1, block(*REQUEST)), 0.0)
    for number in range(5000):
        made.receive(wire.settings((4, 70_000 + number)), 0.0)
        made.outgoing()
    assert not made.ended


def test_a_slow_flood_that_is_not_read_ends_too() -> None:
    """So slow that no allowance is used up; the answers pile up all the same."""
    made = ServerConnection(TIGHT)
    made.receive(wire.PREFACE + wire.settings(), 0.0)
    for second in range(2000):
        made.receive(wire.frame(wire.PING, 0, 0, bytes(8)), float(second))
    assert made.ended


@pytest.mark.parametrize("cuts", [(), (3,), (5,), (500,)])
def test_a_message_longer_than_allowed_is_refused_at_once(cuts: tuple[int, ...]) -> None:
    made = ServerConnection(replace(TIGHT, message_bytes_max=1000))
    made.receive(wire.PREFACE + wire.settings() + wire.frame(wire.HEADERS, wire.END_HEADERS, 1, block(*REQUEST)), 0.0)
    made.outgoing()
    body = wire.message(bytes(1001))
    places = (0, *cuts, len(body))
    frames = b"".join(wire.frame(wire.DATA, 0, 1, body[at:to]) for at, to in pairwise(places))
    (event,) = made.receive(frames, 0.0)
    assert isinstance(event, CallCancelled)
    assert "1001 bytes" in event.reason
    assert made.calls == 0
    assert b"grpc-status\x018" in made.outgoing()

"""The core under bytes of every kind, in both roles: it never raises, never hangs, and ends as the RFC says.

Seeds are conversations of grpcio and of etcdctl with etcd, recorded by `record.py`.
"""

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.connection import Connection
from raykube.rpc.core.events import CallFinished, CallOpened, ConnectionEnded, Event, MessageReceived, PeerEnded
from raykube.rpc.core.frames import ErrorCode
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from tests.rpc import peer as wire
from tests.rpc.record import conversations, said
from tests.rpc.test_rfc9113 import REQUEST, block, frames_of

TIGHT = Limits(
    message_bytes_max=100_000,
    buffered_bytes_max=1 << 20,
    streams_max=50,
    stream_window_bytes=65_535,
    connection_window_bytes=200_000,
    output_bytes_max=65_536,
    unread_bytes_max=1 << 20,
    control_frames_max=1000,
)
SEEDS = conversations()
ROLES = ("client", "server")


def machine(role: str, limits: Limits = TIGHT) -> Connection:
    """A fresh one; a client has 20 calls under way, on the streams that clients use first."""
    if role == "server":
        return ServerConnection(limits)
    made = ClientConnection("server:1", limits=limits)
    for _ in range(20):
        made.send_message(made.open_call("/s/M"), b"request", end=True)
    made.outgoing()
    return made


def heard(role: str, name: str) -> bytes:
    """What a recorded peer said to this role."""
    return said(SEEDS[name], ">" if role == "server" else "<")


def play(made: Connection, pieces: Iterator[bytes], *, answers: bool = True) -> list[Event]:
    """Feeds the pieces as a shell would: messages are taken, calls answered. Checks what must always hold."""
    events: list[Event] = []
    output = b""
    for at, piece in enumerate(pieces):
        for event in made.receive(piece, at / 1000):
            events.append(event)
            if isinstance(event, MessageReceived):
                made.taken(event.stream, event.message)
            elif isinstance(event, PeerEnded) and isinstance(made, ServerConnection) and answers:
                made.respond(event.stream, b"answer")
        for _ in range(10_000):
            if not made.wants_write:
                break
            output += made.outgoing()
        else:
            pytest.fail("it never stops writing")
        made.drained()
    frames = frames_of(output)  # whole frames only
    goaways = [frame for frame in frames if frame.kind == wire.GOAWAY]
    assert len(goaways) <= 1
    if made.ended:
        assert frames[-1] == goaways[0], "nothing follows a GOAWAY for a fault"
        assert int.from_bytes(goaways[0].payload[4:8], "big") in set(ErrorCode) - {ErrorCode.NO_ERROR}
        assert made.calls == 0
        assert made.receive(b"\0" * 100, 0.0) == []
    events += made.lost("over")
    assert made.calls == 0
    opened = [event.stream for event in events if isinstance(event, CallOpened)]
    finished = [event.stream for event in events if isinstance(event, CallFinished)]
    assert len(set(opened)) == len(opened)
    assert len(set(finished)) == len(finished), "a call ends once"
    return events


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        yield data[start:end]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", SEEDS)
def test_recorded_conversations_are_understood(role: str, name: str) -> None:
    made = machine(role)
    events = play(made, iter([heard(role, name)]))
    assert not any(isinstance(event, ConnectionEnded) for event in events)
    assert any(isinstance(event, MessageReceived) for event in events) or name == "etcdctl-refused"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", SEEDS)
def test_it_does_not_matter_how_bytes_are_cut(role: str, name: str) -> None:
    data = heard(role, name)
    whole = play(machine(role), iter([data]), answers=False)
    draw = random.Random(1)
    ways = [list(range(0, len(data), step)) for step in (1, 9, 100)]
    ways += [[draw.randrange(len(data)) for _ in range(draw.randrange(40))] for _ in range(20)]
    for cuts in ways:
        assert play(machine(role), split(data, cuts), answers=False) == whole


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A conversation that went wrong: frames changed, dropped, doubled, swapped, made up."""
    start = wire.PREFACE if data.startswith(wire.PREFACE) else b""
    frames = [wire.frame(f.kind, f.flags, f.stream, f.payload) for f in frames_of(data)]
    for _ in range(draw.randrange(1, 5)):
        frames = [frame for frame in frames if len(frame) > 4] or [random_frame(draw)]
        at = draw.randrange(len(frames))
        match draw.randrange(8):
            case 0:
                frames.insert(at, random_frame(draw))
            case 1:
                del frames[at]
            case 2:
                frames.insert(at, frames[draw.randrange(len(frames))])
            case 3:
                frames[at], frames[-1] = frames[-1], frames[at]
            case 4:
                frames[at] = frames[at][: draw.randrange(len(frames[at]))]
            case 5 | 6:
                changed = bytearray(frames[at])
                for _ in range(draw.randrange(1, 4)):
                    changed[draw.randrange(min(len(changed), 60))] ^= 1 << draw.randrange(8)
                frames[at] = bytes(changed)
            case 7:
                changed = bytearray(frames[at])
                changed[4] = draw.randrange(256)  # flags
                frames[at] = bytes(changed)
    return start + b"".join(frames)


def random_frame(draw: random.Random) -> bytes:
    """Well formed at least in its length."""
    kind = draw.choice([*range(10), 77])
    stream = draw.choice([0, 1, 3, 5, 2, 99, 2**31 - 1])
    size = draw.choice([0, 1, 3, 4, 5, 6, 8, 12, 100, 5000])
    payload = draw.choice([bytes(size), draw.randbytes(size), b"\xff" * size, block(*REQUEST)])
    return wire.frame(kind, draw.randrange(256), stream, payload)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("part", range(4))
def test_conversations_that_went_wrong(role: str, part: int) -> None:
    names = list(SEEDS)
    for seed in range(part * 250, part * 250 + 250):
        draw = random.Random(seed)
        data = mutated(heard(role, names[seed % len(names)]), draw)
        cuts = [draw.randrange(1 << 20) for _ in range(draw.randrange(5))]
        try:
            play(machine(role), split(data, cuts))
        except BaseException as error:
            error.add_note(f"seed {seed}, {names[seed % len(names)]}")
            raise


def _frames() -> Any:
    payloads = st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [block(*REQUEST), block(*wire.OK_HEADERS), block(*wire.OK_TRAILERS), wire.message(b"m"), bytes(4)]
        ),
    )
    streams = st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1, 2**32 - 1])
    kinds = st.one_of(st.integers(0, 10), st.just(200))
    return st.lists(st.builds(wire.frame, kinds, st.integers(0, 255), streams, payloads), max_size=12)


@pytest.mark.parametrize("role", ROLES)
@given(frames=_frames(), greets=st.booleans(), cuts=st.lists(st.integers(0, 10_000), max_size=4))
@settings(max_examples=300, deadline=None)
def test_frames_at_random(role: str, frames: list[bytes], greets: bool, cuts: list[int]) -> None:
    greeting = (wire.PREFACE if role == "server" else b"") + wire.settings() if greets else b""
    play(machine(role), split(greeting + b"".join(frames), cuts))


@pytest.mark.parametrize("role", ROLES)
@given(data=st.binary(max_size=300), greets=st.booleans())
@settings(max_examples=200, deadline=None)
def test_bytes_at_random(role: str, data: bytes, greets: bool) -> None:
    greeting = (wire.PREFACE if role == "server" else b"") + wire.settings() if greets else b""
    play(machine(role), iter([greeting + data]))

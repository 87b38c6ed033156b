"""What each end may send when: windows of streams and of the connection, turns, and what waits."""

import tracemalloc

import pytest

from raykube.rpc.core import frames
from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.events import CallFinished, CallOpened, ConnectionEnded, Event, MessageReceived
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code
from tests.rpc.peer import INITIAL_WINDOW_SIZE, PREFACE, WINDOW_UPDATE, frame, settings
from tests.rpc.test_rfc9113 import WHOLE, headers, u32

KIB = 1024
SMALL = Limits(stream_window_bytes=64 * KIB, connection_window_bytes=128 * KIB, frame_bytes_max=16 * KIB)


class Ends:
    """A client and a server with `limits`, and a call per name in `paths`, open and empty."""

    def __init__(self, limits: Limits = SMALL, calls: int = 1) -> None:
        self.client = ClientConnection("server:1", limits=limits)
        self.server = ServerConnection(limits)
        self.settle()
        self.calls = [self.client.open_call("/pkg.Svc/Do") for _ in range(calls)]
        self.settle()

    def to_server(self) -> list[Event]:
        return self.server.receive(all_of(self.client), 0.0)

    def to_client(self) -> list[Event]:
        return self.client.receive(all_of(self.server), 0.0)

    def settle(self) -> list[Event]:
        """Carries bytes until both are silent; what the client reports."""
        events: list[Event] = []
        while self.client.wants_write or self.server.wants_write:
            self.to_server()
            events += self.to_client()
        return events


def all_of(end: ClientConnection | ServerConnection) -> bytes:
    data = b""
    while end.wants_write:
        data += end.outgoing()
    return data


def messages(events: list[Event]) -> list[bytes]:
    return [event.message for event in events if isinstance(event, MessageReceived)]


def data_frames(data: bytes) -> list[tuple[int, int]]:
    """(stream, bytes) of the DATA frames in `data`."""
    found = []
    while data:
        word, _flags, stream = frames.HEAD.unpack_from(data)
        size = word >> 8
        if word & 0xFF == frames.DATA:
            found.append((stream, size))
        data = data[frames.HEAD_BYTES + size :]
    return found


def test_messages_that_nobody_takes_shut_the_window_of_their_call_only() -> None:
    ends = Ends(calls=2)
    slow, other = ends.calls
    arrived = 0
    for _ in range(100):
        ends.server.send_message(slow, bytes(10 * KIB))
        arrived += len(messages(ends.settle()))
    assert 64 // 10 <= arrived <= 64 // 10 + 1
    ends.server.send_message(other, b"past it")
    assert messages(ends.settle()) == [b"past it"]


def test_taken_messages_open_it_again() -> None:
    ends = Ends()
    (call,) = ends.calls
    for _ in range(100):
        ends.server.send_message(call, bytes(10 * KIB))
    ends.server.finish(call)
    arrived = 0
    waiting = messages(ends.settle())
    while waiting:
        arrived += 1
        ends.client.taken(call, waiting.pop())
        events = ends.settle()
        waiting += messages(events)
    assert arrived == 100
    assert ends.client.calls == ends.server.calls == 0


def test_a_message_larger_than_every_window_needs_nobody_to_take_it() -> None:
    ends = Ends()
    (call,) = ends.calls
    large = bytes(range(256)) * 8000
    ends.server.respond(call, large)
    events = ends.settle()
    assert messages(events) == [large]
    assert isinstance(events[-1], CallFinished) and events[-1].code is Code.OK


def test_what_was_handed_over_is_not_kept() -> None:
    ends = Ends()
    (call,) = ends.calls
    tracemalloc.start()
    try:
        ends.server.send_message(call, bytes(60 * KIB))
        assert len(messages(ends.to_client())) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * KIB


def test_a_sender_is_told_to_wait_and_when_to_go_on() -> None:
    ends = Ends()
    (call,) = ends.calls
    sent = 0
    while ends.server.send_message(call, bytes(10 * KIB)):
        sent += 1
        assert sent < 100
    assert ends.server.drained() == []
    waiting: list[bytes] = []
    while not (drained := ends.server.drained()):
        ends.to_server()
        waiting += messages(ends.to_client())
        while waiting:
            ends.client.taken(call, waiting.pop())
    assert drained == [call]
    assert ends.server.send_message(call, b"more") is True


def test_a_call_that_ends_frees_who_waits_for_room() -> None:
    ends = Ends()
    (call,) = ends.calls
    while ends.server.send_message(call, bytes(10 * KIB)):
        pass
    ends.client.reset(call)
    ends.settle()
    assert ends.server.drained() == [call]
    assert ends.server.send_message(call, b"to nobody") is True
    assert not ends.server.wants_write


@pytest.mark.parametrize("lowered", [0, 10 * KIB, 40 * KIB])
def test_a_window_lowered_while_its_stream_waits_for_the_connection_s(lowered: int) -> None:
    """A stream that is ready to send may have a window of less than nothing by the time that it has its turn."""
    server = ServerConnection()
    server.receive(PREFACE + settings() + headers(1, WHOLE) + headers(3, WHOLE), 0.0)
    server.respond(1, bytes(60 * KIB))
    server.respond(3, bytes(60 * KIB))
    sent = all_of(server)  # half of each: the connection's window is used up
    server.receive(settings((INITIAL_WINDOW_SIZE, lowered)) + frame(WINDOW_UPDATE, 0, 0, u32(KIB * KIB)), 0.0)
    sent += all_of(server)
    for stream in (1, 3):
        assert sum(size for number, size in data_frames(sent) if number == stream) <= max(lowered, 32 * KIB)
    server.receive(settings((INITIAL_WINDOW_SIZE, 65_535)), 0.0)
    sent += all_of(server)
    for stream in (1, 3):
        assert sum(size for number, size in data_frames(sent) if number == stream) == 60 * KIB + 5
    assert server.calls == 0


def test_streams_take_turns() -> None:
    ends = Ends(Limits(stream_window_bytes=1024 * KIB, connection_window_bytes=1024 * KIB), calls=3)
    for call in ends.calls:
        ends.server.send_message(call, bytes(300 * KIB))
    turns = [stream for stream, _ in data_frames(all_of(ends.server))]
    assert turns[:6] == ends.calls * 2


def test_a_full_transport_leaves_data_in_its_streams() -> None:
    limits = Limits(stream_window_bytes=8192 * KIB, connection_window_bytes=8192 * KIB)
    ends = Ends(limits)
    (call,) = ends.calls
    while ends.server.send_message(call, bytes(10 * KIB)):
        pass
    assert len(ends.server.outgoing()) < limits.output_bytes_max + 11 * KIB
    assert ends.server.drained() == []
    assert 0 < len(ends.server.outgoing()) < limits.stream_queue_bytes + 11 * KIB
    assert ends.server.drained() == [call]


def test_a_client_lets_servers_send_megabytes_before_it_answers() -> None:
    """A watch is read in turns of both ends; what fits into one window a turn bounds its rate."""
    client, server = ClientConnection("server:1"), ServerConnection()
    server.receive(all_of(client), 0.0)
    client.receive(all_of(server), 0.0)
    call = client.open_call("/pkg.Svc/Watch")
    server.receive(all_of(client), 0.0)
    for _ in range(40):
        server.send_message(call, bytes(100 * KIB))
    assert sum(size for _, size in data_frames(all_of(server))) > 3900 * KIB


def test_a_window_lowered_below_what_is_sent_is_made_up_for_first() -> None:
    ends = Ends()
    (call,) = ends.calls
    ends.server.send_message(call, bytes(40 * KIB))
    all_of(ends.server)
    ends.server.receive(frames.settings_frame([(frames.Setting.INITIAL_WINDOW_SIZE, 10 * KIB)]), 0.0)
    ends.server.send_message(call, bytes(KIB))
    assert data_frames(all_of(ends.server)) == []
    ends.server.receive(frames.window_update(call, 30 * KIB + 5), 0.0)
    assert data_frames(all_of(ends.server)) == []
    ends.server.receive(frames.window_update(call, 100), 0.0)
    assert data_frames(all_of(ends.server)) == [(call, 100)]


def test_trailers_wait_for_the_messages_before_them() -> None:
    ends = Ends(calls=2)
    first, second = ends.calls
    ends.server.send_message(first, bytes(200 * KIB))
    ends.server.finish(first, Code.ABORTED, "after all of it")
    ends.server.finish(second, Code.NOT_FOUND, "at once")
    events = ends.settle()
    assert [event.code for event in events if isinstance(event, CallFinished)] == [Code.NOT_FOUND, Code.ABORTED]
    assert [len(message) for message in messages(events)] == [200 * KIB]


def test_frames_are_no_longer_than_either_end_takes() -> None:
    ends = Ends(Limits(frame_bytes_max=32 * KIB))
    ends.server.receive(frames.settings_frame([(frames.Setting.MAX_FRAME_SIZE, frames.FRAME_BYTES_MAX)]), 0.0)
    ends.server.send_message(ends.calls[0], bytes(100 * KIB))
    assert max(size for _, size in data_frames(all_of(ends.server))) == 32 * KIB
    ends.server.receive(frames.settings_frame([(frames.Setting.MAX_FRAME_SIZE, 20 * KIB)]), 0.0)
    ends.server.send_message(ends.calls[0], bytes(100 * KIB))
    assert max(size for _, size in data_frames(all_of(ends.server))) == 20 * KIB


@pytest.mark.parametrize(("name", "size"), [("stream_window_bytes", 65_534), ("frame_bytes_max", 16_383)])
def test_limits_that_a_peer_could_break_innocently_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"65535|16384"):
        Limits(**{name: size})


# Bounds of what a peer makes us hold


def test_a_message_too_long_ends_its_call_only() -> None:
    ends = Ends(Limits(message_bytes_max=KIB), calls=2)
    long, other = ends.calls
    ends.client.send_message(long, bytes(KIB + 1), end=True)
    ends.client.send_message(other, bytes(KIB), end=True)
    ends.to_server()
    ends.server.respond(other, b"fine")
    events = ends.settle()
    assert {event.stream: event.code for event in events if isinstance(event, CallFinished)} == {
        long: Code.RESOURCE_EXHAUSTED,
        other: Code.OK,
    }


def test_all_messages_of_a_connection_together_have_a_bound() -> None:
    ends = Ends(Limits(buffered_bytes_max=310 * KIB), calls=4)
    events: list[Event] = []
    for call in ends.calls:
        ends.client.send_message(call, bytes(100 * KIB))
        events += ends.settle()
    (refused,) = [event for event in events if isinstance(event, CallFinished)]
    assert (refused.stream, refused.code) == (ends.calls[-1], Code.RESOURCE_EXHAUSTED)
    ends.server.finish(ends.calls[0])  # what it held is free again
    call = ends.client.open_call("/pkg.Svc/Do")
    ends.client.send_message(call, bytes(90 * KIB), end=True)
    assert messages(ends.to_server()) == [bytes(90 * KIB)]


def test_a_call_too_many_is_refused_and_may_be_made_again() -> None:
    client, server = ClientConnection("server:1"), ServerConnection(Limits(streams_max=2))
    for _ in range(3):
        client.open_call("/pkg.Svc/Do")  # as a client may that has not seen the settings yet
    opened = [event for event in server.receive(all_of(client), 0.0) if isinstance(event, CallOpened)]
    assert len(opened) == 2
    (refused,) = [e for e in client.receive(all_of(server), 0.0) if isinstance(e, CallFinished)]
    assert (refused.stream, refused.code, refused.unprocessed) == (5, Code.UNAVAILABLE, True)
    assert not client.can_open


def test_metadata_has_a_bound() -> None:
    ends = Ends()
    ends.client.open_call("/pkg.Svc/Do", None, (("large", "x" * 20 * KIB),))
    ended = ends.to_server()[-1]
    assert isinstance(ended, ConnectionEnded)
    assert ended.code is frames.ErrorCode.ENHANCE_YOUR_CALM
    finished = [event for event in ends.to_client() if isinstance(event, CallFinished)]
    assert len(finished) <= 2


def test_going_away_lets_calls_end_and_takes_no_new_ones() -> None:
    ends = Ends()
    late = ends.client.open_call("/pkg.Svc/Do")
    on_the_way = all_of(ends.client)
    ends.server.go_away("bye")
    assert not any(isinstance(event, CallOpened) for event in ends.server.receive(on_the_way, 0.0))
    ends.server.respond(ends.calls[0], b"done")
    events = ends.to_client()
    finished = {event.stream: event for event in events if isinstance(event, CallFinished)}
    assert finished[late].unprocessed and finished[late].code is Code.UNAVAILABLE
    assert finished[ends.calls[0]].code is Code.OK
    assert ends.client.spent and not ends.client.can_open

"""The two roles of the core, joined by bytes: what one says is what the other reports."""

import gzip

import pytest

from raykube.rpc.core import frames
from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.events import (
    CallCancelled,
    CallFinished,
    CallOpened,
    Event,
    MessageReceived,
    PeerEnded,
    SettingsReceived,
)
from raykube.rpc.core.messages import Compressed
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code, RpcError


class Pair:
    """A client and a server; `settle` carries bytes until both are silent, in pieces of `piece` bytes."""

    def __init__(self, piece: int = 1 << 30) -> None:
        self.client = ClientConnection("server:1")
        self.server = ServerConnection()
        self.piece = piece

    def settle(self) -> tuple[list[Event], list[Event]]:
        """The client's events and the server's."""
        at_client: list[Event] = []
        at_server: list[Event] = []
        while self.client.wants_write or self.server.wants_write:
            for data, end, events in (
                (self.client.outgoing(), self.server, at_server),
                (self.server.outgoing(), self.client, at_client),
            ):
                for start in range(0, len(data), self.piece):
                    events += end.receive(data[start : start + self.piece], 0.0)
        return [e for e in at_client if not isinstance(e, SettingsReceived)], [
            e for e in at_server if not isinstance(e, SettingsReceived)
        ]


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_a_unary_call(piece: int) -> None:
    pair = Pair(piece)
    call = pair.client.open_call("/pkg.Svc/Do", 5.0, (("Key", "value"),))
    pair.client.send_message(call, b"ask", end=True)
    _, (opened, message, ended) = pair.settle()
    assert isinstance(opened, CallOpened)
    assert (opened.head.path, opened.head.timeout_s, opened.head.metadata["key"]) == ("/pkg.Svc/Do", 5.0, "value")
    assert (message, ended) == (MessageReceived(call, b"ask"), PeerEnded(call))
    pair.server.respond(call, b"answer")
    (_, message, finished), _ = pair.settle()
    assert message == MessageReceived(call, b"answer")
    assert finished == CallFinished(call, Code.OK, "", {})
    assert pair.client.calls == pair.server.calls == 0


def test_an_error_keeps_its_code_and_any_text() -> None:
    pair = Pair()
    call = pair.client.open_call("/pkg.Svc/Do")
    pair.settle()
    pair.server.finish(call, Code.NOT_FOUND, "nö % such\nthing")
    (finished,), _ = pair.settle()
    assert finished == CallFinished(call, Code.NOT_FOUND, "nö % such\nthing", {})


def test_a_message_larger_than_every_window_passes_both_ways() -> None:
    pair = Pair()
    call = pair.client.open_call("/pkg.Svc/Do")
    large = bytes(range(256)) * 20_000
    assert pair.client.send_message(call, large, end=True) is False
    _, events = pair.settle()
    assert events[1:] == [MessageReceived(call, large), PeerEnded(call)]
    pair.server.respond(call, large)
    events, _ = pair.settle()
    assert events[1:] == [MessageReceived(call, large), CallFinished(call, Code.OK, "", {})]


def compressed(data: bytes) -> bytes:
    return b"\1" + len(data).to_bytes(4, "big") + data


def opened_with_gzip() -> tuple[Pair, int]:
    pair = Pair()
    call = pair.client.open_call("/pkg.Svc/Do", None, (("grpc-encoding", "gzip"),))
    pair.settle()
    return pair, call


def put_data(pair: Pair, call: int, data: bytes) -> list[Event]:
    return pair.server.receive(frames.frame(frames.DATA, 0, call, data), 0.0)


@pytest.mark.parametrize("piece", [1, 100, 1 << 30])
def test_compressed_messages_come_as_they_are_and_count_as_long_as_they_came(piece: int) -> None:
    """Who sends little for a call that is refused has made nobody work much."""
    pair, call = opened_with_gzip()
    bodies = [gzip.compress(b"a" * 200_000), b"plain", gzip.compress(b"")]
    data = compressed(bodies[0]) + b"\0\0\0\0\5plain" + compressed(bodies[2])
    got: list[Event] = []
    for start in range(0, len(data), piece):
        got += put_data(pair, call, data[start : start + piece])
    messages = [event.message for event in got if isinstance(event, MessageReceived)]
    assert messages == bodies
    assert [type(message) for message in messages] == [Compressed, bytes, Compressed]
    assert [m.inflated(200_000) for m in messages if isinstance(m, Compressed)] == [b"a" * 200_000, b""]
    assert pair.server._buffered_bytes == len(data)
    for message in messages:
        pair.server.taken(call, message)
    assert pair.server._buffered_bytes == 0


def test_a_mark_that_means_nothing_ends_the_call() -> None:
    for head, mark in ((("grpc-encoding", "gzip"), b"\2"), (("grpc-encoding", "identity"), b"\1")):
        pair = Pair()
        call = pair.client.open_call("/pkg.Svc/Do", None, (head,))
        pair.settle()
        (cancelled,) = put_data(pair, call, mark + b"\0\0\0\0")
        assert isinstance(cancelled, CallCancelled)
        (finished,), _ = pair.settle()
        assert isinstance(finished, CallFinished)
        assert finished.code is Code.INTERNAL


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (gzip.compress(bytes(1001), mtime=0), Code.RESOURCE_EXHAUSTED),
        (gzip.compress(bytes(1000), mtime=0)[:-1], Code.INTERNAL),
        (gzip.compress(bytes(1000), mtime=0) + b"more", Code.INTERNAL),
        (b"", Code.INTERNAL),
        (b"not gzip's", Code.INTERNAL),
    ],
    ids=["long", "cut", "more", "empty", "other"],
)
def test_compressed_messages_that_are_none_or_too_long(data: bytes, code: Code) -> None:
    with pytest.raises(RpcError) as caught:
        Compressed(data).inflated(1000)
    assert caught.value.code is code

"""The two roles of the core, joined by bytes: what one says is what the other reports."""

import pytest

from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.events import CallFinished, CallOpened, Event, MessageReceived, PeerEnded, SettingsReceived
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code


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

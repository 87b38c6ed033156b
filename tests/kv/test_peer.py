"""The way to one other member, with a stream of the test's."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from raykube.kv import peer as peer_module
from raykube.kv.peer import Peer
from raykube.pb import raft_pb2
from raykube.rpc.pushed import PushedCall

GREETING = raft_pb2.MessageBatch(sender=1).SerializeToString()


class Stream:
    """Takes `room` messages; then the sender waits."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.batches: list[Any] = []
        self.waiting: list[Callable[[], None]] = []
        self.is_cancelled = False

    def send(self, message: bytes) -> bool:
        self.batches.append(raft_pb2.MessageBatch.FromString(message))
        self.room -= 1
        return self.room > 0

    def when_room(self, then: Callable[[], None]) -> None:
        self.waiting.append(then)

    def make_room(self, room: int) -> None:
        self.room = room
        waiting, self.waiting = self.waiting, []
        for then in waiting:
            then()

    def cancel(self) -> None:
        self.is_cancelled = True

    @property
    def terms(self) -> list[list[int]]:
        """The messages of each batch, behind the greeting."""
        return [[message.term for message in batch.messages] for batch in self.batches[1:]]


def new_peer() -> Peer:
    opening = raft_pb2.MessageBatch(to=2).SerializeToString()
    return Peer(2, ("http://127.0.0.1:1",), None, opening)


def put(peer: Peer, *terms: int) -> None:
    for term in terms:
        assert peer.put(raft_pb2.Message(term=term).SerializeToString())
    peer.flush()


def open_stream(peer: Peer, room: int = 1000) -> Stream:
    stream = Stream(room)
    peer.open(cast(PushedCall, stream), GREETING)
    return stream


async def test_what_waits_goes_together_behind_the_greeting() -> None:
    peer = new_peer()
    put(peer, 1, 2)
    stream = open_stream(peer)
    assert stream.batches[0].sender == 1
    assert stream.terms == [[1, 2]]
    put(peer, 3)
    assert stream.terms == [[1, 2], [3]]
    assert stream.batches[1].to == 2


async def test_a_full_stream_is_waited_for() -> None:
    peer = new_peer()
    stream = open_stream(peer, room=2)
    put(peer, 1)
    put(peer, 2)
    put(peer, 3)
    assert stream.terms == [[1]]
    stream.make_room(10)
    assert stream.terms == [[1], [2, 3]]


async def test_a_stream_that_is_gone_makes_no_room_for_its_successor() -> None:
    peer = new_peer()
    first = open_stream(peer, room=2)
    put(peer, 1)
    peer.shut()
    assert first.is_cancelled
    second = open_stream(peer, room=2)
    put(peer, 2)
    put(peer, 3)
    first.make_room(10)
    assert second.terms == [[2]]


async def test_what_waited_for_a_stream_that_ends_is_lost() -> None:
    peer = new_peer()
    put(peer, 1)
    peer.shut()
    peer.shut()
    assert open_stream(peer).terms == []


async def test_the_queue_is_bounded_and_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "WAITING_BYTES_MAX", 8)
    monkeypatch.setattr(peer_module, "BATCH_BYTES_MAX", 3)
    peer = new_peer()
    put(peer, 1, 2, 3, 4)  # of two bytes each
    assert not peer.put(raft_pb2.Message(term=5).SerializeToString())
    stream = open_stream(peer)
    assert stream.terms == [[1, 2], [3, 4]]
    put(peer, 6)
    assert stream.terms[-1] == [6]

"""What a member tells the others: in one batch what leaves together."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from raykube.kv import peer as peer_module
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.kv.transport import Transport
from tests.kv.test_peer import Stream, new_peer, open_stream

OWN, FIRST, SECOND = 1, 2, 3


class Outward:
    """A transport with ways to two members, each a stream of the test's."""

    def __init__(self) -> None:
        node = SimpleNamespace(membership=Membership(), settled=Membership(), on_unreachable=self._on_unreachable)
        member = SimpleNamespace(id=OWN, replica=SimpleNamespace(node=node))
        self.unreachable: list[int] = []
        self._transport = Transport(cast(Any, member), [], 0, {}, None)
        self._peers = {FIRST: new_peer(), SECOND: new_peer()}
        cast(Any, self._transport)._peer = self._peers.get
        self._streams: dict[int, Stream] = {member: open_stream(peer) for member, peer in self._peers.items()}

    def _on_unreachable(self, member: int) -> None:
        self.unreachable.append(member)

    def send(self, *messages: Message) -> None:
        self._transport.send(list(messages))

    def told(self, member: int) -> list[list[Kind]]:
        """Kinds of messages, by batch."""
        return [[Kind(message.kind) for message in batch.messages] for batch in self._streams[member].batches[1:]]


def append(member: int) -> Message:
    return Message(Kind.APPEND, member, OWN, 1, commit=1, entries=[Entry(1, 2, 0, b"data")])


async def test_what_leaves_together_goes_in_one_batch_to_each() -> None:
    outward = Outward()
    outward.send(append(FIRST), append(SECOND), Message(Kind.TIMEOUT_NOW, FIRST, OWN, 1))
    assert outward.told(FIRST) == [[Kind.APPEND, Kind.TIMEOUT_NOW]]
    assert outward.told(SECOND) == [[Kind.APPEND]]


async def test_a_member_that_takes_no_more_is_told_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "WAITING_BYTES_MAX", 4)
    outward = Outward()
    outward.send(append(FIRST))
    assert outward.unreachable == [FIRST]
    assert outward.told(FIRST) == []

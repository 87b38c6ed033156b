"""What a member tells the others: in one batch what leaves together."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raykube.kv import peer as peer_module
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.kv.transport import Transport
from raykube.rpc import Tls
from tests.kit import pki
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
    outward.send(append(FIRST), append(FIRST))
    assert outward.unreachable == [FIRST]
    assert outward.told(FIRST) == [[Kind.APPEND]]  # whatever its size: nothing waited before it


class Ways:
    """A transport that knows where one other member is, and each way that it makes."""

    def __init__(self, *addresses: str, tls: Tls | None = None) -> None:
        node = SimpleNamespace(membership=Membership(), settled=Membership(), on_unreachable=lambda _: None, leader=0)
        failed = asyncio.get_running_loop().create_future()
        member = SimpleNamespace(id=OWN, cluster_id=1, replica=SimpleNamespace(node=node), failed=failed)
        self.transport = Transport(cast(Any, member), [], 0, {FIRST: addresses}, tls)

    def way(self) -> tuple[int, tuple[str, ...]]:
        """To the other member: which one it is, and where it tries."""
        peer = self.transport._peer(FIRST)
        assert peer is not None
        return id(peer), peer.urls


async def test_a_way_is_made_anew_for_an_address_that_is_news_and_for_nothing_else() -> None:
    logged, told = "http://127.0.0.1:1", "http://127.0.0.1:2"
    ways = Ways(logged)
    try:
        first, urls = ways.way()
        assert urls == (logged,)
        ways.transport.on_connected(FIRST, (logged,))
        assert ways.way() == (first, urls)
        ways.transport.on_connected(FIRST, (told,))
        second, urls = ways.way()
        assert second != first
        assert urls == (told, logged), "what it says may be what only it can reach"
        # To make it anew each time that the other one comes or goes would end the other one's way here, and so on.
        for _ in range(3):
            ways.transport.on_disconnected(FIRST)
            assert ways.way() == (second, urls)
            ways.transport.on_connected(FIRST, (told,))
            assert ways.way() == (second, urls)
    finally:
        await ways.transport.close()


async def test_a_way_is_made_while_certificates_are_half_renewed(tmp_path: Path) -> None:
    own = pki.tls("m1", server=True)
    key = tmp_path / "key"
    key.write_bytes(own.key_file.read_bytes())
    ways = Ways("https://127.0.0.1:1", "https://127.0.0.1:2", tls=Tls(own.cert_file, key, own.ca_file))
    key.write_bytes(pki.tls("m9", server=True).key_file.read_bytes())
    try:
        ways.way()
        peer = ways.transport._peer(FIRST)
        assert peer is not None
        await peer.try_next_url()
    finally:
        await ways.transport.close()

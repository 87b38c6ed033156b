"""Carries messages to other members: one stream to each, what leaves together in one batch, snapshots apart.

At most once and in order within a stream; a stream that breaks loses what was under way, which Raft survives. The end
of a stream from the leader hints that it died: an election need not wait for the time-out.

Where the others are is known from the membership as it stands in the log, from what a member says of itself when it
opens a stream (this one may lack the membership that names it), and at first from the member that let this one join.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from raykube.kv import stored_snapshot, wire
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.member import Member
from raykube.kv.peer import Peer
from raykube.kv.recall import Replaced
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.tls import client_context

log = logging.getLogger(__name__)

RECONNECT_S = 0.2
SNAPSHOT_TIMEOUT_S = 300.0
SNAPSHOT_RETRY_S = 1.0


class Transport:
    """All ways from one member. `addresses`: where others are, as far as the log does not say yet."""

    def __init__(
        self,
        member: Member,
        urls: Iterable[str],
        incarnation: int,
        addresses: Mapping[int, tuple[str, ...]],
        tls: Tls | None,
    ) -> None:
        self._member = member
        self._urls = list(urls)
        self._incarnation = incarnation
        self._addresses = dict(addresses)
        # One for all ways, made now: while a renewal is half done, its files could not be read.
        self._tls: ssl.SSLContext | None = None if tls is None else client_context(tls)
        self._told: dict[int, tuple[str, ...]] = {}  # what those who are connected say of themselves
        self._newest = self._settled = Membership()
        self._peers: dict[int, Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_closed = False

    def send(self, messages: list[Message]) -> None:
        """Sends what it can; the rest is lost."""
        node = self._member.replica.node
        if node.membership is not self._newest or node.settled is not self._settled:
            self._follow(node.membership, node.settled)
        put: dict[Peer, None] = {}
        encoder = wire.Encoder()
        for message in messages:
            peer = self._peer(message.to)
            if peer is None:
                continue
            if message.kind is Kind.SNAPSHOT:
                if not peer.is_sending_snapshot:
                    self._spawn(self._send_snapshot(peer, message))
            elif not peer.put(encoder.encode(message)):
                self._member.replica.node.on_unreachable(message.to)
            else:
                put[peer] = None
        for peer in put:
            peer.flush()

    def leader(self) -> Any | None:
        """A stub of the leader's Peer service; None when there is no other leader."""
        peer = self._peer(self._member.replica.node.leader)
        return None if peer is None else peer.stub

    def connect(self) -> None:
        """Opens ways to all others, though there is nothing to say: so this member hears that it was removed."""
        node = self._member.replica.node
        self._follow(node.membership, node.settled)
        # Where the log knows members, ids made of the flags may be nobody's.
        for member in node.membership.ids or tuple(self._addresses):
            self._peer(member)

    # ---- who is where

    def _follow(self, newest: Membership, settled: Membership) -> None:
        """Takes addresses from a new membership.

        Before it is committed only of those who had none: a change that moves a member must not cut it off, as it may
        be needed for the commit.
        """
        for member in newest.members:
            if member.peer_urls:
                self._addresses.setdefault(member.id, member.peer_urls)
        for member in settled.members:
            if member.peer_urls:
                self._addresses[member.id] = member.peer_urls
                self._check_address(member.id)
        for gone in settled.removed:
            if gone in self._peers:
                self._drop(gone)
        self._newest, self._settled = newest, settled

    def on_connected(self, member: int, urls: tuple[str, ...]) -> None:
        """A member opened a stream, and says where it is. It knows better than this one's log, which may be behind."""
        if urls:
            self._told[member] = urls
            self._check_address(member)

    def on_disconnected(self, member: int) -> None:
        """Its stream ended: what it said is no news any more, when somebody asks where it is."""
        # The way to it stays as it is. To end it would end what the other one was told by it, and so on for ever.
        self._told.pop(member, None)

    def _address(self, member: int) -> tuple[str, ...]:
        """Where to try: what it says of itself first, and what the log says, as it may name what only it can reach."""
        return tuple(dict.fromkeys((*self._told.get(member, ()), *self._addresses.get(member, ()))))

    def _check_address(self, member: int) -> None:
        peer = self._peers.get(member)
        if peer is not None and set(peer.urls) != set(self._address(member)):
            self._drop(member)

    def _drop(self, member: int) -> None:
        peer = self._peers.pop(member)
        peer.shut()
        if peer.task is not None:
            peer.task.cancel()
        self._spawn(peer.channel.close())

    def is_removed(self, member: int) -> bool:
        """Whether `member` was removed, as far as that is committed: a newer membership might be cut off again."""
        return member in self._member.replica.node.settled.removed

    # ---- outward

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _peer(self, member: int) -> Peer | None:
        peer = self._peers.get(member)
        if peer is None and member and member != self._member.id and not self.is_closed:
            urls = self._address(member)
            if not urls or self.is_removed(member):
                return None
            peer = self._peers[member] = Peer(member, urls, self._tls, self._opening(member))
            peer.task = self._spawn(self._stream(peer))
        return peer

    async def _stream(self, peer: Peer) -> None:
        """Keeps a stream to `peer`, for ever."""
        loop = asyncio.get_running_loop()
        while not self.is_closed and not self._member.failed.done():
            finished: asyncio.Future[None] = loop.create_future()
            try:
                stream = await peer.stub.Stream.open(partial(self._on_state, peer), partial(_finish, finished))
                # The first batch opens the stream and names the sender.
                peer.open(stream, self._opening(peer.member, self._urls, self._incarnation))
                await finished
            except RpcError as error:
                if error.code is not Code.UNAVAILABLE and error.message != peer.refusal:
                    peer.refusal = error.message
                    log.warning("member %x refuses this member's messages: %s", peer.member, error)
            finally:
                peer.shut()
            self._member.replica.node.on_unreachable(peer.member)
            await peer.try_next_url()
            await asyncio.sleep(RECONNECT_S)

    def _on_state(self, peer: Peer, state: Any) -> None:
        """What the receiver of a stream says of it."""
        peer.refusal = ""
        if state.removed:
            self._member.leave()
        elif state.replaced:
            self._member.fail(Replaced(self._member.id))

    def _opening(self, to: int, urls: Iterable[str] = (), incarnation: int = 0) -> bytes:
        """A batch without messages."""
        batch = raft_pb2.MessageBatch(
            cluster_id=self._member.cluster_id, sender=self._member.id, to=to, sender_urls=urls, incarnation=incarnation
        )
        return batch.SerializeToString()

    async def _send_snapshot(self, peer: Peer, message: Message) -> None:
        assert message.snapshot is not None
        arrived = lacks_room = False
        peer.is_sending_snapshot = True
        try:
            path = self._member.files.path(message.snapshot)
            await peer.stub.Snapshot(self._chunks(message, path), timeout=SNAPSHOT_TIMEOUT_S)
            arrived = True
        except (OSError, RpcError) as error:
            log.warning("snapshot for member %x did not arrive: %s", peer.member, error)
            if isinstance(error, OSError) or error.code is Code.DATA_LOSS:
                self._member.snapshotter.renew()  # it cannot be read, or is not what was written
            lacks_room = isinstance(error, RpcError) and error.code is Code.RESOURCE_EXHAUSTED
            await asyncio.sleep(SNAPSHOT_RETRY_S)
        finally:
            peer.is_sending_snapshot = False
        self._member.replica.node.on_snapshot_sent(peer.member, arrived, lacks_room)
        self._member.wake()

    async def _chunks(self, message: Message, path: Path) -> AsyncIterator[Any]:
        head = {"cluster_id": self._member.cluster_id, "message": wire.head(message)}
        content = stored_snapshot.pieces(path)
        try:
            while (piece := await asyncio.to_thread(next, content, None)) is not None:
                yield raft_pb2.SnapshotChunk(data=piece, **head)
                head = {}
        finally:
            content.close()

    async def close(self) -> None:
        """Ends all streams."""
        self.is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers.values():
            with contextlib.suppress(RpcError):
                await peer.channel.close()


def _finish(finished: "asyncio.Future[None]", error: BaseException | None) -> None:
    """The end of a stream."""
    if finished.done():
        return
    if error is None:
        finished.set_result(None)
    else:
        finished.set_exception(error)

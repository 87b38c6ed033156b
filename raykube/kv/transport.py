# ruff: noqa: N802 - methods are named like the RPCs
"""Carries messages between members: one stream per direction, all that waits in one batch, snapshots apart.

At most once and in order within a stream; a stream that breaks loses what was under way, which Raft survives. The end
of a stream from the leader hints that it died: an election need not wait for the time-out.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv import wire
from raykube.kv.core import snapshot_codec
from raykube.kv.core.identity import address_of
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.member import Member
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel

log = logging.getLogger(__name__)

SERVICE = raft_pb2.DESCRIPTOR.services_by_name["Peer"]
WAITING_BYTES_MAX = 64 << 20  # beyond it, messages to that member are dropped: it is gone or far too slow
BATCH_BYTES_MAX = 8 << 20
CHUNK_BYTES = 1 << 20
RECONNECT_S = 0.2
SNAPSHOT_TIMEOUT_S = 300.0
RENEW_TIMEOUT_S = 5.0


class _Peer:
    """The way to one member."""

    def __init__(self, member: int, url: str, tls: Tls | None) -> None:
        self.member = member
        scheme, address = address_of(url)
        self.channel = Channel(address, tls if scheme == "https" else None)
        self.stub = self.channel.stub(SERVICE)
        self.waiting: list[tuple[int, Any]] = []
        self.waiting_bytes = 0
        self.generation = 0  # of the stream that takes what waits
        self.woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def put(self, message: Message) -> bool:
        """Queues a message; False when the queue is full."""
        size = sum(len(entry.data) for entry in message.entries) + 64
        if self.waiting_bytes + size > WAITING_BYTES_MAX:
            return False
        self.waiting.append((size, wire.encode(message)))
        self.waiting_bytes += size
        self.woken.set()
        return True

    def take(self) -> list[Any]:
        count = size = 0
        for bytes_of, _ in self.waiting:
            if size >= BATCH_BYTES_MAX:
                break
            count += 1
            size += bytes_of
        batch = [message for _, message in self.waiting[:count]]
        del self.waiting[:count]
        self.waiting_bytes -= size
        return batch

    def drop(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0


class Transport:
    """All ways from and to one member; also the handler of the Peer service."""

    def __init__(self, member: Member, tls: Tls | None) -> None:
        self._member = member
        self._tls = tls
        self._peers: dict[int, _Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound: dict[int, object] = {}
        self._is_closed = False

    # ---- outward

    def send(self, messages: list[Message]) -> None:
        for message in messages:
            peer = self._peer(message.to)
            if peer is None:
                continue
            if message.kind is Kind.SNAPSHOT:
                self._spawn(self._send_snapshot(peer, message))
            elif not peer.put(message):
                self._member.replica.node.on_unreachable(message.to)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _peer(self, member: int) -> _Peer | None:
        peer = self._peers.get(member)
        if peer is None and not self._is_closed:
            known = {m.id: m for m in self._member.replica.node.membership.members}.get(member)
            if known is None or not known.peer_urls:
                return None
            peer = self._peers[member] = _Peer(member, known.peer_urls[0], self._tls)
            peer.task = self._spawn(self._stream(peer))
        return peer

    async def _stream(self, peer: _Peer) -> None:
        """Keeps a stream to `peer`, for ever."""
        refusal = ""
        while not self._is_closed:
            try:
                async for _ in peer.stub.Stream(self._batches(peer, peer.generation)):
                    refusal = ""
            except RpcError as error:
                if error.code is not Code.UNAVAILABLE and error.message != refusal:
                    refusal = error.message
                    log.warning("member %x refuses this member's messages: %s", peer.member, error)
            peer.generation += 1
            peer.drop()
            self._member.replica.node.on_unreachable(peer.member)
            await asyncio.sleep(RECONNECT_S)

    async def _batches(self, peer: _Peer, generation: int) -> AsyncIterator[Any]:
        # gRPC may hold on to the requests of a broken stream: they must take no message with them.
        while generation == peer.generation:
            # The first batch may be empty: it opens the stream and names the sender.
            yield raft_pb2.MessageBatch(
                cluster_id=self._member.cluster_id, sender=self._member.id, to=peer.member, messages=peer.take()
            )
            while not peer.waiting and generation == peer.generation:
                peer.woken.clear()
                await peer.woken.wait()

    async def _send_snapshot(self, peer: _Peer, message: Message) -> None:
        assert message.snapshot is not None
        arrived = False
        try:
            data = await asyncio.to_thread(self._member.files.path(message.snapshot).read_bytes)
            await peer.stub.Snapshot(self._chunks(message, data), timeout=SNAPSHOT_TIMEOUT_S)
            arrived = True
        except (OSError, RpcError) as error:
            log.warning("snapshot for member %x did not arrive: %s", peer.member, error)
        self._member.replica.node.on_snapshot_sent(peer.member, arrived)
        self._member.wake()

    async def _chunks(self, message: Message, data: bytes) -> AsyncIterator[Any]:
        head = {"cluster_id": self._member.cluster_id, "message": wire.encode(message)}
        for offset in range(0, len(data), CHUNK_BYTES):
            yield raft_pb2.SnapshotChunk(data=data[offset : offset + CHUNK_BYTES], **head)
            head = {}

    async def renew(self, request: Any) -> int:
        """Renews a lease, or asks for its time, at the leader; seconds left, -1 for no such lease. Raises RpcError."""
        deadline = time.monotonic() + RENEW_TIMEOUT_S
        while True:
            node = self._member.replica.node
            if node.is_leader:
                return await self._renew_here(request)
            peer = self._peer(node.leader) if node.leader else None
            if peer is not None:
                with contextlib.suppress(RpcError):
                    answer = await peer.stub.Renew(request, timeout=max(0.1, deadline - time.monotonic()))
                    return int(answer.remaining_s)
            if time.monotonic() > deadline:
                raise RpcError(Code.UNAVAILABLE, "etcdserver: no leader")
            await asyncio.sleep(0.05)

    async def _renew_here(self, request: Any) -> int:
        """As leader. A grant may be acknowledged and not applied here yet: only after a read index it is missing."""
        replica = self._member.replica
        clock = replica.lease_clock

        def is_going() -> bool:
            return clock.is_over(request.id) and request.id in replica.machine.store.leases

        # Its revocation is in the log: too late to renew, and not yet gone.
        if not request.only_ask and not await self._member.until(lambda: not is_going(), RENEW_TIMEOUT_S):
            raise RpcError(Code.UNAVAILABLE, "etcdserver: request timed out")
        if clock.remaining_s(request.id, time.monotonic()) is None:
            await self._member.read_index()
        lease = replica.machine.store.leases.get(request.id)
        if lease is None:
            return -1
        if not replica.node.is_leader:
            raise RpcError(Code.UNAVAILABLE, "etcdserver: not leader")
        if not request.only_ask:
            clock.start(lease.id, lease.ttl_s, time.monotonic())
            return lease.ttl_s
        remaining_s = clock.remaining_s(lease.id, time.monotonic())
        return int(lease.ttl_s if remaining_s is None else remaining_s)  # without a deadline yet: it begins just now

    # ---- inward: the Peer service

    def _check(self, cluster_id: int) -> None:
        if cluster_id != self._member.cluster_id:
            raise RpcError(
                Code.FAILED_PRECONDITION,
                f"this member is of cluster {self._member.cluster_id:x}, the caller of {cluster_id:x}",
            )

    async def Stream(self, requests: AsyncIterator[Any], _call: Any) -> AsyncIterator[Any]:
        sender = 0
        token = object()
        try:
            async for batch in requests:
                self._check(batch.cluster_id)
                if batch.to != self._member.id:
                    raise RpcError(Code.FAILED_PRECONDITION, f"this is member {self._member.id:x}, not {batch.to:x}")
                if not sender:
                    sender = batch.sender
                    self._inbound[sender] = token
                    yield raft_pb2.StreamState()
                if batch.messages:
                    self._member.step([wire.decode(message) for message in batch.messages])
        finally:
            if sender and self._inbound.get(sender) is token and not self._is_closed:
                del self._inbound[sender]
                self._member.replica.node.on_peer_lost(sender)

    async def Snapshot(self, requests: AsyncIterator[Any], _call: Any) -> Any:
        message: Message | None = None
        parts: list[bytes] = []
        async for chunk in requests:
            if message is None:
                self._check(chunk.cluster_id)
                message = wire.decode(chunk.message)
            parts.append(chunk.data)
        try:
            cluster_id, snapshot = await asyncio.to_thread(lambda: snapshot_codec.decode(b"".join(parts)))
        except ValueError as error:
            raise RpcError(Code.DATA_LOSS, str(error)) from None
        self._check(cluster_id)
        if message is None or message.kind is not Kind.SNAPSHOT:
            raise RpcError(Code.INVALID_ARGUMENT, "not a snapshot message")
        message.snapshot = snapshot
        self._member.step([message])
        return raft_pb2.SnapshotAnswer()

    async def Renew(self, request: Any, _call: Any) -> Any:
        if not self._member.replica.node.is_leader:
            raise RpcError(Code.UNAVAILABLE, "etcdserver: not leader")
        return raft_pb2.RenewResponse(remaining_s=await self._renew_here(request))

    async def Recall(self, request: Any, _call: Any) -> Any:
        """Whether the member of the request has taken part in this cluster before."""
        self._check(request.cluster_id)
        replica = self._member.replica
        progress = replica.node.progress.get(request.member)
        has_acknowledged = progress is not None and progress.match > 0
        return raft_pb2.RecallResponse(is_known=has_acknowledged or request.member in replica.machine.attributes)

    async def close(self) -> None:
        """Ends all streams."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers.values():
            await peer.channel.close()

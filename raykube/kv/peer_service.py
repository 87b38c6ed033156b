# ruff: noqa: N802 - methods are named like the RPCs
"""The Peer service: takes in what other members send."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv import wire
from raykube.kv.at_leader import NOT_LEADER, AtLeader
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.joins import Joins, noted
from raykube.kv.member import Member
from raykube.kv.stored_snapshot import Arriving
from raykube.kv.transport import Transport
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError


class PeerService:
    """Answers the other members of one member's cluster; those of other clusters are refused."""

    def __init__(self, member: Member, transport: Transport, leader: AtLeader) -> None:
        self._member = member
        self._transport = transport
        self._leader = leader
        self._joins = Joins(member)
        self._inbound: dict[int, object] = {}

    def _check(self, cluster_id: int) -> None:
        if cluster_id != self._member.cluster_id:
            raise RpcError(
                Code.FAILED_PRECONDITION,
                f"this member is of cluster {self._member.cluster_id:x}, the caller of {cluster_id:x}",
            )

    def _require_leader(self) -> None:
        if not self._member.replica.node.is_leader:
            raise RpcError(Code.UNAVAILABLE, NOT_LEADER)

    async def Stream(self, requests: AsyncIterator[Any], _call: Any) -> AsyncIterator[Any]:
        sender = 0
        token = object()
        try:
            async for batch in requests:
                self._check(batch.cluster_id)
                if batch.to != self._member.id:
                    raise RpcError(Code.FAILED_PRECONDITION, f"this is member {self._member.id:x}, not {batch.to:x}")
                if self._transport.is_removed(batch.sender):
                    yield raft_pb2.StreamState(removed=True)
                    return
                if not sender:
                    known = noted(self._member.replica, batch.sender)
                    if known is not None and known != batch.incarnation:
                        yield raft_pb2.StreamState(replaced=True)  # its votes are those of one that forgot its promises
                        return
                    sender = batch.sender
                    self._inbound[sender] = token
                    self._transport.on_connected(sender, tuple(batch.sender_urls))
                    yield raft_pb2.StreamState()
                if batch.messages:
                    self._member.step([wire.decode(message) for message in batch.messages])
        finally:
            if sender and self._inbound.get(sender) is token and not self._transport.is_closed:
                del self._inbound[sender]
                self._transport.on_disconnected(sender)
                self._member.replica.node.on_peer_lost(sender)

    async def Snapshot(self, requests: AsyncIterator[Any], _call: Any) -> Any:
        """Writes the leader's snapshot to a file as it comes, and hands the message on when all of it is durable."""
        try:
            arriving = await asyncio.to_thread(self._member.files.arrive)
            try:
                await self._take_snapshot(requests, arriving)
            except BaseException:
                await asyncio.to_thread(arriving.drop)
                raise
        except ValueError as error:
            raise RpcError(Code.DATA_LOSS, str(error)) from None
        except OSError as error:
            raise RpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None
        return raft_pb2.SnapshotAnswer()

    async def _take_snapshot(self, requests: AsyncIterator[Any], arriving: Arriving) -> None:
        message: Message | None = None
        async for chunk in requests:
            if message is None:
                self._check(chunk.cluster_id)
                message = wire.decode(chunk.message)
            await asyncio.to_thread(arriving.write, chunk.data)
        if message is None or message.kind is not Kind.SNAPSHOT:
            raise RpcError(Code.INVALID_ARGUMENT, "not a snapshot message")
        snapshot = message.snapshot = await asyncio.to_thread(arriving.finish)
        self._check(arriving.cluster_id)
        self._member.step([message])
        if not self._member.replica.node.installs(snapshot):
            await asyncio.to_thread(arriving.drop)  # it was not needed

    async def Renew(self, request: Any, _call: Any) -> Any:
        self._require_leader()
        return raft_pb2.RenewResponse(remaining_s=await self._leader.renew_here(request))

    async def Recall(self, request: Any, _call: Any) -> Any:
        """Whether the member of the request has taken part in this cluster before."""
        self._check(request.cluster_id)
        replica = self._member.replica
        progress = replica.node.progress.get(request.member)
        has_acknowledged = progress is not None and progress.match > 0
        return raft_pb2.RecallResponse(
            is_known=has_acknowledged or request.member in replica.machine.attributes,
            is_removed=self._transport.is_removed(request.member),
        )

    async def Join(self, request: Any, _call: Any) -> Any:
        return await self._joins.answer(request)

    async def Change(self, request: Any, _call: Any) -> Any:
        self._check(request.cluster_id)
        self._require_leader()
        return await self._leader.change_here(request)

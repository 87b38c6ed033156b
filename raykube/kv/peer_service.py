# ruff: noqa: N802 - methods are named like the RPCs
"""The Peer service: takes in what other members send."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv import wire
from raykube.kv.at_leader import NOT_LEADER, AtLeader
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.incoming import Incoming
from raykube.kv.joins import Joins
from raykube.kv.member import Member
from raykube.kv.stored_snapshot import Arriving
from raykube.kv.transport import Transport
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.handlers import Receiver
from raykube.rpc.served_call import Requests


class PeerService:
    """Answers the other members of one member's cluster; those of other clusters are refused."""

    def __init__(self, member: Member, transport: Transport, leader: AtLeader) -> None:
        self._member = member
        self._transport = transport
        self._leader = leader
        self._joins = Joins(member)
        self._inbound: dict[int, Incoming] = {}
        self._settled: Membership | None = None
        member.on_applied.append(self._tell_removed)

    def _tell_removed(self) -> None:
        """Ends the streams of those who were removed: a learner, which may hear nothing of it, would ask nobody."""
        settled = self._member.replica.node.settled
        if settled is self._settled:
            return
        self._settled = settled
        for sender in settled.removed & self._inbound.keys():
            self._inbound[sender].tell_removed()

    def _require_leader(self) -> None:
        if not self._member.replica.node.is_leader:
            raise RpcError(Code.UNAVAILABLE, NOT_LEADER)

    def Stream(self, requests: Requests, _call: Any) -> Receiver:
        return Incoming(self._member, self._transport, self._inbound, requests)

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
                self._member.require_cluster(chunk.cluster_id)
                message = wire.decode(chunk.message)
            await asyncio.to_thread(arriving.write, chunk.data)
        if message is None or message.kind is not Kind.SNAPSHOT:
            raise RpcError(Code.INVALID_ARGUMENT, "not a snapshot message")
        snapshot = message.snapshot = await asyncio.to_thread(arriving.finish)
        self._member.require_cluster(arriving.cluster_id)
        self._member.step([message])
        if not self._member.replica.node.installs(snapshot):
            await asyncio.to_thread(arriving.drop)  # it was not needed

    async def Renew(self, request: Any, _call: Any) -> Any:
        self._require_leader()
        return raft_pb2.RenewResponse(remaining_s=await self._leader.renew_here(request))

    async def Recall(self, request: Any, _call: Any) -> Any:
        """Whether the member of the request has taken part in this cluster before."""
        self._member.require_cluster(request.cluster_id)
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
        self._member.require_cluster(request.cluster_id)
        self._require_leader()
        return await self._leader.change_here(request)

# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Election service: the leader is who contends for a name and was first; what he says is his key's value."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv.contenders import Contenders, Place, created, end_of, prefix_of
from raykube.kv.core.mvcc.version import to_kv
from raykube.kv.watch_service import WatchService
from raykube.pb import election_pb2, etcd_pb2
from raykube.rpc import Code, RpcError


class ElectionService:
    """Answers election requests at any member."""

    def __init__(self, contenders: Contenders, watch: WatchService) -> None:
        self._contenders = contenders
        self._watch = watch

    async def Campaign(self, request: Any, _call: Any) -> Any:
        place = await self._contenders.enter(request.name, request.lease, request.value)
        leader = election_pb2.LeaderKey(name=request.name, key=place.key, rev=place.revision, lease=place.lease)
        await self._contenders.or_leave(place, self._elected(request, leader, place))
        return election_pb2.CampaignResponse(header=place.header, leader=leader)

    async def _elected(self, request: Any, leader: Any, place: Place) -> None:
        if place.value != request.value:
            await self._proclaim(leader, request.value)
        await self._contenders.wait(request.name, place)

    async def Proclaim(self, request: Any, _call: Any) -> Any:
        return election_pb2.ProclaimResponse(header=await self._proclaim(_leader_of(request), request.value))

    async def _proclaim(self, leader: Any, value: bytes) -> Any:
        put = etcd_pb2.PutRequest(key=leader.key, value=value, lease=leader.lease)
        done = await self._contenders.transact(
            etcd_pb2.TxnRequest(
                compare=[created(leader.key, leader.rev)], success=[etcd_pb2.RequestOp(request_put=put)]
            )
        )
        if not done.succeeded:
            raise RpcError(Code.UNKNOWN, "election: not leader")
        return done.header

    async def Leader(self, request: Any, _call: Any) -> Any:
        found = await self._contenders.first(request.name)
        if not found.kvs:
            raise RpcError(Code.UNKNOWN, "election: no leader")
        return election_pb2.LeaderResponse(header=found.header, kv=found.kvs[0])

    async def Observe(self, request: Any, _call: Any) -> AsyncIterator[Any]:
        """Who leads and what he says: now, and after each change. While nobody leads, nothing comes."""
        prefix = prefix_of(request.name)
        while True:
            found = await self._contenders.first(request.name)
            if found.kvs:
                key, seen = found.kvs[0].key, found.header.revision
                yield election_pb2.LeaderResponse(header=found.header, kv=found.kvs[0])
            else:
                key, seen = b"", found.header.revision
            versions = self._watch.versions(key or prefix, b"" if key else end_of(prefix), seen + 1)
            async with contextlib.aclosing(versions):
                async for version in versions:
                    if not key or version.value is None:
                        break  # the first contender there is, or the leader left: who leads now?
                    header = self._watch.header()
                    header.revision = version.mod
                    yield election_pb2.LeaderResponse(header=header, kv=to_kv(version))

    async def Resign(self, request: Any, _call: Any) -> Any:
        leader = _leader_of(request)
        return election_pb2.ResignResponse(header=(await self._contenders.leave(leader.key, leader.rev)).header)


def _leader_of(request: Any) -> Any:
    """Raises RpcError where there is none."""
    if not request.HasField("leader"):
        raise RpcError(Code.UNKNOWN, '"leader" field must be provided')
    return request.leader

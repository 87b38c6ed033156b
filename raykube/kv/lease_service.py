# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Lease service. Grants and revocations go through the log; renewals are the leader's alone."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv.at_leader import AtLeader
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.kv_service import Stamp
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.pb import etcd_pb2, raft_pb2
from raykube.rpc import Code, RpcError

TTL_S_MAX = 9_000_000_000
ELECTION_TIMEOUTS_MIN = 1.5  # a lease must outlive an election


class LeaseService:
    """Answers lease requests at any member."""

    def __init__(self, member: Member, leader: AtLeader, admission: Admission, election_timeout_s: float) -> None:
        self._member = member
        self._admission = admission
        self._leader = leader
        self._ttl_s_min = max(1, -int(-election_timeout_s * ELECTION_TIMEOUTS_MIN // 1))
        self._stamp = Stamp(member)

    async def LeaseGrant(self, request: Any, _call: Any) -> Any:
        if request.TTL > TTL_S_MAX:
            raise RpcError(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
        self._admission.check_write(0, 0)
        grant = etcd_pb2.LeaseGrantRequest(
            TTL=max(request.TTL, self._ttl_s_min), ID=request.ID or secrets.randbits(62) | 1
        )
        return self._stamp(await self._member.propose(Command.LEASE_GRANT, grant.SerializeToString()))

    async def LeaseRevoke(self, request: Any, _call: Any) -> Any:
        return self._stamp(await self._member.propose(Command.LEASE_REVOKE, request.SerializeToString()))

    async def LeaseKeepAlive(self, requests: AsyncIterator[Any], _call: Any) -> AsyncIterator[Any]:
        async for request in requests:
            remaining_s = await self._leader.renew(raft_pb2.RenewRequest(id=request.ID))
            # etcd says "no such lease" with a TTL of 0.
            response = etcd_pb2.LeaseKeepAliveResponse(ID=request.ID, TTL=max(0, remaining_s))
            response.header.revision = self._member.store.revision
            yield self._stamp(response)

    async def LeaseTimeToLive(self, request: Any, _call: Any) -> Any:
        await self._member.read()
        self._member.require_sound()
        lease = self._member.store.leases.get(request.ID)
        response = etcd_pb2.LeaseTimeToLiveResponse(ID=request.ID, TTL=-1)
        if lease is not None:
            response.TTL = await self._leader.renew(raft_pb2.RenewRequest(id=request.ID, only_ask=True))
            response.grantedTTL = lease.ttl_s
            if request.keys:
                response.keys.extend(sorted(lease.keys))
        return self._stamp(response)

    async def LeaseLeases(self, _request: Any, _call: Any) -> Any:
        await self._member.read()
        self._member.require_sound()
        return self._stamp(
            etcd_pb2.LeaseLeasesResponse(
                leases=[etcd_pb2.LeaseStatus(ID=lease) for lease in sorted(self._member.store.leases)]
            )
        )

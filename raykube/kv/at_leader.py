"""What only the leader can do, for clients of any member: renew a lease, change the membership."""

import asyncio
import contextlib
import time
from typing import Any

from raykube.kv.core.member_changes import AddMember, Change, Changed, PromoteMember, RemoveMember, UpdateMember
from raykube.kv.member import Member
from raykube.kv.transport import Transport
from raykube.kv.waiters import REQUEST_TIMEOUT_S
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError

RENEW_TIMEOUT_S = 5.0
RETRY_S = 0.05
NOT_LEADER = "etcdserver: not leader"
NO_LEADER = "etcdserver: no leader"


def change_of(request: Any) -> Change:
    """The change that a `ChangeRequest` asks for. Raises RpcError."""
    match request.WhichOneof("change"):
        case "add":
            return AddMember(tuple(request.add.peer_urls), request.add.learner, time.time_ns())
        case "remove":
            return RemoveMember(request.remove.id)
        case "update":
            return UpdateMember(request.update.id, tuple(request.update.peer_urls))
        case "promote":
            return PromoteMember(request.promote.id)
    raise RpcError(Code.INVALID_ARGUMENT, "no change given")


class AtLeader:
    """Does it here when this member leads, and asks the leader otherwise."""

    def __init__(self, member: Member, transport: Transport) -> None:
        self._member = member
        self._transport = transport

    # ---- leases

    async def renew(self, request: Any) -> int:
        """Renews a lease, or asks for its time; seconds left, -1 for no such lease. Raises RpcError."""
        deadline = time.monotonic() + RENEW_TIMEOUT_S
        while True:
            if self._member.replica.node.is_leader:
                return await self.renew_here(request)
            stub = self._transport.leader()
            if stub is not None:
                with contextlib.suppress(RpcError):
                    answer = await stub.Renew(request, timeout=max(0.1, deadline - time.monotonic()))
                    return int(answer.remaining_s)
            if time.monotonic() > deadline:
                raise RpcError(Code.UNAVAILABLE, NO_LEADER)
            await asyncio.sleep(RETRY_S)

    async def renew_here(self, request: Any) -> int:
        """As leader. A grant may be acknowledged and not applied here yet: only after a read index it is missing."""
        replica = self._member.replica
        clock = replica.lease_clock

        def is_going() -> bool:
            return clock.is_over(request.id) and request.id in replica.machine.store.leases

        # Its revocation is in the log: too late to renew, and not yet gone.
        if not request.only_ask and not await self._member.until(lambda: not is_going(), RENEW_TIMEOUT_S):
            raise RpcError(Code.UNAVAILABLE, "etcdserver: request timed out")
        if clock.remaining_s(request.id, time.monotonic()) is None:
            await self._member.read()
        if not request.only_ask and replica.renew(request.id):
            # Proves that this member still leads, and that no earlier leader's revocation was waiting in its log.
            await self._member.read()
        lease = replica.machine.store.leases.get(request.id)
        if lease is None:
            return -1
        if not replica.node.is_leader:
            raise RpcError(Code.UNAVAILABLE, NOT_LEADER)
        if not request.only_ask:
            return lease.ttl_s
        remaining_s = clock.remaining_s(lease.id, time.monotonic())
        return int(lease.ttl_s if remaining_s is None else remaining_s)  # without a deadline yet: it begins just now

    # ---- the membership

    async def change(self, request: Any) -> Any:
        """Carries out a `ChangeRequest`; returns when it is applied at the leader, and here if that comes soon.

        Raises RpcError: etcd's refusals; DEADLINE_EXCEEDED, and UNAVAILABLE with a lost connection, leave it unknown.
        """
        request.cluster_id = self._member.cluster_id
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                answer = await self._change_once(request, max(0.1, deadline - time.monotonic()))
            except RpcError as error:
                # This one is certain: nothing was done, and there may be a leader soon.
                if error.message not in (NOT_LEADER, NO_LEADER) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            await self._applied(answer.index)
            return answer

    async def _applied(self, index: int) -> None:
        await self._member.until(lambda: self._member.replica.applied >= index, 1.0)

    async def _change_once(self, request: Any, timeout_s: float) -> Any:
        if self._member.replica.node.is_leader:
            return await self.change_here(request, timeout_s)
        stub = self._transport.leader()
        if stub is None:
            raise RpcError(Code.UNAVAILABLE, NO_LEADER)
        try:
            return await stub.Change(request, timeout=timeout_s)
        except RpcError as error:
            if error.message.startswith("etcdserver:"):
                raise
            if error.code is Code.DEADLINE_EXCEEDED:
                raise RpcError(error.code, "etcdserver: request timed out") from None
            lost = "etcdserver: request timed out, possibly due to connection lost"
            raise RpcError(Code.UNAVAILABLE, lost) from None

    async def change_here(self, request: Any, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        """As leader; returns a `ChangeResponse`. Raises RpcError."""
        changed: Changed = await self._member.change_members(change_of(request), timeout_s)
        membership = raft_pb2.Membership.FromString(changed.membership.encode())
        return raft_pb2.ChangeResponse(member_id=changed.member, index=changed.index, membership=membership)

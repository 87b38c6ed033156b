# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Cluster service: who the members are, and changes of that, at any member."""

from typing import Any

from raykube.kv.at_leader import AtLeader
from raykube.kv.core.raft.membership import Member as Record
from raykube.kv.core.raft.membership import Membership
from raykube.kv.kv_service import Stamp
from raykube.kv.member import Member
from raykube.pb import etcd_pb2, raft_pb2


class ClusterService:
    """Answers for the membership as this member applied it."""

    def __init__(self, member: Member, leader: AtLeader) -> None:
        self._member = member
        self._leader = leader
        self._stamp = Stamp(member)

    def _record(self, record: Record) -> Any:
        attributes = self._member.replica.machine.attributes.get(record.id)
        return etcd_pb2.Member(
            ID=record.id,
            name=attributes.name if attributes else "",  # as etcd: a member without a name has not started yet
            peerURLs=list(record.peer_urls),
            clientURLs=attributes.client_urls if attributes else [],
            isLearner=record.learner,
        )

    async def MemberList(self, request: Any, _call: Any) -> Any:
        if request.linearizable:
            await self._member.read()
        members = self._member.replica.membership.members
        return self._stamp(etcd_pb2.MemberListResponse(members=[self._record(record) for record in members]))

    async def _change(self, **change: Any) -> tuple[Any, list[Any]]:
        """Carries out a change; returns the leader's answer, and all members after it."""
        answer = await self._leader.change(raft_pb2.ChangeRequest(**change))
        members = Membership.decode(answer.membership.SerializeToString()).members
        return answer, [self._record(record) for record in members]

    async def MemberAdd(self, request: Any, _call: Any) -> Any:
        add = raft_pb2.AddMember(peer_urls=request.peerURLs, learner=request.isLearner)
        answer, members = await self._change(add=add)
        added = next(member for member in members if answer.member_id == member.ID)
        return self._stamp(etcd_pb2.MemberAddResponse(member=added, members=members))

    async def MemberRemove(self, request: Any, _call: Any) -> Any:
        _, members = await self._change(remove=raft_pb2.RemoveMember(id=request.ID))
        return self._stamp(etcd_pb2.MemberRemoveResponse(members=members))

    async def MemberUpdate(self, request: Any, _call: Any) -> Any:
        update = raft_pb2.UpdateMember(id=request.ID, peer_urls=request.peerURLs)
        _, members = await self._change(update=update)
        return self._stamp(etcd_pb2.MemberUpdateResponse(members=members))

    async def MemberPromote(self, request: Any, _call: Any) -> Any:
        _, members = await self._change(promote=raft_pb2.PromoteMember(id=request.ID))
        return self._stamp(etcd_pb2.MemberPromoteResponse(members=members))

# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Cluster service: who the members are."""

from typing import Any

from raykube.kv.core.raft.membership import Member as Record
from raykube.kv.kv_service import Stamp
from raykube.kv.member import Member
from raykube.pb import etcd_pb2


class ClusterService:
    """Answers for the membership as this member applied it."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._stamp = Stamp(member)

    def _record(self, record: Record) -> Any:
        attributes = self._member.replica.machine.attributes.get(record.id)
        return etcd_pb2.Member(
            ID=record.id,
            name=attributes.name if attributes else "",  # as etcd: a member without a name has not started yet
            peerURLs=record.peer_urls,
            clientURLs=attributes.client_urls if attributes else [],
            isLearner=record.learner,
        )

    async def MemberList(self, request: Any, _call: Any) -> Any:
        if request.linearizable:
            await self._member.read_index()
        members = self._member.replica.node.membership.members
        return self._stamp(etcd_pb2.MemberListResponse(members=[self._record(record) for record in members]))

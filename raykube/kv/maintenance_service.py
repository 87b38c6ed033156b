# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Maintenance service: how this member is, and a copy of all it holds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from raykube.kv.core import backup, snapshot_codec
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.kv_service import Stamp, refused
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.kv.waiters import REQUEST_TIMEOUT_S
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError

# The API level that clients may expect. kube-apiserver asks for the progress of watches (RequestWatchProgress) where it
# finds 3.5.13 or later, as earlier ones of etcd could tell of it too soon. Ours does not (`watch_service.py`).
ETCD_VERSION = "3.5.21"
SNAPSHOT_BLOB_BYTES = 32 << 10  # as etcd's: clients count on messages far below their limit


class MaintenanceService:
    """Answers about this member."""

    def __init__(self, member: Member, admission: Admission) -> None:
        self._member = member
        self._admission = admission
        self._stamp = Stamp(member)
        self._hashing = asyncio.Lock()  # one at a time: meanwhile the store gives nothing back

    async def Status(self, _request: Any, _call: Any) -> Any:
        member = self._member
        node, store = member.replica.node, member.store
        own = [record for record in node.membership.members if record.id == member.id]
        return self._stamp(
            etcd_pb2.StatusResponse(
                version=ETCD_VERSION,
                dbSize=store.bytes_stored,
                dbSizeInUse=store.bytes_stored,
                leader=node.leader,
                raftIndex=node.log.committed,
                raftTerm=node.term,
                raftAppliedIndex=member.replica.applied,
                errors=([] if node.leader else ["etcdserver: no leader"]) + [_text(alarm) for alarm in self._alarms()],
                isLearner=bool(own and own[0].learner),
            )
        )

    def _alarms(self) -> list[Any]:
        alarms = []
        if self._admission.is_full:
            full_member = self._admission.full_member or self._member.id
            alarms.append(etcd_pb2.AlarmMember(memberID=full_member, alarm=etcd_pb2.NOSPACE))
        membership, vouching = self._member.replica.membership, self._member.replica.machine.vouching
        # In a dispute any of them may be wrong.
        suspects = membership.voters if vouching.disputed else vouching.fenced.keys() & set(membership.ids)
        alarms += [etcd_pb2.AlarmMember(memberID=member, alarm=etcd_pb2.CORRUPT) for member in sorted(suspects)]
        return alarms

    async def Alarm(self, request: Any, _call: Any) -> Any:
        """All alarms of the kind that is asked for. They raise and clear themselves, whatever the action."""
        alarms = [alarm for alarm in self._alarms() if request.alarm in (etcd_pb2.NONE, alarm.alarm)]
        return self._stamp(etcd_pb2.AlarmResponse(alarms=alarms))

    async def HashKV(self, request: Any, _call: Any) -> Any:
        async with self._hashing:
            store = self._member.store
            response = etcd_pb2.HashKVResponse(compact_revision=store.compact_revision)
            response.header.revision = store.revision
            response.hash = await self._hash(request.revision)
        return self._stamp(response)

    async def Hash(self, _request: Any, _call: Any) -> Any:
        """A checksum of all this member can be asked for, at its present revision."""
        async with self._hashing:
            return self._stamp(etcd_pb2.HashResponse(hash=await self._hash(0)))

    async def _hash(self, revision: int) -> int:
        store = self._member.store
        try:
            last = store.hashed_revision(revision)
        except StoreError as error:
            raise refused(error) from None
        picture = store.capture()
        try:
            return await asyncio.to_thread(picture.hash, last)
        finally:
            picture.forget()

    async def Snapshot(self, _request: Any, _call: Any) -> AsyncIterator[Any]:
        """A backup (`core/backup.py`) of what this member has applied now, whether or not there is a leader."""
        snapshot, image = await self._member.picture()

        def measure() -> int:
            head_bytes = len(snapshot.membership.encode())
            return snapshot_codec.FRAMING_BYTES + head_bytes + image.size

        try:
            size = await asyncio.to_thread(measure)
        finally:
            image.forget()  # what is measured is complete
        remaining = backup.wrapped_size(size)
        pieces = backup.wrap(snapshot_codec.encode(snapshot, self._member.cluster_id, image.chunks()), size)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            for offset in range(0, len(piece), SNAPSHOT_BLOB_BYTES):
                blob = piece[offset : offset + SNAPSHOT_BLOB_BYTES]
                remaining = max(0, remaining - len(blob))  # the sum comes last, and is not counted
                yield self._stamp(etcd_pb2.SnapshotResponse(remaining_bytes=remaining, blob=blob))

    async def Defragment(self, _request: Any, _call: Any) -> Any:
        """There is nothing to do: memory is given back as compaction goes."""
        return self._stamp(etcd_pb2.DefragmentResponse())

    async def MoveLeader(self, request: Any, _call: Any) -> Any:
        node = self._member.replica.node
        if not node.is_leader:
            raise RpcError(Code.FAILED_PRECONDITION, "etcdserver: not leader")
        if request.targetID not in node.membership.voters:
            raise RpcError(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
        if request.targetID != self._member.id and not await self._member.transfer(request.targetID, REQUEST_TIMEOUT_S):
            raise RpcError(Code.UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long")
        return self._stamp(etcd_pb2.MoveLeaderResponse())


def _text(alarm: Any) -> str:
    """As etcd writes it among a status' errors."""
    return f"memberID:{alarm.memberID} alarm:{etcd_pb2.AlarmType.Name(alarm.alarm)} "

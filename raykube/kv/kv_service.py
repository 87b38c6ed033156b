# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's KV service."""

import asyncio
from collections.abc import Callable
from typing import Any

from raykube.base.encoded import Encoded
from raykube.kv.core.mvcc import txn
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.kv.waiters import Finish
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError


class Stamp:
    """Writes into response headers who answers."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._seal = etcd_pb2.ResponseHeader(cluster_id=member.cluster_id, member_id=member.id)
        self._term = 0
        self._put = etcd_pb2.PutResponse()  # the last plain one: within a term, only the revision changes

    def __call__(self, response: Any) -> Any:
        term = self._member.replica.node.term
        if term != self._term:
            self._term = self._seal.raft_term = term
        header = response.header
        header.MergeFrom(self._seal)
        if not header.revision:
            header.revision = self._member.store.revision
        return response

    def put(self, outcome: Any) -> Any:
        """The response to a put, out of what `txn.put` returned; it may be `Encoded`."""
        if not isinstance(outcome, int):
            return self(outcome)
        header = self._put.header
        if header.raft_term != self._member.replica.node.term:
            header.Clear()
            self(self._put)
        header.revision = outcome
        return Encoded(self._put.SerializeToString())


def refused(error: StoreError) -> RpcError:
    return RpcError(Code[error.code], error.message)


class KvService:
    """Ranges are served here after a read index; the rest goes through the log. Answers are `Pending`: a task for each
    call would cost more than the rest of it."""

    def __init__(self, member: Member, admission: Admission, request_bytes_max: int, operations_max: int) -> None:
        self._member = member
        self._admission = admission
        self._bytes_max = request_bytes_max
        self._operations_max = operations_max
        self._stamp = Stamp(member)

    def Range(self, request: Any, _call: Any) -> Any:
        try:
            txn.check_range(request)
        except StoreError as error:
            raise refused(error) from None
        if request.range_end and not request.count_only:
            return self._read_many(request)

        def read(_: None) -> Any:
            self._member.require_sound()
            return self._stamp(txn.read(self._member.store, request))

        return self._read(read, request.serializable)

    def _read(self, read: Finish, serializable: bool) -> Any:
        """What `read` returns: at once, or as soon as this member has all that was acknowledged."""
        if not serializable:
            return self._member.submit_read(read)
        try:
            return read(None)
        except StoreError as error:
            raise refused(error) from None

    async def _read_many(self, request: Any) -> Any:
        """As `Range`, for perhaps a million keys: what was found is encoded beside the loop, which others wait for."""

        def select(_: None) -> txn.Selection:
            self._member.require_sound()
            return txn.select(self._member.store, request)

        if request.serializable:
            try:
                found = select(None)
            except StoreError as error:
                raise refused(error) from None
        else:
            found = await self._member.read(select)
        if len(found.versions) <= txn.PIECE_VERSIONS:
            return self._stamp(found.response())
        head = self._stamp(found.head).SerializeToString()
        return Encoded(await asyncio.to_thread(lambda: b"".join((head, *found.pieces()))))

    def Put(self, request: Any, _call: Any) -> Any:
        try:
            txn.check_put(request)
        except StoreError as error:
            raise refused(error) from None
        return self._write(Command.PUT, request, self._stamp.put)

    def DeleteRange(self, request: Any, _call: Any) -> Any:
        if not request.key:
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
        # Deleting is how room is made: never refused for the quota.
        body = request.SerializeToString()
        self._admission.check_size(len(body), self._bytes_max)
        return self._member.submit(Command.DELETE_RANGE, body, self._stamp)

    def Txn(self, request: Any, _call: Any) -> Any:
        try:
            txn.check_txn(request, self._operations_max)
        except StoreError as error:
            raise refused(error) from None

        def read(_: None) -> Any:
            self._member.require_sound()
            return self._stamp(txn.transact(self._member.store, request))

        if txn.is_read_only(request):
            return self._read(read, txn.is_serializable(request))
        return self._write(Command.TXN, request, self._stamp, lambda: txn.puts(request))

    def Compact(self, request: Any, _call: Any) -> Any:
        return self._member.submit(Command.COMPACT, request.SerializeToString(), self._stamp)

    def _write(self, command: Command, request: Any, finish: Finish, adds: Callable[[], bool] = lambda: True) -> Any:
        body = request.SerializeToString()
        self._admission.check_write(len(body), self._bytes_max, adds)
        return self._member.submit(command, body, finish)

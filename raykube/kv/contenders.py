"""Those who contend for a name: what etcd's locks and elections have in common.

A contender has a key `NAME/LEASE`, the lease in hexadecimal, which goes with the lease. Whose key was created first has
the name, the others wait until what was created before theirs is gone: nobody is woken but by the one before him.
These are the keys of etcd's Go client, too, and of `etcdctl lock` and `elect`: all contend with each other.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from raykube.kv.at_leader import AtLeader
from raykube.kv.core.mvcc import txn
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.kv_service import Stamp
from raykube.kv.limits import Admission
from raykube.kv.member import Member
from raykube.kv.watch_service import WatchService
from raykube.pb import etcd_pb2, raft_pb2
from raykube.rpc import Code, RpcError

TTL_S = 60  # of the lease of who brings none, as etcd's; he has to renew it
_OPERATIONS_MAX = 2
# What etcd's services say of themselves, with its code; of a refusal only the words, as they ask through a client.
_WITH_CODE = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)

Range = etcd_pb2.RangeRequest
Op = etcd_pb2.RequestOp


@dataclass(frozen=True, slots=True)
class Place:
    """A contender's: his key and the revision that created it. `value`: what it holds."""

    key: bytes
    revision: int
    lease: int
    value: bytes
    is_new: bool  # the key was not there before
    header: Any


def prefix_of(name: bytes) -> bytes:
    """How the keys of those who contend for a name begin."""
    return name + b"/"


def end_of(prefix: bytes) -> bytes:
    """Where the keys end that begin with a `prefix_of` something."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _range(prefix: bytes, order: etcd_pb2.RangeRequest.SortOrder, below: int = 0) -> Range:
    """The first key of `prefix` by `order` of creation; of those created before revision `below`, if given."""
    return Range(
        key=prefix,
        range_end=end_of(prefix),
        limit=1,
        sort_order=order,
        sort_target=Range.CREATE,
        max_create_revision=max(0, below - 1),
    )


def created(key: bytes, revision: int) -> etcd_pb2.Compare:
    """That `key` is the one which was created at `revision`; 0: that there is none."""
    return etcd_pb2.Compare(key=key, target=etcd_pb2.Compare.CREATE, create_revision=revision)


class Contenders:
    """Contends for names on behalf of calls, at any member."""

    def __init__(
        self, member: Member, watch: WatchService, leases: Any, leader: AtLeader, admission: Admission, bytes_max: int
    ) -> None:
        self._member = member
        self._watch = watch
        self._leases = leases  # etcd's Lease service
        self._leader = leader
        self._admission = admission
        self._bytes_max = bytes_max
        self._stamp = Stamp(member)
        self._leaving: set[asyncio.Task[None]] = set()

    async def enter(self, name: bytes, lease: int, value: bytes) -> Place:
        """Puts the key of a contender; who had one keeps it, and its value. Raises RpcError."""
        if lease:
            await self._leader.renew(raft_pb2.RenewRequest(id=lease))  # one that is none is refused below
        else:
            lease = (await self._leases.LeaseGrant(etcd_pb2.LeaseGrantRequest(TTL=TTL_S), None)).ID
        key = prefix_of(name) + b"%x" % lease
        done = await self.transact(
            etcd_pb2.TxnRequest(
                compare=[created(key, 0)],
                success=[Op(request_put=etcd_pb2.PutRequest(key=key, value=value, lease=lease))],
                failure=[Op(request_range=Range(key=key))],
            )
        )
        if done.succeeded:
            return Place(key, done.header.revision, lease, value, True, done.header)
        found = done.responses[0].response_range.kvs[0]
        return Place(key, found.create_revision, lease, found.value, False, done.header)

    async def first(self, name: bytes) -> Any:
        """A RangeResponse with the key of who has the name, if anybody has."""
        return await self._read(_range(prefix_of(name), Range.ASCEND))

    async def wait(self, name: bytes, place: Place) -> None:
        """Returns once nobody is before `place`. Raises RpcError."""
        before = _range(prefix_of(name), Range.DESCEND, place.revision)
        while True:
            found = await self._read(before)
            if not found.kvs:
                return
            versions = self._watch.versions(found.kvs[0].key, b"", found.header.revision + 1)
            async with contextlib.aclosing(versions):
                async for version in versions:
                    if version.value is None:
                        break

    async def standing(self, place: Place) -> Any:
        """A RangeResponse with the contender's key, if it is there still."""
        return await self._read(Range(key=place.key))

    async def leave(self, key: bytes, revision: int) -> Any:
        """Deletes a contender's key, if it is the one that was created at `revision`; the TxnResponse."""
        delete = etcd_pb2.DeleteRangeRequest(key=key)
        return await self.transact(
            etcd_pb2.TxnRequest(compare=[created(key, revision)], success=[Op(request_delete_range=delete)])
        )

    async def or_leave(self, place: Place, waiting: Awaitable[Any]) -> Any:
        """What `waiting` gives. Who gives up while he waits, or fails, does not stay in the others' way: also where his
        key is of a call before this one, whose member stopped."""
        try:
            return await waiting
        except BaseException:
            self._later(self.leave(place.key, place.revision))
            raise

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        async def tried() -> None:
            with contextlib.suppress(RpcError):  # his lease ends it
                await work

        task = asyncio.create_task(tried())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def remove(self, key: bytes) -> Any:
        """Deletes a key, whoever's it is; the DeleteRangeResponse. Raises RpcError."""
        if not key:
            raise RpcError(Code.UNKNOWN, "etcdserver: key is not provided")
        return await self._propose(Command.DELETE_RANGE, etcd_pb2.DeleteRangeRequest(key=key), lambda: False)

    async def transact(self, request: etcd_pb2.TxnRequest) -> Any:
        """The TxnResponse. Raises RpcError."""
        try:
            txn.check_txn(request, _OPERATIONS_MAX)
        except StoreError as error:
            raise RpcError(Code.UNKNOWN, error.message) from None
        return await self._propose(Command.TXN, request, lambda: txn.puts(request))

    async def _propose(self, command: Command, request: Any, adds: Callable[[], bool]) -> Any:
        body = request.SerializeToString()
        try:
            self._admission.check_write(len(body), self._bytes_max, adds)
            return self._stamp(await self._member.propose(command, body))
        except RpcError as error:
            raise error if error.code in _WITH_CODE else RpcError(Code.UNKNOWN, error.message) from None

    async def _read(self, request: Range) -> Any:
        def read(_: None) -> Any:
            self._member.require_sound()
            return self._stamp(txn.read(self._member.store, request))

        return await self._member.read(read)

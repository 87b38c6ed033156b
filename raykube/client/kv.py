"""Client of the store: batched writes and linearizable reads on one stream, ranges, watches that resume, leases.

    client = KvClient(["127.0.0.1:2379"])
    results = await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
    async for batch in client.watch(b"/", b"0", start_revision=results[0].revision):
        ...  # batch.events, batch.revision

All writers, and readers of revisions, share one stream to one member (`kv_stream.py`). A member that dies is replaced
by the next endpoint. What surely did not happen is tried again until `timeout_s`; a write whose fate is unknown (its
member died with it) raises `UnknownOutcome`, and only a read can tell.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from raykube.client.kv_stream import RETRY_S, BatchStream, Endpoint, UnknownOutcome
from raykube.pb import batch_pb2, etcd_pb2, mvcc_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import once

log = logging.getLogger(__name__)

ETCD = etcd_pb2.DESCRIPTOR.services_by_name

CALL_TIMEOUT_S = 10.0
MEMBERS_PERIOD_S = 10.0
# A member without a leader ends a stream that asks so. One that is cut off from the others answers pings as ever, and
# would keep a watch for as long without an event.
_LED = (("hasleader", "true"),)


class Compacted(Exception):
    """The events that a watch asked for are forgotten: list again, and watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the store is compacted up to revision {revision}")
        self.revision = revision


class WatchBatch(NamedTuple):
    """Events in order of revision, never part of a revision's; nothing up to `revision` is missing then.

    With no events it is a sign of progress.
    """

    events: Sequence[mvcc_pb2.Event]
    revision: int


class KvClient:
    """A client of all members at once. `endpoints` are `host:port`, or etcd's `http(s)://host:port`."""

    def __init__(self, endpoints: list[str], tls: Tls | None = None) -> None:
        if not endpoints:
            raise ValueError("no endpoints of the store are given")
        self._tls = tls
        self._given = {_address(endpoint) for endpoint in endpoints}
        self._endpoints = [Endpoint(address, tls) for address in dict.fromkeys(map(_address, endpoints))]
        self._stream = BatchStream(self._endpoints)
        self._is_closed = False

    # ---- who the members are

    @property
    def addresses(self) -> list[str]:
        """Where this client looks for members now."""
        return [endpoint.address for endpoint in self._endpoints]

    async def follow_members(self) -> None:
        """Goes on for ever: members that joined are used, and no more when they have left again."""
        while True:
            await asyncio.sleep(MEMBERS_PERIOD_S)
            try:
                await self.learn_members()
            except RpcError as error:
                log.info("the store's members are not known anew: %s", error)

    async def learn_members(self) -> None:
        """Asks any member who the members are. The endpoints that were given stay: what members advertise need not be
        how this client reaches them. Raises RpcError."""
        response = await self.call("Cluster", "MemberList", etcd_pb2.MemberListRequest())
        # A learner answers few requests; a member without addresses has not started yet.
        found = {_address(url) for member in response.members if not member.isLearner for url in member.clientURLs[:1]}
        wanted = self._given | found
        gone = [endpoint for endpoint in self._endpoints if endpoint.address not in wanted]
        fresh = [Endpoint(address, self._tls) for address in sorted(wanted - set(self.addresses))]
        if gone or fresh:
            self._stream.replace(gone, fresh)
            log.info("members of the store are looked for at %s", ", ".join(self.addresses))
        for endpoint in gone:
            await endpoint.close()

    # ---- writes and linearizable revisions, on the stream

    async def write(
        self, writes: Sequence[batch_pb2.Write], timeout_s: float = CALL_TIMEOUT_S
    ) -> list[batch_pb2.WriteResult]:
        """Carries out `writes` in order; a result for each. A failed comparison does not stop the others.

        Raises UnknownOutcome, or RpcError when surely nothing was written.
        """
        if not writes:
            return []
        return await self._stream.write(writes, timeout_s)

    async def current_revision(self, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """A revision that has everything acknowledged before the call. Callers of one moment share one question."""
        return await self._stream.current_revision(timeout_s)

    # ---- single calls

    async def call(
        self, service: str, method: str, request: Any, timeout_s: float = CALL_TIMEOUT_S, retry: bool = True
    ) -> Any:
        """A method of etcd's API at any member. With `retry`, tried at others until `timeout_s`: safe for reads only.

        Raises RpcError.
        """

        async def once_at(endpoint: Endpoint, remaining_s: float) -> Any:
            return await getattr(endpoint.stub(ETCD[service]), method)(request, timeout=remaining_s)

        return await self._at_any(once_at, timeout_s, retry)

    async def _at_any(self, run: Callable[[Endpoint, float], Awaitable[Any]], timeout_s: float, retry: bool) -> Any:
        deadline = time.monotonic() + timeout_s
        number = self._stream.current
        while True:
            remaining_s = deadline - time.monotonic()
            try:
                # Leave time to ask another one.
                share_s = remaining_s if not retry or len(self._endpoints) == 1 else max(1.0, remaining_s / 2)
                return await run(self._endpoints[number % len(self._endpoints)], share_s)
            except RpcError as error:
                is_passing = error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
                if not retry or not is_passing or deadline - time.monotonic() < RETRY_S:
                    raise
            number += 1
            await asyncio.sleep(RETRY_S)

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        revision: int = 0,
        limit: int = 0,
        *,
        keys_only: bool = False,
        count_only: bool = False,
        serializable: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> etcd_pb2.RangeResponse:
        """etcd's range: the key, or [key, range_end), at a revision (0: now, linearizable). Raises RpcError."""
        request = etcd_pb2.RangeRequest(
            key=key,
            range_end=range_end,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
        )
        response: etcd_pb2.RangeResponse = await self.call("KV", "Range", request, timeout_s)
        return response

    async def compact(self, revision: int) -> None:
        """Forgets history before `revision`. Raises RpcError."""
        await self.call("KV", "Compact", etcd_pb2.CompactionRequest(revision=revision))

    async def txn(self, request: etcd_pb2.TxnRequest, timeout_s: float = CALL_TIMEOUT_S) -> etcd_pb2.TxnResponse:
        """etcd's transaction, tried once: on RpcError UNAVAILABLE or DEADLINE_EXCEEDED its fate is unknown."""
        response: etcd_pb2.TxnResponse = await self.call("KV", "Txn", request, timeout_s, retry=False)
        return response

    # ---- watches

    async def watch(
        self, key: bytes, range_end: bytes = b"", start_revision: int = 0, prev_kv: bool = False
    ) -> AsyncIterator[WatchBatch]:
        """Events from `start_revision` on (0: from now), each once and in order, whatever members come and go.

        The first batch, without events, says that the watch stands. Raises Compacted, RpcError when refused.
        """
        next_revision = start_revision
        number = self._stream.current
        is_told = False
        while not self._is_closed:
            create = etcd_pb2.WatchCreateRequest(
                key=key, range_end=range_end, start_revision=next_revision, prev_kv=prev_kv, progress_notify=True
            )
            request = etcd_pb2.WatchRequest(create_request=create)
            endpoint = self._endpoints[number % len(self._endpoints)]
            try:
                answers = endpoint.stub(ETCD["Watch"]).Watch(_then_silence(request), metadata=_LED)
                async with contextlib.aclosing(answers) as responses:
                    async for response in responses:
                        is_told = False
                        batch = _read_watch(response, next_revision)
                        # A member that lags may report an older revision: never go back.
                        next_revision = max(next_revision, batch.revision + 1)
                        yield batch
            except RpcError as error:
                if error.code in (Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED):
                    raise
                if not is_told:  # while there is no leader, all members refuse
                    log.info("watch at %s broke, goes on at the next member: %s", endpoint.address, error)
                is_told = True
            number += 1
            await asyncio.sleep(RETRY_S)

    # ---- leases

    async def grant(self, ttl_s: int, lease: int = 0) -> int:
        """Makes a lease; returns its id. Raises RpcError."""
        # With an id of its own a second try is harmless; without, a lease that nobody knows of runs out by itself.
        request = etcd_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease)
        return int((await self.call("Lease", "LeaseGrant", request)).ID)

    async def revoke(self, lease: int) -> None:
        """Ends a lease and deletes its keys; it is no error when it is gone already. Raises RpcError."""
        try:
            await self.call("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=lease))
        except RpcError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def keep_alive(self, lease: int, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """Gives a lease its whole time again; returns it in seconds, 0 when there is no such lease. Raises RpcError."""
        request = etcd_pb2.LeaseKeepAliveRequest(ID=lease)

        async def run(endpoint: Endpoint, remaining_s: float) -> int:
            answers = endpoint.stub(ETCD["Lease"]).LeaseKeepAlive(once(request), timeout=remaining_s)
            async for response in answers:
                return int(response.TTL)
            raise RpcError(Code.UNAVAILABLE, "the stream ended without an answer")

        return int(await self._at_any(run, timeout_s, retry=True))

    async def keep_alive_forever(self, lease: int, ttl_s: int) -> None:
        """Keeps a lease alive until cancelled; returns when it is gone."""
        while True:
            try:
                if not await self.keep_alive(lease, timeout_s=ttl_s):
                    return
            except RpcError as error:
                log.warning("lease %x was not renewed: %s", lease, error)
            await asyncio.sleep(ttl_s / 3)

    async def close(self) -> None:
        """Ends the stream and all connections; callers that wait fail."""
        self._is_closed = True
        await self._stream.close()
        for endpoint in self._endpoints:
            await endpoint.close()


def _address(endpoint: str) -> str:
    """`https://10.0.0.1:2379` → `10.0.0.1:2379`."""
    return endpoint.rpartition("://")[2]


async def _then_silence(request: Any) -> AsyncIterator[Any]:
    """A request stream that stays open after its one message."""
    yield request
    await asyncio.Event().wait()


def _read_watch(response: Any, next_revision: int) -> WatchBatch:
    """What a watch response says. Raises Compacted, RpcError."""
    if response.compact_revision:
        raise Compacted(response.compact_revision)
    if response.canceled:
        raise RpcError(Code.INVALID_ARGUMENT, response.cancel_reason or "the watch was cancelled")
    if response.events:
        return WatchBatch(response.events, response.events[-1].kv.mod_revision)
    if response.created and next_revision:
        # The answer's revision is the store's; the events up to it are still to come.
        return WatchBatch((), next_revision - 1)
    return WatchBatch((), response.header.revision)


__all__ = ["Compacted", "KvClient", "UnknownOutcome", "WatchBatch"]

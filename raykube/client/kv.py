"""Client of the store: batched writes and linearizable reads on one stream, ranges, watches that resume, leases.

    client = KvClient(["127.0.0.1:2379"])
    results = await client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
    async for batch in client.watch(b"/", b"0", start_revision=results[0].revision):
        ...  # batch.events, batch.revision

All callers share one stream to one member: while a message is under way, what arrives waits and goes in the next one.
A member that dies is replaced by the next endpoint. What surely did not happen is tried again until `timeout_s`; a
write whose fate is unknown (its member died with it) raises `UnknownOutcome`, and only a read can tell.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raykube.pb import batch_pb2, etcd_pb2, mvcc_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel, Stub, once

log = logging.getLogger(__name__)

BATCH = batch_pb2.DESCRIPTOR.services_by_name["Batch"]
ETCD = etcd_pb2.DESCRIPTOR.services_by_name

MESSAGE_BYTES_MAX = 4 << 20
MESSAGE_WRITES_MAX = 4000
IN_FLIGHT_MAX = 4  # messages; callers beyond wait and share the next one
CALL_TIMEOUT_S = 10.0
HELLO_TIMEOUT_S = 2.0  # a member that cannot confirm a leader in this time is passed over
STALL_S = 8.0  # a member answers every request in 7 s, if only to say that it cannot
STALL_CHECK_S = 1.0
RETRY_S = 0.1
_UNKNOWN = (Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN)


class UnknownOutcome(Exception):
    """A write was sent and its answer never came: it may have happened, wholly, or not at all."""


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


@dataclass(eq=False, slots=True)
class _Call:
    """A caller who waits on the stream: with writes, or for a linearizable revision."""

    writes: Sequence[batch_pb2.Write]
    size: int
    answer: asyncio.Future[Any]
    is_alone: bool = False  # its message must carry nobody else: together they were refused


@dataclass(eq=False, slots=True)
class _Message:
    """A request under way, and whose it is."""

    calls: list[_Call]
    is_read: bool
    sent_at: float


class _Endpoint:
    """The connection to one member, made when first needed."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self._tls = tls
        self._channel: Channel | None = None
        self._stubs: dict[str, Stub] = {}

    def stub(self, service: Any) -> Stub:
        if self._channel is None:
            self._channel = Channel(self.address, self._tls)
        if service.name not in self._stubs:
            self._stubs[service.name] = self._channel.stub(service)
        return self._stubs[service.name]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._stubs.clear()


class KvClient:
    """A client of all members at once. `endpoints` are `host:port`, or etcd's `http(s)://host:port`."""

    def __init__(self, endpoints: list[str], tls: Tls | None = None) -> None:
        if not endpoints:
            raise ValueError("no endpoints of the store are given")
        self._endpoints = [_Endpoint(endpoint.rpartition("://")[2], tls) for endpoint in endpoints]
        self._current = 0
        self._writes: list[_Call] = []
        self._reads: list[_Call] = []
        self._under_way: dict[int, _Message] = {}
        self._ids = itertools.count(1)
        self._woken = asyncio.Event()
        self._is_greeted = asyncio.Event()
        self._is_broken = False
        self._generation = 0
        self._stream: asyncio.Task[None] | None = None
        self._is_closed = False

    # ---- writes and linearizable revisions, on the stream

    async def write(
        self, writes: Sequence[batch_pb2.Write], timeout_s: float = CALL_TIMEOUT_S
    ) -> list[batch_pb2.WriteResult]:
        """Carries out `writes` in order; a result for each. A failed comparison does not stop the others.

        Raises UnknownOutcome, or RpcError when surely nothing was written.
        """
        if not writes:
            return []
        size = sum(len(write.key) + len(write.value) + 32 for write in writes)
        call = _Call(writes, size, asyncio.get_running_loop().create_future())
        return list(await self._ask(call, self._writes, timeout_s))

    async def current_revision(self, timeout_s: float = CALL_TIMEOUT_S) -> int:
        """A revision that has everything acknowledged before the call. Callers of one moment share one question."""
        call = _Call((), 0, asyncio.get_running_loop().create_future())
        return int(await self._ask(call, self._reads, timeout_s))

    async def _ask(self, call: _Call, queue: list[_Call], timeout_s: float) -> Any:
        if self._is_closed:
            raise RpcError(Code.CANCELLED, "the client is closed")
        if self._stream is None:
            self._stream = asyncio.create_task(self._keep_stream())
        queue.append(call)
        self._woken.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await call.answer
        except (TimeoutError, asyncio.CancelledError) as error:
            is_unsent = call in queue
            if is_unsent:
                queue.remove(call)
            if isinstance(error, asyncio.CancelledError):
                raise
            if is_unsent or not call.writes:
                raise RpcError(Code.UNAVAILABLE, f"no member of the store answers: {self._addresses()}") from None
            raise UnknownOutcome(f"no answer in {timeout_s:g} s") from None

    def _addresses(self) -> str:
        return ", ".join(endpoint.address for endpoint in self._endpoints)

    async def _keep_stream(self) -> None:
        """Keeps a stream open as long as somebody wants something; a broken one is made again at the next member."""
        while not self._is_closed:
            if not self._writes and not self._reads:
                self._woken.clear()
                await self._woken.wait()
                continue
            try:
                await self._run_stream(self._endpoints[self._current])
            except RpcError as error:
                log.info("store member %s: %s", self._endpoints[self._current].address, error)
            except Exception:
                log.exception("the stream to the store failed")
            self._generation += 1
            self._on_broken()
            self._current = (self._current + 1) % len(self._endpoints)
            await asyncio.sleep(RETRY_S)

    async def _run_stream(self, endpoint: _Endpoint) -> None:
        self._is_greeted.clear()
        self._is_broken = False
        self._generation += 1
        responses = endpoint.stub(BATCH).Stream(self._requests(self._generation))
        try:
            # Nothing is written before this member has shown that it knows a leader: if it cannot, nothing is unknown.
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await anext(responses)
            if hello.error:
                raise RpcError(Code.UNAVAILABLE, hello.error)
            self._is_greeted.set()
            while not self._is_broken:
                self._on_response(await self._next_answer(responses))
        except (TimeoutError, StopAsyncIteration):
            raise RpcError(Code.UNAVAILABLE, "no answer") from None
        finally:
            await responses.aclose()

    async def _next_answer(self, responses: AsyncIterator[Any]) -> Any:
        """The stream's next answer. Raises TimeoutError when the oldest request has waited too long for its own."""
        answer = asyncio.ensure_future(anext(responses))
        try:
            while not (await asyncio.wait({answer}, timeout=STALL_CHECK_S))[0]:
                oldest = min((message.sent_at for message in self._under_way.values()), default=None)
                if oldest is not None and time.monotonic() - oldest > STALL_S:
                    # It is not gone, or the connection would have broken: stopped, or cut off without a word.
                    raise TimeoutError
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, RpcError):
                    await answer

    async def _requests(self, generation: int) -> AsyncIterator[Any]:
        yield batch_pb2.BatchRequest(id=0, read_index=True)
        await self._is_greeted.wait()
        # The transport may hold on to the requests of a broken stream: they must take no caller with them.
        while generation == self._generation:
            if (self._writes or self._reads) and len(self._under_way) < IN_FLIGHT_MAX:
                yield self._next_request()
            else:
                self._woken.clear()
                await self._woken.wait()

    def _next_request(self) -> Any:
        number = next(self._ids)
        if self._reads:
            calls = self._reads[:]
            self._reads.clear()
            self._under_way[number] = _Message(calls, True, time.monotonic())
            return batch_pb2.BatchRequest(id=number, read_index=True)
        calls = []
        size = count = 0
        for call in self._writes:
            if calls and (
                call.is_alone
                or calls[0].is_alone
                or size + call.size > MESSAGE_BYTES_MAX
                or count + len(call.writes) > MESSAGE_WRITES_MAX
            ):
                break
            calls.append(call)
            size += call.size
            count += len(call.writes)
        del self._writes[: len(calls)]
        self._under_way[number] = _Message(calls, False, time.monotonic())
        request = batch_pb2.BatchRequest(id=number)
        for call in calls:
            request.writes.extend(call.writes)
        return request

    def _on_response(self, response: Any) -> None:
        message = self._under_way.pop(response.id, None)
        self._woken.set()
        if message is None:
            return
        if response.error:
            self._on_refused(message, response.error)
        elif message.is_read:
            for call in message.calls:
                _set_result(call, response.revision)
        else:
            start = 0
            results = response.results
            for call in message.calls:
                _set_result(call, results[start : start + len(call.writes)])
                start += len(call.writes)

    def _on_refused(self, message: _Message, error: str) -> None:
        name, _, text = error.partition(": ")
        code = Code.__members__.get(name, Code.UNKNOWN)
        if message.is_read or code is Code.UNAVAILABLE:
            self._is_broken = True
            self._put_back(message)
        elif code in _UNKNOWN:
            self._is_broken = True
            for call in message.calls:
                _set_exception(call, UnknownOutcome(error))
        elif len(message.calls) > 1:
            # One of them is to blame, and nothing was done: each goes alone.
            for call in message.calls:
                call.is_alone = True
            self._put_back(message)
        else:
            _set_exception(message.calls[0], RpcError(code, text))

    def _put_back(self, message: _Message) -> None:
        queue = self._reads if message.is_read else self._writes
        queue[:0] = [call for call in message.calls if not call.answer.done()]

    def _on_broken(self) -> None:
        for message in self._under_way.values():
            if message.is_read:
                self._put_back(message)
            else:
                for call in message.calls:
                    _set_exception(call, UnknownOutcome("the connection to the store's member broke"))
        self._under_way.clear()

    # ---- single calls

    async def call(
        self, service: str, method: str, request: Any, timeout_s: float = CALL_TIMEOUT_S, retry: bool = True
    ) -> Any:
        """A method of etcd's API at any member. With `retry`, tried at others until `timeout_s`: safe for reads only.

        Raises RpcError.
        """

        async def once_at(endpoint: _Endpoint, remaining_s: float) -> Any:
            return await getattr(endpoint.stub(ETCD[service]), method)(request, timeout=remaining_s)

        return await self._at_any(once_at, timeout_s, retry)

    async def _at_any(self, run: Callable[[_Endpoint, float], Awaitable[Any]], timeout_s: float, retry: bool) -> Any:
        deadline = time.monotonic() + timeout_s
        number = self._current
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
        number = self._current
        while not self._is_closed:
            create = etcd_pb2.WatchCreateRequest(
                key=key, range_end=range_end, start_revision=next_revision, prev_kv=prev_kv, progress_notify=True
            )
            request = etcd_pb2.WatchRequest(create_request=create)
            endpoint = self._endpoints[number % len(self._endpoints)]
            try:
                async with contextlib.aclosing(endpoint.stub(ETCD["Watch"]).Watch(_then_silence(request))) as responses:
                    async for response in responses:
                        batch = _read_watch(response, next_revision)
                        # A member that lags may report an older revision: never go back.
                        next_revision = max(next_revision, batch.revision + 1)
                        yield batch
            except RpcError as error:
                if error.code in (Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED):
                    raise
                log.info("watch at %s broke, goes on at the next member: %s", endpoint.address, error)
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

        async def run(endpoint: _Endpoint, remaining_s: float) -> int:
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
        if self._stream is not None:
            self._stream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._stream
        self._on_broken()
        for call in (*self._writes, *self._reads):
            _set_exception(call, RpcError(Code.CANCELLED, "the client is closed"))
        for endpoint in self._endpoints:
            await endpoint.close()


def _set_result(call: _Call, result: Any) -> None:
    if not call.answer.done():
        call.answer.set_result(result)


def _set_exception(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)


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

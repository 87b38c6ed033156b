"""The batch stream of a store client: all callers share one stream to one member, and its messages.

While a few messages are under way, what arrives waits and goes in the next one; what fills a whole message goes at
once, so that client, leader and followers work on different ones at the same time. When the stream breaks, what surely
did not happen waits for the next member; the writers whose messages were under way are told `UnknownOutcome`.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from raykube.pb import batch_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel, Stub

log = logging.getLogger(__name__)

BATCH = batch_pb2.DESCRIPTOR.services_by_name["Batch"]

MESSAGE_BYTES_MAX = 256 << 10  # but for a caller that brings more
IN_FLIGHT_MAX = 4  # messages; callers beyond wait and share the next one …
FULL_IN_FLIGHT_MAX = 16  # … unless they fill it
HELLO_TIMEOUT_S = 2.0  # a member that cannot confirm a leader in this time is passed over
STALL_S = 8.0  # a member answers every request in 7 s, if only to say that it cannot
STALL_CHECK_S = 1.0
RETRY_S = 0.1
_UNKNOWN = (Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN)


class UnknownOutcome(Exception):
    """A write was sent and its answer never came: it may have happened, wholly, or not at all."""


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


class Endpoint:
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


class BatchStream:
    """Keeps a stream to one of `endpoints` as long as anybody wants something of it; `current` says to which."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self.current = 0
        self._endpoints = endpoints
        self._writes: list[_Call] = []
        self._waiting_bytes = 0  # of `_writes`; reads have none
        self._reads: list[_Call] = []
        self._under_way: dict[int, _Message] = {}
        self._ids = itertools.count(1)
        self._woken = asyncio.Event()
        self._is_greeted = asyncio.Event()
        self._is_broken = False
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def write(self, writes: Sequence[batch_pb2.Write], timeout_s: float) -> list[batch_pb2.WriteResult]:
        """A result for each of `writes`. Raises UnknownOutcome, or RpcError when surely nothing was written."""
        size = sum(len(write.key) + len(write.value) + 32 for write in writes)
        call = _Call(writes, size, asyncio.get_running_loop().create_future())
        return list(await self._ask(call, self._writes, timeout_s))

    async def current_revision(self, timeout_s: float) -> int:
        """A revision that has everything acknowledged before the call. Raises RpcError."""
        call = _Call((), 0, asyncio.get_running_loop().create_future())
        return int(await self._ask(call, self._reads, timeout_s))

    def replace(self, gone: Sequence[Endpoint], fresh: Sequence[Endpoint]) -> None:
        """Other members take the place of those in `gone`. The stream goes on where it is, if that member stays."""
        current = self._endpoints[self.current]
        self._endpoints[:] = [endpoint for endpoint in self._endpoints if endpoint not in gone] + list(fresh)
        # A stream to one that is gone breaks by itself, and its successor starts at the first.
        self.current = self._endpoints.index(current) if current in self._endpoints else len(self._endpoints) - 1

    async def close(self) -> None:
        """Ends the stream; callers that wait fail."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._on_broken()
        for call in (*self._writes, *self._reads):
            _set_exception(call, RpcError(Code.CANCELLED, "the client is closed"))

    async def _ask(self, call: _Call, queue: list[_Call], timeout_s: float) -> Any:
        if self._is_closed:
            raise RpcError(Code.CANCELLED, "the client is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._keep_stream())
        queue.append(call)
        self._waiting_bytes += call.size
        self._woken.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await call.answer
        except (TimeoutError, asyncio.CancelledError) as error:
            is_unsent = call in queue
            if is_unsent:
                queue.remove(call)
                self._waiting_bytes -= call.size
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
                await self._run_stream(self._endpoints[self.current])
            except RpcError as error:
                log.info("store member %s: %s", self._endpoints[self.current].address, error)
            except Exception:
                log.exception("the stream to the store failed")
            self._generation += 1
            self._on_broken()
            self.current = (self.current + 1) % len(self._endpoints)
            await asyncio.sleep(RETRY_S)

    async def _run_stream(self, endpoint: Endpoint) -> None:
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
            if self._may_send():
                yield self._next_request()
            else:
                self._woken.clear()
                await self._woken.wait()

    def _may_send(self) -> bool:
        is_full = self._waiting_bytes >= MESSAGE_BYTES_MAX
        room = (FULL_IN_FLIGHT_MAX if is_full else IN_FLIGHT_MAX) - len(self._under_way)
        return room > 0 and bool(self._writes or self._reads)

    def _next_request(self) -> Any:
        number = next(self._ids)
        if self._reads:
            calls = self._reads[:]
            self._reads.clear()
            self._under_way[number] = _Message(calls, True, time.monotonic())
            return batch_pb2.BatchRequest(id=number, read_index=True)
        calls = []
        size = 0
        for call in self._writes:
            if calls and (call.is_alone or calls[0].is_alone or size + call.size > MESSAGE_BYTES_MAX):
                break
            calls.append(call)
            size += call.size
        del self._writes[: len(calls)]
        self._waiting_bytes -= size
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
        waiting = [call for call in message.calls if not call.answer.done()]
        queue[:0] = waiting
        self._waiting_bytes += sum(call.size for call in waiting)

    def _on_broken(self) -> None:
        for message in self._under_way.values():
            if message.is_read:
                self._put_back(message)
            else:
                for call in message.calls:
                    _set_exception(call, UnknownOutcome("the connection to the store's member broke"))
        self._under_way.clear()


def _set_result(call: _Call, result: Any) -> None:
    if not call.answer.done():
        call.answer.set_result(result)


def _set_exception(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)

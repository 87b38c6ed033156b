"""The batch stream of a store client: all callers share one stream to one member, and its messages.

While a few messages are under way, what arrives waits and goes in the next one; what fills a whole message goes at
once, so that client, leader and followers work on different ones at the same time. No more bytes are under way than
keep them busy, as what waits here can still be overtaken: a message takes what is short first, and then what is long.
When the stream breaks, what surely did not happen waits for the next member; the writers whose messages were under way
are told `UnknownOutcome`.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raykube.base.encoded import Encoded, tag, varint
from raykube.pb import batch_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel, Stub, Timing

log = logging.getLogger(__name__)

BATCH = batch_pb2.DESCRIPTOR.services_by_name["Batch"]
Results = asyncio.Future[list[batch_pb2.WriteResult]]

MESSAGE_BYTES_MAX = 256 << 10  # but for a caller that brings more
CALL_BYTES_MAX = (32 << 20) - 64  # what a member takes in a message, without the message's head
SHORT_BYTES_MAX = 16 << 10  # of a call that overtakes longer ones
IN_FLIGHT_MAX = 4  # messages; callers beyond wait and share the next one …
FULL_IN_FLIGHT_MAX = 8  # … unless they fill it
IN_FLIGHT_BYTES_MAX = 1 << 20  # no message is added to so much
HELLO_TIMEOUT_S = 2.0  # a member that cannot confirm a leader in this time is passed over
STALL_S = 8.0  # a member answers every request in 7 s, if only to say that it cannot
STALL_CHECK_S = 1.0
DEADLINES_MIN = 1000  # calls that are added, at least, between two looks for ended ones
RETRY_S = 0.1
# Members answer pings at once. One that vanished without a word, with its machine, costs its writers five seconds.
TIMING = Timing(keepalive_s=2.0, keepalive_timeout_s=3.0)
TOO_LARGE = "etcdserver: request is too large"
_WRITES = tag(batch_pb2.BatchRequest.DESCRIPTOR, "writes")
_UNKNOWN = (Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN)


class UnknownOutcome(Exception):
    """A write was sent and its answer never came: it may have happened, wholly, or not at all."""


@dataclass(eq=False, slots=True)
class _Call:
    """A caller who waits on the stream: with writes, or for a linearizable revision."""

    writes: int  # how many; none: it reads
    encoded: bytes  # they, as a request has them
    size: int  # in bytes
    answer: asyncio.Future[Any]
    is_alone: bool = False  # its message must carry nobody else: together they were refused
    is_sent: bool = False


@dataclass(eq=False, slots=True)
class _Message:
    """A request under way, and whose it is."""

    calls: list[_Call]
    size: int
    sent_at: float

    @property
    def is_read(self) -> bool:
        return not self.calls[0].writes


class Endpoint:
    """The connection to one member, made when first needed."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self._tls = tls
        self._channel: Channel | None = None
        self._stubs: dict[str, Stub] = {}

    def stub(self, service: Any) -> Stub:
        if self._channel is None:
            self._channel = Channel(self.address, self._tls, TIMING)
        if service.name not in self._stubs:
            self._stubs[service.name] = self._channel.stub(service)
        return self._stubs[service.name]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._stubs.clear()


class Deadlines:
    """Until when each call waits: one timer for all, as one for each would cost a quarter of what a call costs.

    Those who wait equally long end in the order in which they came, and nearly all do: they need no sorting.
    """

    def __init__(self, on_late: Callable[[_Call, float], None]) -> None:
        self._on_late = on_late
        self._calls: dict[float, deque[tuple[float, _Call]]] = {}  # by their time-out: deadlines, in order
        self._added = 0  # since ended calls were last looked for
        self._clear_after = DEADLINES_MIN
        self._timer: asyncio.Handle | None = None
        self._due_at = math.inf  # of the timer

    def __len__(self) -> int:
        """How many calls are held, ended ones among them."""
        return sum(map(len, self._calls.values()))

    def add(self, call: _Call, timeout_s: float) -> None:
        """`on_late(call, timeout_s)` is called when the call has no answer by then."""
        calls = self._calls.get(timeout_s)
        if calls is None:
            calls = self._calls[timeout_s] = deque()
        while calls and calls[0][1].answer.done():
            calls.popleft()
        deadline = asyncio.get_running_loop().time() + timeout_s
        calls.append((deadline, call))
        self._added += 1
        if self._added > self._clear_after:
            self._clear()
        if deadline < self._due_at:
            self._arm(deadline)

    def _clear(self) -> None:
        """Lets go of ended calls behind one that waits long, and of time-outs that nobody has any more: they hold
        writes and results."""
        for timeout_s, calls in list(self._calls.items()):
            waiting = deque(entry for entry in calls if not entry[1].answer.done())
            if waiting:
                self._calls[timeout_s] = waiting
            else:
                del self._calls[timeout_s]
        self._added = 0
        self._clear_after = max(DEADLINES_MIN, len(self))

    def _arm(self, due_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due_at, self._look)
        self._due_at = due_at

    def _look(self) -> None:
        self._timer, self._due_at = None, math.inf
        now = asyncio.get_running_loop().time()
        for timeout_s, calls in self._calls.items():
            while calls and (calls[0][1].answer.done() or calls[0][0] <= now):
                _, call = calls.popleft()
                if not call.answer.done():
                    self._on_late(call, timeout_s)
        next_at = min((calls[0][0] for calls in self._calls.values() if calls), default=math.inf)
        if next_at < math.inf:
            self._arm(next_at)

    def close(self) -> None:
        """Forgets all calls."""
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BatchStream:
    """Keeps a stream to one of `endpoints` as long as anybody wants something of it; `current` says to which."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self.current = 0
        self._endpoints = endpoints
        self._reads: list[_Call] = []
        self._short: list[_Call] = []
        self._long: list[_Call] = []
        self._owed = False  # the last message took short calls alone: the next is for the long ones
        self._waiting_bytes = 0  # of writes; reads have none
        self._under_way: dict[int, _Message] = {}
        self._bytes_under_way = 0
        self._reads_under_way = 0
        self._ids = itertools.count(1)
        self._woken = asyncio.Event()
        self._is_greeted = asyncio.Event()
        self._is_broken = False
        self._generation = 0
        self._deadlines = Deadlines(self._on_late)
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def write(self, writes: Sequence[batch_pb2.Write], timeout_s: float) -> Results:
        """A result for each of `writes`; to cancel it is to give up. It raises UnknownOutcome, or RpcError when surely
        nothing was written."""
        parts: list[bytes] = []
        for write in writes:
            body = write.SerializeToString()
            parts += (_WRITES, varint(len(body)), body)
        encoded = b"".join(parts)
        if len(encoded) > CALL_BYTES_MAX:
            # A member would break the stream, and with it the calls of everybody else that are under way.
            raise RpcError(Code.INVALID_ARGUMENT, TOO_LARGE)
        call = _Call(len(writes), encoded, len(encoded), asyncio.get_running_loop().create_future())
        return self._ask(call, timeout_s)

    async def current_revision(self, timeout_s: float) -> int:
        """A revision that has everything acknowledged before the call. Raises RpcError."""
        call = _Call(0, b"", 0, asyncio.get_running_loop().create_future())
        return int(await self._ask(call, timeout_s))

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
        self._deadlines.close()
        for call in (*self._reads, *self._short, *self._long):
            _set_exception(call, RpcError(Code.CANCELLED, "the client is closed"))

    def _queue_of(self, call: _Call) -> list[_Call]:
        if not call.writes:
            return self._reads
        return self._short if call.size <= SHORT_BYTES_MAX else self._long

    def _ask(self, call: _Call, timeout_s: float) -> asyncio.Future[Any]:
        """Queues a call; its answer. Who gives up cancels that, and is not sent if it was not: see `_write_request`."""
        if self._is_closed:
            raise RpcError(Code.CANCELLED, "the client is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._keep_stream())
        self._deadlines.add(call, timeout_s)
        self._queue_of(call).append(call)
        self._waiting_bytes += call.size
        self._woken.set()
        return call.answer

    def _on_late(self, call: _Call, timeout_s: float) -> None:
        """No answer in time: what was not sent never will be."""
        if call.is_sent and call.writes:
            _set_exception(call, UnknownOutcome(f"no answer in {timeout_s:g} s"))
        else:
            _set_exception(call, RpcError(Code.UNAVAILABLE, f"no member of the store answers: {self._addresses()}"))

    def _addresses(self) -> str:
        return ", ".join(endpoint.address for endpoint in self._endpoints)

    async def _keep_stream(self) -> None:
        """Keeps a stream open as long as somebody wants something; a broken one is made again at the next member."""
        while not self._is_closed:
            self._forget_done()
            if not (self._reads or self._short or self._long):
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

    def _forget_done(self) -> None:
        """Drops those who gave up, of whom there may be many while no member answers."""
        for queue in (self._reads, self._short, self._long):
            queue[:] = [call for call in queue if not call.answer.done()]
        self._waiting_bytes = sum(call.size for call in (*self._short, *self._long))

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
            if self._may_read():
                yield self._read_request()
            elif self._may_write():
                request = self._write_request()
                if request is not None:
                    yield request
            else:
                self._woken.clear()
                await self._woken.wait()

    def _may_read(self) -> bool:
        return bool(self._reads) and self._reads_under_way < IN_FLIGHT_MAX

    def _may_write(self) -> bool:
        if not (self._short or self._long) or self._bytes_under_way >= IN_FLIGHT_BYTES_MAX:
            return False
        is_full = self._waiting_bytes >= MESSAGE_BYTES_MAX
        writes_under_way = len(self._under_way) - self._reads_under_way
        return writes_under_way < (FULL_IN_FLIGHT_MAX if is_full else IN_FLIGHT_MAX)

    def _read_request(self) -> Any:
        request = batch_pb2.BatchRequest(id=next(self._ids), read_index=True)
        self._under_way[request.id] = _Message(self._reads[:], 0, time.monotonic())
        self._reads_under_way += 1
        self._reads.clear()
        return request

    def _write_request(self) -> Any | None:
        """What is short goes first, with what is long behind it as far as it fits, or takes turns with it.

        None: all that were next have given up.
        """
        calls: list[_Call] = []
        if self._short and not (self._long and self._owed):
            calls = _first(self._short, MESSAGE_BYTES_MAX)
        room = MESSAGE_BYTES_MAX - sum(call.size for call in calls)
        is_alone = calls and self._long and (calls[0].is_alone or self._long[0].is_alone)
        if self._long and not is_alone and (not calls or self._long[0].size <= room):
            calls += _first(self._long, room)
            self._owed = False
        else:
            self._owed = bool(self._long)
        self._waiting_bytes -= sum([call.size for call in calls])
        calls = [call for call in calls if not call.answer.done()]
        if not calls:
            return None
        size = sum([call.size for call in calls])
        self._bytes_under_way += size
        head = batch_pb2.BatchRequest(id=next(self._ids))
        self._under_way[head.id] = _Message(calls, size, time.monotonic())
        for call in calls:
            call.is_sent = True
        return Encoded(b"".join([head.SerializeToString(), *[call.encoded for call in calls]]))

    def _on_response(self, response: Any) -> None:
        message = self._under_way.pop(response.id, None)
        self._woken.set()
        if message is None:
            return
        self._bytes_under_way -= message.size
        if message.is_read:
            self._reads_under_way -= 1
        if response.error:
            self._on_refused(message, response.error)
        elif message.is_read:
            for call in message.calls:
                _set_result(call, response.revision)
        else:
            start = 0
            results = response.results
            for call in message.calls:
                end = start + call.writes
                _set_result(call, results[start:end])
                start = end

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
        waiting = [call for call in message.calls if not call.answer.done()]
        for call in reversed(waiting):
            call.is_sent = False
            self._queue_of(call).insert(0, call)
        self._waiting_bytes += sum(call.size for call in waiting)

    def _on_broken(self) -> None:
        for message in self._under_way.values():
            if message.is_read:
                self._put_back(message)
            else:
                for call in message.calls:
                    _set_exception(call, UnknownOutcome("the connection to the store's member broke"))
        self._under_way.clear()
        self._bytes_under_way = self._reads_under_way = 0


def _first(queue: list[_Call], room: int) -> list[_Call]:
    """Takes what fits into a message from the front of a queue, one call at least; who must be alone is."""
    taken: list[_Call] = []
    size = 0
    for call in queue:
        size += call.size
        if taken and (call.is_alone or taken[0].is_alone or size > room):
            break
        taken.append(call)
    del queue[: len(taken)]
    return taken


def _set_result(call: _Call, result: Any) -> None:
    if not call.answer.done():
        call.answer.set_result(result)


def _set_exception(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)

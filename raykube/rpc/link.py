"""One connection of a client: carries bytes and time between its transport and the pure core, and answers to calls.

Vocabulary: a link is *ready* once the server's settings came. It is *spent* when it takes no new calls (GOAWAY, a
fault, a loss); calls under way on a spent link go on, and the last one closes it. A *slot* is room for one more stream,
where the server allows only so many at once.

Everything that calls ask for in one turn of the event loop leaves in one write at its end, but for what is pushed.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from raykube.base.backoff import Backoff
from raykube.rpc.answers import Answer
from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.events import (
    CallFinished,
    ConnectionEnded,
    Event,
    GoingAway,
    MessageReceived,
    SettingsReceived,
)
from raykube.rpc.core.frames import ErrorCode
from raykube.rpc.core.heads import Metadata
from raykube.rpc.errors import Code, RpcError, Unprocessed

TOO_MANY_PINGS = "too_many_pings"  # gRPC's word for it, in its proposal A8: calm is asked for in other cases, too


@dataclass(frozen=True, slots=True)
class Timing:
    """When a client gives up on a connection, in seconds."""

    connect_s: float = 5.0  # name, TCP, TLS and the server's settings
    backoff: Backoff = field(default=Backoff(initial_s=0.1, max_s=1.0))  # between attempts that fail
    keepalive_s: float = 10.0  # silence after which a connection with calls is asked for a sign of life …
    keepalive_timeout_s: float = 5.0  # … which must come in this time: a peer that vanished is found in 15 s


class Link(asyncio.Protocol):
    """A connection to `address`, in `links` while it is open. `on_too_many_pings` is called when the server says so."""

    def __init__(
        self,
        address: str,
        core: ClientConnection,
        timing: Timing,
        links: "set[Link]",
        on_too_many_pings: Callable[[], None],
    ) -> None:
        self._address = address
        self._links = links
        self._core = core
        self._timing = timing
        self._on_too_many_pings = on_too_many_pings
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, Answer] = {}
        self._writers: dict[int, asyncio.Future[None]] = {}  # request streams that wait for room
        self._slots: deque[asyncio.Future[None]] = deque()  # calls that wait for theirs
        self._granted = 0  # slots given and not yet used
        self._is_paused = False  # the transport has enough
        self._is_flushing = False  # a flush comes at the end of this turn
        self._received_at = 0.0
        self.ready_at = 0.0  # by the loop's clock
        self._alive: asyncio.TimerHandle | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # What calls ask for

    @property
    def is_free(self) -> bool:
        """Whether `open` may be called now, without a slot."""
        return not self._slots and not self._granted and self._core.can_open

    @property
    def is_spent(self) -> bool:
        return self._core.spent

    def was_useful(self, lived_s: float) -> bool:
        """Whether any call was answered or still may be, or `lived_s` seconds have passed since it was ready."""
        return self._core.has_answered or bool(self._answers) or self._loop.time() - self.ready_at >= lived_s

    async def slot(self) -> bool:
        """Waits until `open` may be called, at once after it; False when this link is spent."""
        slot: asyncio.Future[None] = self._loop.create_future()
        self._slots.append(slot)
        self._grant()
        if self._alive is None:
            self._watch()  # there may be no calls, where the server allows none for now
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():
                self._granted -= 1
                self._grant()
            raise
        self._granted -= 1
        return self._core.can_open

    def open(self, path: str, timeout_s: float | None, answer: Answer, metadata: Metadata = ()) -> int:
        """Begins a call; returns its stream."""
        number = self._core.open_call(path, timeout_s, metadata)
        self._answers[number] = answer
        if self._alive is None:
            self._watch()
        self._flush_soon()
        return number

    def is_under_way(self, number: int) -> bool:
        """Whether the call is neither finished nor given up."""
        return number in self._answers

    def send(self, number: int, payload: bytes, *, end: bool = False) -> bool:
        """False: enough waits to be sent; go on when `writer` is done."""
        room = self._core.send_message(number, payload, end=end)
        self._flush_soon()
        return room

    def push(self, number: int, payload: bytes) -> bool:
        """As `send`, and writes it now rather than at the end of this turn: who pushes has gathered already."""
        self._core.send_message(number, payload)
        self.flush()
        return self._core.has_room(number)  # not before: what was flushed at once is no reason to wait

    def writer(self, number: int) -> asyncio.Future[None]:
        """Done when the call takes more messages, or is over."""
        if number not in self._answers or self._core.has_room(number):
            writer = self._loop.create_future()
            writer.set_result(None)
            return writer
        return self._writers.setdefault(number, self._loop.create_future())

    def end(self, number: int) -> None:
        """No more messages of the request follow."""
        self._core.end(number)
        self._flush_soon()

    def taken(self, number: int, message: bytes) -> None:
        """The consumer of a streamed answer has this message."""
        self._core.taken(number, message)
        if not self._is_flushing and self._core.wants_write:
            self._flush_soon()

    def cancel(self, number: int, error: BaseException | None = None) -> None:
        """Gives a call up; `error` is what its answer becomes, if anybody still waits for it."""
        answer = self._answers.pop(number, None)
        if answer is None:
            return
        self._core.reset(number)
        self._flush_soon()
        if error is not None:
            answer.on_finished(error)
        self._after_call(number)

    def close(self, reason: str) -> None:
        """Ends every call with UNAVAILABLE, and the connection."""
        self._core.go_away()
        for event in self._core.lost(reason):
            self._on_event(event)
        self._fail_waiting(reason)
        if self._transport is not None:
            self.flush()
            if self._is_paused:
                self._transport.abort()
            else:
                self._transport.close()

    def abort(self) -> None:
        """Closes the transport without a farewell."""
        if self._transport is not None:
            self._transport.abort()

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's only looks like one
        self._links.add(self)
        self._received_at = self._loop.time()
        self.flush()

    def data_received(self, data: bytes) -> None:
        now_s = self._received_at = self._loop.time()
        core = self._core
        for event in core.receive(data, now_s):
            self._on_event(event)
        if not self._is_flushing and core.wants_write:
            self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed.done():
            return
        reason = f"the connection to {self._address} was lost" + (f": {exc}" if exc is not None else "")
        for event in self._core.lost(reason):
            self._on_event(event)
        self._fail_waiting(reason)
        self._transport = None
        self._links.discard(self)
        if self._alive is not None:
            self._alive.cancel()
            self._alive = None
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self.flush()

    # Between both

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Writes what there is now."""
        self._is_flushing = False
        core, transport = self._core, self._transport
        if transport is None:
            return
        while not self._is_paused and core.wants_write:
            transport.write(core.outgoing())
        for number in core.drained():
            self._wake_writer(number)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            answer = self._answers.get(event.stream)
            flaw = answer.on_message(event.message) if answer is not None else None
            if flaw is not None:
                self.cancel(event.stream, flaw)
        elif isinstance(event, CallFinished):
            self._on_call_finished(event)
        elif isinstance(event, SettingsReceived):
            if not self.ready.done():
                self.ready_at = self._loop.time()
                self.ready.set_result(None)
            self._grant()
        elif isinstance(event, GoingAway):
            if event.code == ErrorCode.ENHANCE_YOUR_CALM and event.reason == TOO_MANY_PINGS:
                self._on_too_many_pings()
            self._on_spent()
        elif isinstance(event, ConnectionEnded):
            self._fail_waiting(f"{self._address} broke the protocol: {event.reason}")
            self.flush()
            if self._transport is not None:
                self._transport.close()

    def _on_call_finished(self, event: CallFinished) -> None:
        answer = self._answers.pop(event.stream, None)
        if answer is None:
            return
        if event.code is Code.OK:
            answer.on_finished(None)
        else:
            answer.on_finished((Unprocessed if event.unprocessed else RpcError)(event.code, event.message))
        self._after_call(event.stream)

    def _after_call(self, number: int) -> None:
        if self._writers:
            self._wake_writer(number)
        if self._slots:
            self._grant()
        if not self._answers and self._core.spent:
            self._on_spent()

    def _wake_writer(self, number: int) -> None:
        writer = self._writers.pop(number, None)
        if writer is not None and not writer.done():
            writer.set_result(None)

    def _grant(self) -> None:
        """Gives free slots to who waits longest; all are woken once no call can be opened here any more."""
        slots = self._slots
        while slots and (self._core.spent or self._core.room > self._granted):
            slot = slots.popleft()
            if not slot.done():
                self._granted += 1
                slot.set_result(None)

    def _on_spent(self) -> None:
        self._grant()
        if not self._answers and self._transport is not None:
            self.flush()
            self._transport.close()

    def _fail_waiting(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(RpcError(Code.UNAVAILABLE, reason))
            self.ready.exception()  # nobody may be waiting any more
        self._grant()

    # Keep-alive

    def _watch(self) -> None:
        """Called when a call begins, or waits for its slot, on a connection that nobody watches."""
        if self._timing.keepalive_s <= 0:
            return
        silent_s = self._loop.time() - self._received_at
        self._alive = self._loop.call_later(max(0.0, self._timing.keepalive_s - silent_s), self._check)

    def _check(self) -> None:
        self._alive = None
        if not self._answers and not self._slots:
            return  # idle: the next call watches again
        silent_s = self._loop.time() - self._received_at
        if silent_s < self._timing.keepalive_s:
            self._watch()
            return
        self._core.ping()
        self.flush()
        self._expect_answer(self._loop.time(), is_last=False)

    def _expect_answer(self, asked_at: float, *, is_last: bool) -> None:
        due_at = self._loop.time() + self._timing.keepalive_timeout_s
        self._alive = self._loop.call_at(due_at, self._check_answer, asked_at, due_at, is_last)

    def _check_answer(self, asked_at: float, due_at: float, is_last: bool) -> None:
        self._alive = None
        if self._received_at >= asked_at:
            self._watch()
        elif not is_last and self._loop.time() - due_at > self._timing.keepalive_timeout_s / 2:
            # This process stood still, and the answer may lie in the socket, unread.
            self._expect_answer(asked_at, is_last=True)
        elif self._transport is not None:
            waited_s = self._timing.keepalive_s + self._timing.keepalive_timeout_s
            for event in self._core.lost(f"{self._address} gave no sign of life in {waited_s:g} s"):
                self._on_event(event)
            self._transport.abort()


async def pump(link: Link, number: int, requests: AsyncIterable[Any], serialize: Callable[[Any], bytes]) -> None:
    """Sends a request stream as fast as the server takes it. Its errors end the call."""
    try:
        async for request in requests:
            if not link.send(number, serialize(request)):
                await link.writer(number)
            if not link.is_under_way(number):
                break
        link.end(number)
    except Exception as error:
        link.cancel(number, error)

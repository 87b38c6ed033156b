"""One client's connection: carries bytes to the core and runs a handler per call.

Writes gather: whatever became ready in a turn of the event loop goes out in one write at its end. A handler that
answers with a stream is not asked for more while its messages wait for the client; a client that streams is slowed
down when its messages are not read.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import lru_cache
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, cast

from raykube.rpc.core.events import CallCancelled, CallOpened, MessageReceived, PeerEnded
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code, RpcError
from raykube.rpc.handlers import Call, Served
from raykube.rpc.steps import start
from raykube.rpc.tls import Identity, identity_of

log = logging.getLogger(__name__)

WRITE_BUFFER_BYTES = 256 * 1024
TRY_EVERY = 64  # streams
STOPPING = RpcError(Code.UNAVAILABLE, "the server is stopping")
_identity_of = lru_cache(maxsize=4096)(identity_of)


class ServedCall:
    """A call under way: its request, then its handler."""

    __slots__ = (
        "_connection",
        "_ended",
        "_handler",
        "_messages",
        "_more",
        "call",
        "over",
        "room",
        "served",
        "stream",
        "task",
        "timer",
    )

    def __init__(self, connection: "ServedConnection", stream: int, served: Served, call: Call) -> None:
        self._connection = connection
        self.stream = stream
        self.served = served
        self.call = call
        self.over = False
        self.task: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.room: asyncio.Future[None] | None = None  # awaited while enough waits to be sent
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._handler: Any = None  # what answers, once it has begun or is about to
        self._more: asyncio.Future[None] | None = None  # awaited while no message is there

    def on_message(self, message: bytes) -> None:
        self._messages.append(message)
        self._wake()

    def on_end(self) -> None:
        self._ended = True
        if self.served.method.client_streaming:
            self._wake()
        else:
            self.begin()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def begin(self) -> None:
        """Runs the handler: when the whole request is there, or at once when the client streams."""
        method = self.served.method
        assert self.served.function is not None
        try:
            request = Requests(self) if method.client_streaming else self._request()
            answer = self.served.function(request, self.call)
        except Exception as error:
            self._fail(error)
            return
        if isinstance(answer, asyncio.Future):
            self.task = answer
            answer.add_done_callback(self._on_answer)
        elif method.server_streaming or isinstance(answer, Coroutine):
            self._handler = answer
            self._start(self._run(answer))
        else:
            self._answer(answer)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        loop, served = self._connection.loop, self.served
        # A task from the start is cheaper for who waits than one that takes over; now and then it is tried anew.
        if served.waits and self.stream % TRY_EVERY != 1:
            self.task = loop.create_task(coroutine)
            return
        task = start(loop, coroutine)
        served.waits = task is not None
        if not self.over:
            self.task = task

    async def _run(self, answer: Any) -> None:
        try:
            if not self.served.method.server_streaming:
                self._answer(await answer)
                return
            await self._send_all(answer)
        except asyncio.CancelledError:
            self._finish(Code.CANCELLED, "the call was cancelled at the server")
            raise
        except Exception as error:
            self._fail(error)
        else:
            self._finish(Code.OK, "")

    def _on_answer(self, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            self._finish(Code.CANCELLED, "the call was cancelled at the server")
        elif (error := answer.exception()) is not None:
            self._fail(error)
        else:
            self._answer(answer.result())

    def _answer(self, response: Any) -> None:
        """The one response of a call."""
        if self.over:
            return
        try:
            message = response.SerializeToString()
        except Exception as error:
            self._fail(error)
            return
        self._connection.respond(self, message)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, RpcError):
            self._finish(error.code, error.message)
            return
        log.error("unhandled error in %s", self.served.method.path, exc_info=error)
        self._finish(Code.INTERNAL, f"{type(error).__name__}: {error}")

    def _finish(self, code: Code, message: str) -> None:
        if not self.over:
            self._connection.finish(self, code, message)

    async def _send_all(self, answers: AsyncIterator[Any]) -> None:
        connection = self._connection
        try:
            async for answer in answers:
                room = connection.core.send_message(self.stream, answer.SerializeToString())
                connection.write_soon()
                if not room:
                    self.room = connection.loop.create_future()
                    await self.room
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                await close()

    def _request(self) -> Any:
        if len(self._messages) != 1:
            raise RpcError(Code.INTERNAL, f"{len(self._messages)} messages in a call that takes one")
        return self.served.parse(self._messages[0])

    async def next_message(self) -> bytes:
        """The next message of a client that streams. Raises StopAsyncIteration behind the last."""
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            if self.over:
                raise RpcError(Code.CANCELLED, "the call is over")
            self._more = self._connection.loop.create_future()
            await self._more
        message = self._messages.popleft()
        self._connection.taken(self.stream, message)
        return message

    def close(self) -> None:
        """Nothing can be sent in the call any more."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
        self._wake()

    def cancel(self) -> None:
        """Ends the handler."""
        self.close()
        if self.task is not None:
            self.task.cancel()
            # A task that is cancelled before its first step never gets to what it was to await.
            if iscoroutine(self._handler) and getcoroutinestate(self._handler) == CORO_CREATED:
                self._handler.close()


class Requests:
    """The messages of a client that streams, as its handler reads them."""

    def __init__(self, call: ServedCall) -> None:
        self._call = call

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        return self._call.served.parse(await self._call.next_message())


class ServedConnection(asyncio.Protocol):
    """The protocol of one connection. `methods` by path; `users`: who may call, empty for everybody."""

    def __init__(
        self,
        methods: Mapping[str, Served],
        users: frozenset[str],
        limits: Limits,
        on_lost: Callable[["ServedConnection"], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.core = ServerConnection(limits)
        self._heard_s = self.loop.time()
        self._methods = methods
        self._users = users
        self._on_lost = on_lost
        self._calls: dict[int, ServedCall] = {}
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._writing = False
        self._stopping = False
        self._identity: Identity | ValueError | None = None
        self._denied: RpcError | None = None
        self._asked_s: float | None = None  # when a sign of life was asked for
        self._closed_s: float | None = None  # when closing began

    # Of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        # Kept, as handlers may ask when the connection is gone, and nobody's certificate is not no certificate.
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if certificate:
            try:
                self._identity = _identity_of(ssl.DER_cert_to_PEM_cert(certificate).encode())
            except ValueError as error:
                self._identity = error
        self._denied = self._denial()
        self._write()

    def data_received(self, data: bytes) -> None:
        now_s = self._heard_s = self.loop.time()
        calls = self._calls
        timed: list[ServedCall] = []
        for event in self.core.receive(data, now_s):
            kind = type(event)
            if kind is CallOpened:
                self._open(cast(CallOpened, event), now_s, timed)
            elif kind is MessageReceived:
                event = cast(MessageReceived, event)
                if event.stream in calls:
                    calls[event.stream].on_message(event.message)
            elif kind is PeerEnded:
                event = cast(PeerEnded, event)
                if event.stream in calls:
                    calls[event.stream].on_end()
            elif kind is CallCancelled:
                self._drop(cast(CallCancelled, event).stream)
        for call in timed:
            if not call.over:
                assert call.call.deadline_s is not None
                call.timer = self.loop.call_at(call.call.deadline_s, self._expire, call)
        self.write_soon()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def eof_received(self) -> None:
        """A client that has closed its side reads nothing either."""

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        for event in self.core.lost("the connection is lost"):
            if isinstance(event, CallCancelled):
                self._drop(event.stream)
        self._on_lost(self)

    # Calls

    def _open(self, opened: CallOpened, now_s: float, timed: list[ServedCall]) -> None:
        stream, head = opened.stream, opened.head
        served = self._methods.get(head.path)
        if self._denied is not None:
            self.core.finish(stream, self._denied.code, self._denied.message)
            return
        if served is None or served.function is None:
            self.core.finish(stream, Code.UNIMPLEMENTED, f"{head.path[:256]} is not implemented")
            return
        deadline_s = None if head.timeout_s is None else now_s + head.timeout_s
        call = ServedCall(self, stream, served, Call(self.identity, head.metadata, deadline_s, self.loop.time))
        self._calls[stream] = call
        if deadline_s is not None:
            timed.append(call)
        if served.method.client_streaming:
            call.begin()

    def _expire(self, call: ServedCall) -> None:
        self.finish(call, Code.DEADLINE_EXCEEDED, "the deadline has passed")
        call.cancel()

    def _drop(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.cancel()
            self._close_when_done()

    def finish(self, call: ServedCall, code: Code, message: str) -> None:
        """Sends the call's status."""
        call.close()
        del self._calls[call.stream]
        self.core.finish(call.stream, code, message)
        self.write_soon()
        self._close_when_done()

    def respond(self, call: ServedCall, message: bytes) -> None:
        """Sends the answer of a call with one response."""
        call.close()
        del self._calls[call.stream]
        self.core.respond(call.stream, message)
        if not self._writing:
            self.write_soon()
        if self._stopping:
            self._close_when_done()

    def taken(self, stream: int, message: bytes) -> None:
        """A handler took a message of its client."""
        self.core.taken(stream, message)
        if self.core.wants_write:
            self.write_soon()

    # Who the client is

    def identity(self) -> Identity | None:
        """Whom the client's certificate names, None without one. Raises ValueError when it names nobody."""
        if isinstance(self._identity, ValueError):
            raise self._identity
        return self._identity

    def _denial(self) -> RpcError | None:
        """Why this client may not call; None when it may."""
        if not self._users:
            return None
        if isinstance(self._identity, Identity) and self._identity.user in self._users:
            return None
        shown = repr(self._identity.user) if isinstance(self._identity, Identity) else "nobody"
        return RpcError(Code.PERMISSION_DENIED, f"the client certificate names {shown}, which may not call this")

    # Writing and ending

    def write_soon(self) -> None:
        """Writes what is ready when the others of this turn of the loop have run."""
        if not self._writing:
            self._writing = True
            self.loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        transport, core = self._transport, self.core
        if transport is None or transport.is_closing():
            return
        while not self._paused and core.wants_write:
            transport.write(core.outgoing())
        for stream in core.drained():
            call = self._calls.get(stream)
            if call is not None and call.room is not None and not call.room.done():
                call.room.set_result(None)
        if core.ended:
            self.close()

    def check(self, now_s: float, silent_s: float, answer_s: float) -> None:
        """Asks a client that is silent for `silent_s` for a sign of life; aborts when none comes for `answer_s`."""
        if self._closed_s is not None:
            if now_s - self._closed_s > answer_s:
                self.abort()
        elif now_s - self._heard_s < silent_s:
            self._asked_s = None
        elif self._asked_s is None:
            self._asked_s = now_s
            self.core.ping()
            self._write()
        elif now_s - self._asked_s > answer_s:
            self.abort()

    def go_away(self) -> None:
        """Takes no new calls; closes when those under way are done."""
        self._stopping = True
        self.core.go_away("the server is stopping")
        self._write()
        self._close_when_done()

    def end_calls(self) -> list[asyncio.Future[Any]]:
        """Answers every call under way with UNAVAILABLE; what their handlers wait for, which is cancelled."""
        calls = list(self._calls.values())
        for call in calls:
            self.finish(call, STOPPING.code, STOPPING.message)
            call.cancel()
        return [call.task for call in calls if call.task is not None]

    def _close_when_done(self) -> None:
        if self._stopping and not self._calls:
            self._write()
            self.close()

    def close(self) -> None:
        """Closes the connection once what was written is sent."""
        if self._transport is not None and not self._transport.is_closing():
            self._closed_s = self.loop.time()
            self._transport.close()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

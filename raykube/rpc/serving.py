"""One client's connection: carries bytes to the core and runs a handler per call.

Writes gather: whatever became ready in a turn of the event loop goes out in one write (`turn.py`). A handler that
answers with a stream is not asked for more while its messages wait for the client; a client that streams is slowed
down when its messages are not read.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from raykube.rpc.core.events import CallCancelled, CallOpened, MessageReceived, PeerEnded
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code, RpcError
from raykube.rpc.handlers import Call, Served
from raykube.rpc.served_call import ServedCall
from raykube.rpc.tls import Identity, denial, peer_of
from raykube.rpc.turn import Turn

WRITE_BUFFER_BYTES = 256 * 1024
LINGER_S = 0.5  # for a client to leave, who was told to and has its answers
STOPPING = RpcError(Code.UNAVAILABLE, "the server is stopping")


class ServedConnection(asyncio.Protocol):
    """The protocol of one connection. `methods` by path; `users`: who may call, empty for everybody."""

    def __init__(
        self,
        methods: Mapping[str, Served],
        users: frozenset[str],
        limits: Limits,
        on_made: Callable[["ServedConnection"], None],
        on_lost: Callable[["ServedConnection"], None],
        turn: Turn,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.core = ServerConnection(limits)
        self.inflated_bytes_max = limits.inflated_bytes_max
        self._heard_s = self.loop.time()
        self._methods = methods
        self._users = users
        self._on_made = on_made
        self._on_lost = on_lost
        self._turn = turn
        self._calls: dict[int, ServedCall] = {}
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._writing = False
        self._stopping = False
        self._identity: Identity | ValueError | None = None
        self._denied: RpcError | None = None
        self._asked_s: float | None = None  # when a sign of life was asked for
        self._closed_s: float | None = None  # when closing began
        self._leaving: asyncio.TimerHandle | None = None  # closes it, if the client does not

    # Of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        # Kept, as handlers may ask when the connection is gone, and nobody's certificate is not no certificate.
        self._identity = peer_of(transport)
        self._denied = denial(self._identity, self._users)
        self._write()
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        now_s = self._heard_s = self.loop.time()
        calls = self._calls
        timed: list[ServedCall] = []
        for event in self.core.receive(data, now_s):
            if isinstance(event, CallOpened):
                self._open(event, now_s, timed)
            elif isinstance(event, MessageReceived):
                if event.stream in calls:
                    calls[event.stream].on_message(event.message)
            elif isinstance(event, PeerEnded):
                if event.stream in calls:
                    calls[event.stream].on_end()
            elif isinstance(event, CallCancelled):
                self._drop(event.stream)
        for call in timed:
            if not call.over:
                assert call.call.deadline_s is not None
                call.timer = self.loop.call_at(call.call.deadline_s, self._expire, call)
        if self.core.wants_write or self.core.ended:
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
        if self._leaving is not None:
            self._leaving.cancel()
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

    # Writing and ending

    def write_soon(self) -> None:
        """Writes with the others of this turn of the loop."""
        if not self._writing:
            self._writing = True
            self._turn.add(self._write)

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
        elif self._stopping and self._leaving is None and not core.calls and not core.wants_write:
            # Not at once: to close while the client's frames lie unread resets the connection, and takes from the
            # client what it was sent and has not read. It leaves by itself as soon as it has all.
            self._leaving = self.loop.call_later(LINGER_S, self.close)

    def check(self, now_s: float, silent_s: float, answer_s: float) -> None:
        """Asks a client that is silent for `silent_s` for a sign of life; aborts when none comes for `answer_s`."""
        if self._closed_s is not None:
            if now_s - self._closed_s > answer_s:
                self.abort()
        elif now_s - self._heard_s < silent_s:
            self._asked_s = None
        elif self._asked_s is None or self._asked_s <= self._heard_s:  # the last one was answered
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

    def end_calls(self) -> list[asyncio.Task[None]]:
        """Answers every call under way with UNAVAILABLE; returns its handlers' tasks, which are cancelled."""
        calls = list(self._calls.values())
        for call in calls:
            self.finish(call, STOPPING.code, STOPPING.message)
            call.cancel()
        return [call.task for call in calls if call.task is not None]

    def _close_when_done(self) -> None:
        """A call is done when its client's windows, and the transport, have let the whole answer pass."""
        if self._stopping:
            self._write()

    def close(self) -> None:
        """Closes the connection once what was written is sent."""
        if self._transport is not None and not self._transport.is_closing():
            self._closed_s = self.loop.time()
            self._transport.close()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

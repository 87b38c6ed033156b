"""The client's role: calls become frames, answers become events.

open_call(path, …) → 1   send_message(1, b"…", end=True)   →   MessageReceived(1, b"…") CallFinished(1, OK, "", {})
"""

from raykube.rpc.core import frames
from raykube.rpc.core.connection import Connection
from raykube.rpc.core.events import CallFinished, GoingAway, HeadReceived
from raykube.rpc.core.frames import ErrorCode, Setting, StreamFault
from raykube.rpc.core.headers import HeaderDecoder
from raykube.rpc.core.heads import Metadata, ResponseHead, parse_response, request_block
from raykube.rpc.core.limits import WIDE, Limits
from raykube.rpc.core.status import code_of_reset
from raykube.rpc.core.stream import Stream
from raykube.rpc.errors import Code, RpcError


class ClientConnection(Connection):
    """A connection that we made. `authority` is the server's `host:port`, `scheme` `http` or `https`."""

    def __init__(self, authority: str, scheme: str = "http", limits: Limits | None = None) -> None:
        limits = limits or WIDE
        super().__init__(limits, b"")
        self._authority = authority
        self._scheme = scheme
        self._decoder = HeaderDecoder(parse_response, limits.header_bytes_max)
        self._next = 1
        self._peer_going_away = False
        self._output.put(frames.PREFACE)
        self.has_answered = False  # any call, be it with a refusal
        self._greet((Setting.ENABLE_PUSH, 0))

    # Calls

    @property
    def can_open(self) -> bool:
        """Whether the server takes one more call now; when `spent`, it never will on this connection."""
        return len(self._streams) < self._peer_streams_max and not self.spent

    @property
    def room(self) -> int:
        """How many more calls the server takes now; not positive: none."""
        return 0 if self.spent else self._peer_streams_max - len(self._streams)

    @property
    def spent(self) -> bool:
        """No call can be opened here any more: make a new connection."""
        return self.ended or self._peer_going_away or self.going_away or self._next > frames.STREAM_MAX

    def open_call(self, path: str, timeout_s: float | None = None, metadata: Metadata = ()) -> int:
        """Sends a call's head; returns its stream. Only when `can_open`."""
        assert self.can_open
        number = self._next
        self._next += 2
        self._streams[number] = Stream(number, self._peer_stream_window, self._limits.stream_window_bytes)
        block = request_block(path, self._authority, self._scheme, timeout_s, metadata)
        self._put_block(number, block, end=False)
        return number

    def send_message(self, number: int, message: bytes, *, end: bool = False) -> bool:
        """One message of the request; `end`: the last.

        False when enough waits to be sent: do not send more before `drained()` names the stream. A call that is over
        takes everything.
        """
        stream = self._streams.get(number)
        return True if stream is None else self._output.message(stream, message, end)

    def has_room(self, number: int) -> bool:
        """Whether `send_message` would not return False for want of room now."""
        stream = self._streams.get(number)
        return stream is None or not stream.full

    def end(self, number: int) -> None:
        """No more messages follow those sent."""
        stream = self._streams.get(number)
        if stream is None or stream.ended or stream.end_wanted:
            return
        if stream.pending:
            stream.end_wanted = True
        else:
            stream.ended = True
            self._output.put(frames.frame(frames.DATA, frames.END_STREAM, number))

    # Answers

    def _is_idle(self, stream: int) -> bool:
        return stream % 2 == 0 or stream >= self._next

    def _on_sent(self, stream: Stream) -> None:
        raise AssertionError(f"stream {stream.id} has a tail, which only a server's answers have")

    def _last_seen(self) -> int:
        return 0  # servers open no streams

    def _on_block(self, number: int, block: bytes, end_stream: bool) -> None:
        self._not_idle(number)
        head = self._decoder.decode(block)
        self.has_answered = True
        stream = self._streams.get(number)
        if stream is None:
            if number not in self._reset_by_us:
                # Not the connection's end: we remember the latest of the calls that we gave up, not all.
                raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
            return
        if end_stream:
            stream.peer_ended = True
            self._on_end(stream, head)
        elif stream.answered:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
        elif head.status is None:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "an answer without :status")
        elif head.status[:1] != "1":  # those are interim answers, of no interest
            stream.answered = True
            if head.flaw is not None:
                self._refuse(stream, *head.flaw)
            else:
                self._events.append(HeadReceived(number, dict(head.metadata)))

    def _on_bytes(self, stream: Stream, payload: bytes) -> bool:
        if not stream.answered:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "an answer without a head")
        return super()._on_bytes(stream, payload)

    def _on_end(self, stream: Stream, head: ResponseHead) -> None:
        if head.code is not None:
            code, message = head.code, head.message
        elif head.flaw is not None:
            code, message = head.flaw
        else:
            code, message = Code.UNKNOWN, "the server ended the call without a status"
        if code is Code.OK and stream.partial_bytes:
            code, message = Code.INTERNAL, "the server ended the call within a message"
        self._finish(stream, code, message, head)

    def _finish(self, stream: Stream, code: Code, message: str, head: ResponseHead | None = None) -> None:
        """The call is over; the server is told to forget it when we have not ended our side."""
        self._forget(stream)
        if not stream.ended:
            self._output.put(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._remember_reset(stream.id)
        metadata = dict(head.metadata) if head is not None and head.metadata else {}
        self._events.append(CallFinished(stream.id, code, message, metadata))

    def _on_peer_end(self, stream: Stream) -> None:
        self._finish(stream, Code.UNKNOWN, "the server ended the call without a status")

    def _on_reset(self, stream: Stream, code: int) -> None:
        message = f"the server reset the call (error code {code})"
        unprocessed = code == ErrorCode.REFUSED_STREAM
        self._events.append(CallFinished(stream.id, code_of_reset(code), message, {}, unprocessed))

    def _on_broken(self, stream: Stream, error: RpcError) -> None:
        self._events.append(CallFinished(stream.id, error.code, error.message, {}))

    def _on_refused(self, stream: Stream, error: RpcError) -> None:
        # An answer of a form that was not offered is the server's mistake, not a method it lacks.
        self._refuse(stream, Code.INTERNAL if error.code is Code.UNIMPLEMENTED else error.code, error.message)

    def _refuse(self, stream: Stream, code: Code, message: str) -> None:
        self._forget(stream)
        self._output.control(frames.rst_stream(stream.id, ErrorCode.CANCEL))
        self._remember_reset(stream.id)
        self._events.append(CallFinished(stream.id, code, message, {}))

    def _on_goaway(self, number: int, flags: int, payload: bytes) -> None:
        super()._on_goaway(number, flags, payload)
        going = self._events[-1]
        assert isinstance(going, GoingAway)
        self._peer_going_away = True
        reason = f"the server is going away{': ' if going.reason else ''}{going.reason}"
        for stream in [stream for stream in self._streams.values() if stream.id > going.last_stream]:
            self._forget(stream)
            self._events.append(CallFinished(stream.id, Code.UNAVAILABLE, reason, {}, True))

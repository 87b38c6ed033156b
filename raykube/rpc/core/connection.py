"""What both roles of a connection share: frames in and out, windows, settings, pings, GOAWAY.

    events = connection.receive(data, now_s)     bytes from the peer, in any pieces
    data = connection.outgoing()                 bytes for the peer; b"" when nothing can be sent now

Sending never blocks: what finds no window waits in its stream. `send_message` returns False when a stream has enough
waiting; its sender should wait until `drained()` names the stream. A shell whose transport is full stops calling
`outgoing`: data then stays in its streams, and a peer that makes us answer without reading is cut off.

Receiving: a connection's window is given back at once, a stream's as its messages are taken (`taken`), so one slow
consumer delays its own call only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from raykube.rpc.core import frames
from raykube.rpc.core.events import ConnectionEnded, Event, GoingAway, MessageReceived, PingAnswered, SettingsReceived
from raykube.rpc.core.frames import ConnectionFault, ErrorCode, Setting, StreamFault
from raykube.rpc.core.headers import SIZE_UPDATE_0
from raykube.rpc.core.limits import Allowance, Limits
from raykube.rpc.core.messages import PREFIX_BYTES, MessageReader, alone
from raykube.rpc.core.output import Output
from raykube.rpc.core.reader import FrameReader, unpadded
from raykube.rpc.core.stream import Stream
from raykube.rpc.errors import Code, RpcError

STREAMS_A_CONTROL = 100  # whose windows are changed for the price of one control frame


class Connection(ABC):
    """One end of an HTTP/2 connection; `ServerConnection` and `ClientConnection` are its roles."""

    # A role's, not a connection's: its own methods in a table of its own would keep it when nobody has it any more, in
    # processes whose collector of garbage seldom looks.
    _handlers: ClassVar[Mapping[int, Callable[[Any, int, int, bytes], None]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._handlers = {
            frames.HEADERS: cls._on_headers,
            frames.PRIORITY: cls._on_priority,
            frames.RST_STREAM: cls._on_rst_stream,
            frames.SETTINGS: cls._on_settings,
            frames.PUSH_PROMISE: cls._on_push_promise,
            frames.PING: cls._on_ping,
            frames.GOAWAY: cls._on_goaway,
            frames.WINDOW_UPDATE: cls._on_window_update,
        }

    def __init__(self, limits: Limits, preface: bytes) -> None:
        self._limits = limits
        self._reader = FrameReader(limits, preface)
        self._events: list[Event] = []
        self._streams: dict[int, Stream] = {}
        self._reset_by_us: dict[int, None] = {}  # ids, oldest first: frames for them are still on the way
        self._receive_window = limits.connection_window_bytes
        self._buffered_bytes = 0
        self._output = Output(limits)
        self._peer_stream_window = frames.WINDOW_DEFAULT
        self._peer_streams_max = frames.STREAM_MAX
        self._block_prefix = b""  # owed before our next header block
        self._controls = Allowance(10_000, 1_000)
        self._resets = Allowance(10_000, 1_000)
        self._now_s = 0.0
        self.ended = False  # by a fault of the peer
        self.going_away = False  # we sent GOAWAY

    def _greet(self, *settings: tuple[Setting, int]) -> None:
        limits = self._limits
        self._output.put(
            frames.settings_frame(
                (
                    (Setting.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
                    (Setting.MAX_FRAME_SIZE, limits.frame_bytes_max),
                    (Setting.MAX_HEADER_LIST_SIZE, limits.header_bytes_max),
                    *settings,
                )
            )
        )
        if limits.connection_window_bytes > frames.WINDOW_DEFAULT:
            self._output.put(frames.window_update(0, limits.connection_window_bytes - frames.WINDOW_DEFAULT))

    # What a role decides

    @abstractmethod
    def _is_idle(self, stream: int) -> bool:
        """Whether no call of this id was ever opened."""

    @abstractmethod
    def _on_block(self, stream: int, block: bytes, end_stream: bool) -> None:
        """A whole header block. Raises ConnectionFault or StreamFault."""

    @abstractmethod
    def _on_peer_end(self, stream: Stream) -> None:
        """The peer ended its side by DATA."""

    @abstractmethod
    def _on_reset(self, stream: Stream, code: int) -> None:
        """The peer reset the stream, which is closed already."""

    @abstractmethod
    def _on_broken(self, stream: Stream, error: RpcError) -> None:
        """The stream was closed and reset by us, for a fault of the peer."""

    @abstractmethod
    def _on_refused(self, stream: Stream, error: RpcError) -> None:
        """A message of the peer cannot be taken; the stream is still open."""

    # Receiving

    def receive(self, data: bytes, now_s: float) -> list[Event]:
        """What the bytes mean. `now_s`: any clock that goes forward, for allowances. Peers cannot make it raise."""
        if self.ended:
            return []
        self._now_s = now_s
        events = self._events
        handlers = self._handlers
        try:
            for kind, stream, flags, payload in self._reader.feed(data):
                try:
                    if kind == frames.DATA:
                        self._on_data(stream, flags, payload)
                    elif kind in handlers:
                        handlers[kind](self, stream, flags, payload)
                except StreamFault as fault:
                    self._break(stream, fault)
        except ConnectionFault as fault:
            self._fail(fault)
        self._events = []  # else the last messages of a connection that is silent are kept until it speaks again
        return events

    def _on_data(self, number: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        window = self._limits.connection_window_bytes
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self._receive_window <= window // 2:
            self._output.control(frames.window_update(0, window - self._receive_window))
            self._receive_window = window
        stream = self._streams.get(number)
        if stream is None or stream.peer_ended:
            self._on_closed(number, stream)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        if flags & frames.PADDED:
            payload = unpadded(payload)
        end = flags & frames.END_STREAM
        if payload:
            self._controls.earn()
            if not self._on_bytes(stream, payload):
                return
        elif not end:
            self._spend_control("empty DATA")
        if end:
            stream.peer_ended = True
            if stream.partial_bytes:
                self._on_refused(stream, RpcError(Code.INTERNAL, "the stream ended within a message"))
            else:
                self._on_peer_end(stream)
        else:
            self._replenish(stream)

    def _on_bytes(self, stream: Stream, payload: bytes) -> bool:
        stream.held_bytes += len(payload)
        self._buffered_bytes += len(payload)
        bytes_max = self._limits.message_bytes_max
        message = alone(payload, bytes_max) if stream.reader is None else None
        if message is not None and self._buffered_bytes <= self._limits.buffered_bytes_max:
            self._events.append(MessageReceived(stream.id, message))
            return True
        try:
            if stream.reader is None:
                stream.reader = MessageReader(bytes_max)
            reader = stream.reader
            messages = reader.feed(payload)
            if not (reader.partial_bytes or reader.are_compressed):
                stream.reader = None
            if self._buffered_bytes > self._limits.buffered_bytes_max:
                raise RpcError(Code.RESOURCE_EXHAUSTED, "too many messages wait on this connection")
        except RpcError as error:
            self._on_refused(stream, error)
            return False
        for message in messages:
            self._events.append(MessageReceived(stream.id, message))
        return True

    def _on_closed(self, number: int, stream: Stream | None) -> None:
        """A frame of a stream that has ended: it may be under way since before we reset it, or a fault."""
        if stream is None:
            self._not_idle(number)
            if number in self._reset_by_us:
                return
        raise StreamFault(ErrorCode.STREAM_CLOSED, "the stream is closed")

    def _not_idle(self, number: int) -> None:
        if self._is_idle(number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame for stream {number}, which is idle")

    def _replenish(self, stream: Stream) -> None:
        """Gives the peer window back, but for whole messages that nobody took: those of `held_bytes`."""
        window = self._limits.stream_window_bytes
        room = window - stream.held_bytes + stream.partial_bytes
        if room - stream.receive_window >= window // 2:
            self._output.control(frames.window_update(stream.id, room - stream.receive_window))
            stream.receive_window = room

    def taken(self, number: int, message: bytes) -> None:
        """The consumer has this message of stream `number`: there is room for others."""
        stream = self._streams.get(number)
        if stream is not None:
            size = len(message) + PREFIX_BYTES
            stream.held_bytes -= size
            self._buffered_bytes -= size
            if not stream.peer_ended:
                self._replenish(stream)

    def _on_headers(self, number: int, flags: int, block: bytes) -> None:
        self._controls.earn()
        self._on_block(number, block, bool(flags & frames.END_STREAM))

    def _on_priority(self, number: int, _flags: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes")

    def _on_rst_stream(self, number: int, _flags: int, payload: bytes) -> None:
        self._not_idle(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._spend_reset()
            self._forget(stream)
            self._on_reset(stream, int.from_bytes(payload, "big"))

    def _on_settings(self, number: int, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
            return
        before = self._peer_stream_window
        for name, value in frames.parse_settings(payload):
            self._set(name, value)
        more = self._peer_stream_window - before
        # Every open stream is looked at, so once a frame, however often it names the window, and at a price.
        self._spend_control("SETTINGS", 1 + len(self._streams) // STREAMS_A_CONTROL if more else 1)
        if more:
            for stream in self._streams.values():
                self._widen(stream, more)
        self._output.control(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._events.append(SettingsReceived())

    def _set(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is beyond 2^31-1")
            self._peer_stream_window = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES_MIN <= value <= frames.FRAME_BYTES_MAX:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
            # No longer ones than we would take: streams take turns by the frame.
            self._output.frame_bytes_max = min(value, self._limits.frame_bytes_max)
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self._peer_streams_max = value
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        elif name == Setting.HEADER_TABLE_SIZE:
            self._block_prefix = SIZE_UPDATE_0

    def _widen(self, stream: Stream, more: int) -> None:
        stream.send_window += more
        if stream.send_window > frames.WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is beyond 2^31-1")
        self._output.wake(stream)

    def _on_push_promise(self, _number: int, _flags: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not allowed here")

    def _on_ping(self, number: int, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._events.append(PingAnswered(payload))
        else:
            self._spend_control("PING")
            self._output.control(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, number: int, _flags: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        last = int.from_bytes(payload[:4], "big") & frames.STREAM_MAX
        reason = payload[8 : 8 + 256].decode("utf-8", "replace")
        self._events.append(GoingAway(last, int.from_bytes(payload[4:8], "big"), reason))

    def _on_window_update(self, number: int, _flags: int, payload: bytes) -> None:
        more = int.from_bytes(payload, "big") & frames.WINDOW_MAX
        if not number:
            self._output.window += more
            if not more or self._output.window > frames.WINDOW_MAX:
                code = ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, f"WINDOW_UPDATE of {more}")
            return
        stream = self._streams.get(number)
        if stream is None:
            self._not_idle(number)
        elif not more:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif stream.send_window + more > frames.WINDOW_MAX:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE beyond 2^31-1")
        else:
            self._widen(stream, more)

    # Faults of the peer

    def _spend_control(self, what: str, price: int = 1) -> None:
        if not self._controls.spend(self._now_s, price):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {what}")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self._now_s):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a flood of calls that are reset")

    def _break(self, number: int, fault: StreamFault) -> None:
        """Ends one stream for a fault of the peer."""
        if not number:
            raise ConnectionFault(fault.code, fault.reason) from fault
        self._spend_reset()
        stream = self._streams.get(number)
        self._output.control(frames.rst_stream(number, fault.code))
        if stream is not None:
            self._forget(stream)
            self._on_broken(stream, RpcError(Code.INTERNAL, fault.reason))
        self._remember_reset(number)

    def _fail(self, fault: ConnectionFault) -> None:
        """Ends the connection for a fault of the peer."""
        self._output.put(frames.goaway(self._last_seen(), fault.code, fault.reason))
        self._end_all(f"the peer broke the protocol: {fault.reason}")
        self._events.append(ConnectionEnded(fault.code, fault.reason))

    def _end_all(self, reason: str) -> None:
        self.ended = True
        for stream in list(self._streams.values()):
            self._forget(stream)
            self._on_broken(stream, RpcError(Code.UNAVAILABLE, reason))

    def lost(self, reason: str) -> list[Event]:
        """The transport is gone: every call under way ends. Returns those events."""
        self._events = []
        if not self.ended:
            self._end_all(reason)
        return self._events

    # Sending

    def outgoing(self) -> bytes:
        """Bytes to write now; call again while `wants_write`, unless the transport is full."""
        output = self._output
        output.fill()
        if output.sent:
            for stream in output.sent:
                self._on_sent(stream)
            output.sent.clear()
        return output.flush()

    @property
    def wants_write(self) -> bool:
        """Whether `outgoing` has something."""
        return self._output.waiting

    def drained(self) -> list[int]:
        """Streams whose `send_message` returned False and which take more now (or are over), since the last call."""
        return self._output.drained()

    def ping(self, payload: bytes = b"\0" * 8) -> None:
        """Asks the peer for a sign of life of these 8 bytes; `PingAnswered` follows."""
        self._output.put(frames.frame(frames.PING, 0, 0, payload))

    def go_away(self, reason: str = "") -> None:
        """Takes no new calls of the peer; those under way go on. `idle` tells when there are none."""
        if not self.going_away and not self.ended:
            self.going_away = True
            self._output.put(frames.goaway(self._last_seen(), ErrorCode.NO_ERROR, reason))

    @property
    def calls(self) -> int:
        """Number of calls under way."""
        return len(self._streams)

    def reset(self, number: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Gives a call up at once; nothing more is reported of it."""
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._output.put(frames.rst_stream(number, code))
            self._remember_reset(number)

    @abstractmethod
    def _on_sent(self, stream: Stream) -> None:
        """All DATA of a stream with a tail is framed."""

    @abstractmethod
    def _last_seen(self) -> int:
        """The highest id of the peer's calls that were acted on."""

    def _put_block(self, number: int, block: bytes, *, end: bool) -> None:
        if self._block_prefix:
            block, self._block_prefix = self._block_prefix + block, b""
        self._output.put(frames.header_frames(number, block, self._output.frame_bytes_max, end_stream=end))

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._buffered_bytes -= stream.held_bytes
        if stream.pending or stream.full:
            self._output.drop(stream)

    def _remember_reset(self, number: int) -> None:
        remembered = self._reset_by_us
        remembered[number] = None
        if len(remembered) > self._limits.streams_max:
            del remembered[next(iter(remembered))]

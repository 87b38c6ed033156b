"""What waits to be written, in the order it must go: control frames and heads at once, DATA as windows allow."""

from raykube.rpc.core import frames
from raykube.rpc.core.frames import ConnectionFault, ErrorCode
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.messages import PREFIX_BYTES
from raykube.rpc.core.stream import Stream


class Output:
    """The sending half of a connection: streams take turns, a frame each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.window = frames.WINDOW_DEFAULT  # the connection's
        self.frame_bytes_max = frames.FRAME_BYTES_MIN  # the peer's
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._control_frames = 0
        self._ready: dict[int, Stream] = {}  # an ordered set: have pending bytes and a window
        self._drained: list[int] = []
        self.pending_bytes = 0  # of all streams
        self.sent: list[Stream] = []  # all their DATA is framed: their trailers may follow

    def put(self, data: bytes) -> None:
        """Whole frames that no window holds back."""
        self._out.append(data)
        self._out_bytes += len(data)

    def control(self, data: bytes) -> None:
        """An answer that the peer provoked. Raises ConnectionFault when it provokes them without reading."""
        self._control_frames += 1
        if self._control_frames > self._limits.control_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are provoked and not read")
        self._out.append(data)
        self._out_bytes += len(data)

    def room_for(self, stream: Stream, message: bytes) -> bool:
        """Whether the message may be framed whole, now."""
        size = len(message) + PREFIX_BYTES
        return (
            not stream.pending
            and size <= stream.send_window
            and size <= self.window
            and size <= self.frame_bytes_max
            and self._out_bytes < self._limits.output_bytes_max
        )

    def answer(self, number: int, head: bytes, message: bytes, tail: bytes) -> None:
        """Frames of a whole answer, for which there is `room_for`; its stream ends with it."""
        size = len(message) + PREFIX_BYTES
        self.window -= size
        self._out += (head, frames.message_head(number, 0, size - PREFIX_BYTES), message, tail)
        self._out_bytes += size + len(head) + len(tail) + frames.HEAD_BYTES

    def message(self, stream: Stream, payload: bytes, end: bool) -> bool:
        """DATA of one whole message; `end`: the last of our side. False when the stream has enough waiting."""
        size = len(payload) + PREFIX_BYTES
        if self.room_for(stream, payload):
            stream.send_window -= size
            self.window -= size
            self._out.append(frames.message_head(stream.id, frames.END_STREAM if end else 0, size - PREFIX_BYTES))
            self._out.append(payload)
            self._out_bytes += size + frames.HEAD_BYTES
            stream.ended = end
            return True
        stream.put(b"\0" + (size - PREFIX_BYTES).to_bytes(4, "big"), payload)
        self.pending_bytes += size
        stream.end_wanted = end
        self.wake(stream)
        stream.full = stream.pending_bytes > self._limits.stream_queue_bytes
        return not stream.full

    def wake(self, stream: Stream) -> None:
        """The stream's window or what it has to send has changed."""
        if not stream.pending:
            return
        if stream.send_window > 0:
            self._ready[stream.id] = stream
        else:  # it may have been ready, held back by the connection's window or a full transport
            self._ready.pop(stream.id, None)

    def drop(self, stream: Stream) -> None:
        """Nothing of the stream will be sent any more."""
        if stream.pending:
            self._ready.pop(stream.id, None)
            self.pending_bytes -= stream.pending_bytes
            stream.clear()
        if stream.full:
            stream.full = False
            self._drained.append(stream.id)

    @property
    def framed_bytes(self) -> int:
        """Bytes that the transport has not taken; heads and statuses are among them however many they are."""
        return self._out_bytes

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._out) or (bool(self._ready) and self.window > 0)

    def fill(self) -> None:
        """Frames DATA, as windows and `output_bytes_max` allow."""
        ready = self._ready
        while ready and self.window > 0 and self._out_bytes < self._limits.output_bytes_max:
            number = next(iter(ready))
            stream = ready.pop(number)
            self._frame(stream)
            if stream.pending and stream.send_window > 0:
                ready[number] = stream

    def flush(self) -> bytes:
        """Everything framed, to be written now."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._control_frames = 0
        return data

    def _frame(self, stream: Stream) -> None:
        """One DATA frame of the stream's pending bytes."""
        size = min(stream.pending_bytes, stream.send_window, self.window, self.frame_bytes_max)
        chunks = stream.take(size)
        self.pending_bytes -= size
        stream.send_window -= size
        self.window -= size
        end = stream.end_wanted and not stream.pending
        self._out.append(frames.HEAD.pack(size << 8, frames.END_STREAM if end else 0, stream.id))
        self._out += chunks
        self._out_bytes += size + frames.HEAD_BYTES
        if stream.full and stream.pending_bytes <= self._limits.stream_queue_bytes:
            stream.full = False
            self._drained.append(stream.id)
        if end:
            stream.ended = True
        elif stream.tail and not stream.pending:
            self.sent.append(stream)

    def drained(self) -> list[int]:
        """Streams that had enough waiting and take more now, since the last call."""
        found, self._drained = self._drained, []
        return found

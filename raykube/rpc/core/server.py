"""The server's role: requests become events, answers become frames.

CallOpened(1, head) MessageReceived(1, b"…") PeerEnded(1)   →   respond(1, b"…")                     unary
                                                                send_message(1, b"…") … finish(1)    streamed
                                                                finish(1, NOT_FOUND, "no such key")  an error
"""

from raykube.rpc.core import frames
from raykube.rpc.core.connection import Connection
from raykube.rpc.core.events import CallCancelled, CallOpened, PeerEnded
from raykube.rpc.core.frames import ConnectionFault, ErrorCode, Setting, StreamFault
from raykube.rpc.core.headers import HeaderDecoder
from raykube.rpc.core.heads import ANSWER_BLOCK, TRAILERS_OK, parse_request, refusal_block, trailers_block
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.messages import MessageReader
from raykube.rpc.core.stream import Stream
from raykube.rpc.errors import Code, RpcError


def _head_of_frame(block: bytes, flags: int) -> bytes:
    """A HEADERS frame's bytes before its stream id."""
    return frames.frame(frames.HEADERS, flags | frames.END_HEADERS, 0, block)[:5]


_ANSWER_START = _head_of_frame(ANSWER_BLOCK, 0)
_OK_START = _head_of_frame(TRAILERS_OK, frames.END_STREAM)


class ServerConnection(Connection):
    """A connection that a client made."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        super().__init__(limits, frames.PREFACE)
        self._decoder = HeaderDecoder(parse_request, limits.header_bytes_max)
        self._last_opened = 0  # the highest id that was acted on
        self._last_used = 0  # the highest id that the client used
        self._greet((Setting.MAX_CONCURRENT_STREAMS, limits.streams_max))

    # Answers

    def respond(self, number: int, message: bytes) -> bool:
        """The whole answer of a call with one response: head, message, status OK. False: see `send_message`.

        A large one becomes RESOURCE_EXHAUSTED where the client takes none of those that it has asked for before.
        """
        stream = self._streams.get(number)
        if stream is None:
            return True
        if stream.answered or self._block_prefix or not self._output.room_for(stream, message):
            size = len(message)
            if (
                size > self._limits.stream_queue_bytes
                and self._output.pending_bytes > self._limits.buffered_bytes_max - size
                and self._output.pending_bytes
            ):
                self.finish(number, Code.RESOURCE_EXHAUSTED, "too many answers wait on this connection to be taken")
                return True
            room = self.send_message(number, message)
            self.finish(number)
            return room
        # What those two do, in one piece: this is the way of nearly every call.
        start = number.to_bytes(4, "big")
        self._output.answer(
            number, b"".join((_ANSWER_START, start, ANSWER_BLOCK)), message, b"".join((_OK_START, start, TRAILERS_OK))
        )
        self._close(stream)
        return True

    def send_message(self, number: int, message: bytes) -> bool:
        """One message of the answer, after the head where it is the first.

        False when enough waits to be sent: do not send more before `drained()` names the stream. A stream that is over
        takes everything.
        """
        stream = self._streams.get(number)
        if stream is None:
            return True
        if not stream.answered:
            stream.answered = True
            if self._block_prefix:
                self._put_block(number, ANSWER_BLOCK, end=False)
            else:
                self._output.put(_ANSWER_START + number.to_bytes(4, "big") + ANSWER_BLOCK)
        return self._output.message(stream, message, False)

    def finish(self, number: int, code: Code = Code.OK, message: str = "") -> None:
        """Sends the status, behind the messages that wait; a call that is over is left alone."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.answered:
            self._put_block(number, ANSWER_BLOCK + trailers_block(code, message), end=True)
            self._close(stream)
            return
        stream.tail = trailers_block(code, message)
        if not stream.pending:
            self._on_sent(stream)

    def _on_sent(self, stream: Stream) -> None:
        number = stream.id
        if stream.tail is TRAILERS_OK and not self._block_prefix:
            self._output.put(_OK_START + number.to_bytes(4, "big") + TRAILERS_OK)
        else:
            self._put_block(number, stream.tail, end=True)
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        """Our side has ended; the client is told to stop when it has not."""
        self._forget(stream)
        if not stream.peer_ended:
            self._output.put(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._remember_reset(stream.id)

    # Requests

    def _is_idle(self, stream: int) -> bool:
        return stream % 2 == 0 or stream > self._last_used

    def _last_seen(self) -> int:
        return self._last_opened

    def _on_block(self, number: int, block: bytes, end_stream: bool) -> None:
        if number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's streams are odd")
        if number <= self._last_used:
            self._on_trailers(number, block, end_stream)
            return
        self._last_used = number
        if self.going_away:
            # Beyond the last stream of our GOAWAY: the client makes the call again elsewhere.
            self._decoded(block)
            self._remember_reset(number)
            return
        if self._output.framed_bytes > self._limits.unread_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")
        self._last_opened = number
        head = self._decoder.decode(block)
        if len(self._streams) >= self._limits.streams_max:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many calls are under way")
        stream = Stream(number, self._peer_stream_window, self._limits.stream_window_bytes)
        stream.peer_ended = end_stream
        self._streams[number] = stream
        if head.refusal is not None:
            self._put_block(number, refusal_block(head.refusal), end=True)
            self._close(stream)
            return
        if head.is_compressed:
            stream.reader = MessageReader(self._limits.message_bytes_max, are_compressed=True)
        self._events.append(CallOpened(number, head))
        if end_stream:
            self._events.append(PeerEnded(number))

    def _decoded(self, block: bytes) -> None:
        """Keeps the decoder in step with a block that means nothing to us."""
        try:
            self._decoder.decode(block)
        except StreamFault:
            return

    def _on_trailers(self, number: int, block: bytes, end_stream: bool) -> None:
        stream = self._streams.get(number)
        self._decoded(block)
        if stream is None and number not in self._reset_by_us:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
        if stream is None:
            return
        if stream.peer_ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that the client ended")
        if not end_stream:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
        stream.peer_ended = True
        self._on_peer_end(stream)

    def _on_peer_end(self, stream: Stream) -> None:
        self._events.append(PeerEnded(stream.id))

    def _on_reset(self, stream: Stream, code: int) -> None:
        self._events.append(CallCancelled(stream.id, f"the client reset the call (error code {code})"))

    def _on_broken(self, stream: Stream, error: RpcError) -> None:
        self._events.append(CallCancelled(stream.id, error.message))

    def _on_refused(self, stream: Stream, error: RpcError) -> None:
        self._spend_reset()
        self._output.drop(stream)
        self.finish(stream.id, error.code, error.message)
        self._events.append(CallCancelled(stream.id, error.message))

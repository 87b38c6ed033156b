"""Bytes of the peer, in any pieces, into whole frames; header blocks in one, without padding and priority.

What is wrong with a frame by its looks alone is found here; what is wrong at this moment is for the connection to find.
"""

from collections.abc import Iterator

from raykube.rpc.core import frames
from raykube.rpc.core.frames import ConnectionFault, ErrorCode
from raykube.rpc.core.limits import Limits

CONTINUATIONS_MAX = 64
# Frames of a fixed size, PRIORITY aside: its fault ends a stream only.
_SIZES = {frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_AROUND = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
_OF_STREAMS = frozenset((frames.DATA, frames.HEADERS, frames.PRIORITY, frames.RST_STREAM, frames.CONTINUATION))
_OF_THE_CONNECTION = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))

Frame = tuple[int, int, int, bytes]
"""Type, stream, flags, payload."""


class FrameReader:
    """The receiving half of a connection. `preface`: what the peer must send before its first frame."""

    def __init__(self, limits: Limits, preface: bytes) -> None:
        self._limits = limits
        self._preface = preface
        self._greeted = False
        self._rest = b""
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags, parts of a header block under way

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; the payload of DATA is as it came. Raises ConnectionFault."""
        data = self._rest + data if self._rest else data
        if self._preface:
            data = self._after_preface(data)
        at, size, unpack = 0, len(data), frames.HEAD.unpack_from
        while size - at >= frames.HEAD_BYTES:
            word, flags, stream = unpack(data, at)
            kind = word & 0xFF
            start = at + frames.HEAD_BYTES
            end = start + (word >> 8)
            if end - start > self._limits.frame_bytes_max:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is longer than our MAX_FRAME_SIZE")
            if not self._greeted:
                if kind != frames.SETTINGS or flags & frames.ACK:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self._greeted = end <= size
            if end > size:
                break
            at = end
            stream &= frames.STREAM_MAX
            if stream and self._block is None and (kind == frames.DATA or self._is_plain(kind, flags, end - start)):
                yield kind, stream, flags, data[start:end]
                continue
            found = self._checked(kind, stream, flags, data[start:end])
            if found is not None:
                yield found
        self._rest = data[at:]

    def _after_preface(self, data: bytes) -> bytes:
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin as HTTP/2 does")
        self._preface = self._preface[size:]
        return data[size:]

    def _is_plain(self, kind: int, flags: int, size: int) -> bool:
        """Whether it is a header block in one frame with nothing around it."""
        return (
            kind == frames.HEADERS and flags & _AROUND == frames.END_HEADERS and size <= self._limits.header_bytes_max
        )

    def _checked(self, kind: int, stream: int, flags: int, payload: bytes) -> Frame | None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if (not stream and kind in _OF_STREAMS) or (stream and kind in _OF_THE_CONNECTION):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} on stream {stream}")
        if len(payload) != _SIZES.get(kind, len(payload)):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} and {len(payload)} bytes")
        if kind == frames.HEADERS:
            return self._start(stream, flags, payload)
        if kind == frames.CONTINUATION:
            return self._continue(stream, flags, payload)
        return kind, stream, flags, payload

    def _start(self, stream: int, flags: int, payload: bytes) -> Frame | None:
        if flags & frames.PADDED:
            payload = unpadded(payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            payload = payload[5:]
        if not flags & frames.END_HEADERS:
            self._block = (stream, flags, [payload])
            return None
        return self._whole(stream, flags, payload)

    def _continue(self, stream: int, flags: int, payload: bytes) -> Frame | None:
        if self._block is None or self._block[0] != stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        _, first_flags, parts = self._block
        parts.append(payload)
        block = b"".join(parts)
        if len(parts) > CONTINUATIONS_MAX or len(block) > self._limits.header_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long")
        if not flags & frames.END_HEADERS:
            return None
        self._block = None
        return self._whole(stream, first_flags, block)

    def _whole(self, stream: int, flags: int, block: bytes) -> Frame:
        if len(block) > self._limits.header_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long")
        return frames.HEADERS, stream, flags, block


def unpadded(payload: bytes) -> bytes:
    """The payload of a frame with the flag PADDED, without its padding. Raises ConnectionFault."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]

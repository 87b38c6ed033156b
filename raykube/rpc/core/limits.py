"""Bounds of a connection, and allowances against floods."""

from dataclasses import dataclass

from raykube.rpc.core.frames import FRAME_BYTES_MAX, FRAME_BYTES_MIN, WINDOW_DEFAULT, WINDOW_MAX

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may make us hold, in bytes and numbers.

    Windows below HTTP/2's default of 65,535 bytes are refused: a peer may use the default before it has our settings.
    """

    message_bytes_max: int = 512 * MIB  # one message
    inflated_bytes_max: int = 4 * MIB  # one message that came compressed: little that is sent can be much
    buffered_bytes_max: int = 1024 * MIB  # all messages of a connection that are incomplete or not taken yet, each way
    header_bytes_max: int = 16 * 1024  # one header list, as RFC 9113 counts, and its encoded block
    streams_max: int = 10_000  # calls under way that the peer opened
    stream_window_bytes: int = MIB // 4
    connection_window_bytes: int = 4 * MIB
    frame_bytes_max: int = 64 * 1024
    stream_queue_bytes: int = 64 * 1024  # a stream with more to send than this waits before it is given more
    output_bytes_max: int = MIB // 4  # framed bytes waiting to be written; beyond, data stays in its streams
    unread_bytes_max: int = 4 * MIB  # answers that wait to be written; a peer that opens calls beyond it is left
    control_frames_max: int = 10_000  # answers to a peer that it does not read: acknowledgements, resets

    def __post_init__(self) -> None:
        if not min(self.stream_window_bytes, self.connection_window_bytes) >= WINDOW_DEFAULT:
            raise ValueError(f"windows are at least {WINDOW_DEFAULT} bytes")
        if max(self.stream_window_bytes, self.connection_window_bytes) > WINDOW_MAX:
            raise ValueError(f"windows are at most {WINDOW_MAX} bytes")
        if not FRAME_BYTES_MIN <= self.frame_bytes_max <= FRAME_BYTES_MAX:
            raise ValueError(f"frames are at most {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} bytes")


# For who takes in much, and knows the sender: clients, and the store's servers. A watch of thousands of changes a
# second is read in turns, each of which may take a busy server and a busy client tens of milliseconds: the default
# window was used up in a part of it. And several full messages of the store's streams fit: with less, the sender of
# one waits for leave in its middle. Too long a header list ends its connection, with the watches on it: there is room
# for the metadata of clients who pass on what they were called with.
WIDE = Limits(header_bytes_max=MIB // 16, stream_window_bytes=4 * MIB, connection_window_bytes=16 * MIB)


class Allowance:
    """So many events at once, refilled with time and by useful work (a token bucket)."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._at_s: float | None = None

    def spend(self, now_s: float, price: int = 1) -> bool:
        """False when less than that is left."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._left -= price
        return self._left >= 0

    def earn(self) -> None:
        """Useful work came with it."""
        if self._left < self._burst:
            self._left += 1

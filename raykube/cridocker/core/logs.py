"""Docker's stream of a container's log → lines in CRI's format.

    01 00 00 00 00 00 00 28 2026-01-02T03:04:05.678901234Z hello\n      a frame: stream, length, time, text
    2026-01-02T03:04:05.678901234Z stdout F hello\n                     what a kubelet reads

A frame without a final newline is part of a longer line (docker cuts at 16 KiB): its tag is P, not F. A terminal's log
has no frames: every line begins with its time. A *position* is the time of the last entry that was written and how many
were written with just that time: parts of one line share theirs.
"""

import struct
from dataclasses import dataclass

from raykube.cridocker.core.answers import nanoseconds

STREAMS = {1: "stdout", 2: "stderr"}
HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Position:
    """`time` is docker's own text; "" before the first entry."""

    time: str = ""
    count: int = 0

    def after(self, time: str) -> "Position":
        return Position(time, self.count + 1 if time == self.time else 1)


@dataclass(frozen=True, slots=True)
class Entry:
    time: str
    stream: str
    text: bytes  # with its newline, if it has one

    def line(self) -> bytes:
        """In CRI's format."""
        tag = b"F" if self.text.endswith(b"\n") else b"P"
        return b"%s %s %s %s\n" % (self.time.encode(), self.stream.encode(), tag, self.text.removesuffix(b"\n"))


def frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Takes whole frames of (stream, payload) out of `buffer`."""
    found = []
    start = 0
    while len(buffer) - start >= HEADER_BYTES:
        stream, length = struct.unpack_from(">B3xI", buffer, start)
        end = start + HEADER_BYTES + length
        if len(buffer) < end:
            break
        found.append((stream, bytes(buffer[start + HEADER_BYTES : end])))
        start = end
    del buffer[:start]
    return found


class Reader:
    """Takes the stream in pieces, and leaves out what stands before `position`."""

    def __init__(self, position: Position, *, terminal: bool) -> None:
        self._buffer = bytearray()
        self._terminal = terminal
        self._until = position
        self._repeated = 0
        self.position = position

    def feed(self, data: bytes) -> list[Entry]:
        self._buffer += data
        entries = self._lines() if self._terminal else self._frames()
        return [entry for entry in entries if self._is_new(entry)]

    def finish(self) -> list[Entry]:
        """What a terminal wrote last without a newline."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        if not self._terminal or not rest:
            return []
        return [entry for entry in [_entry("stdout", rest)] if self._is_new(entry)]

    def _frames(self) -> list[Entry]:
        return [_entry(STREAMS.get(stream, "stdout"), payload) for stream, payload in frames(self._buffer)]

    def _lines(self) -> list[Entry]:
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        return [_entry("stdout", line + b"\n") for line in lines]

    def _is_new(self, entry: Entry) -> bool:
        if entry.time < self._until.time:
            return False
        if entry.time == self._until.time and self._repeated < self._until.count:
            self._repeated += 1
            return False
        self.position = self.position.after(entry.time)
        return True


def _entry(stream: str, payload: bytes) -> Entry:
    time, _, text = payload.partition(b" ")
    return Entry(time.decode(errors="replace"), stream, text)


def whole(tail: bytes) -> int:
    """How many bytes at the end of a log file are a line that was not written to its end."""
    return len(tail) - (tail.rfind(b"\n") + 1)


def position_of(tail: bytes) -> Position:
    """Where a file ends whose last whole lines are `tail`."""
    times = [line.partition(b" ")[0].decode(errors="replace") for line in tail.split(b"\n")[:-1]]
    if not times:
        return Position()
    count = 0
    for time in reversed(times):
        if time != times[-1]:
            break
        count += 1
    return Position(times[-1], count)


def since(position: Position) -> str:
    """The value of docker's `since` that begins with the entry at `position`: seconds and nanoseconds of the epoch."""
    ns = nanoseconds(position.time)
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09d}"

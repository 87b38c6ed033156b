"""Reads container logs: CRI's lines, and the options of `kubectl logs`.

A line is `TIME STREAM TAGS TEXT`; TAGS begins with P for a part of a longer line and with F for its end.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from raykube.base.clock import parse_rfc3339

_TIME = re.compile(rb"(.*T\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class LogOptions:
    follow: bool = False
    tail_lines: int | None = None
    since: float | None = None  # seconds since the epoch
    timestamps: bool = False
    previous: bool = False
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    time: bytes
    stream: bytes
    text: bytes  # with its end of line if it has one


def parse_line(line: bytes) -> LogLine | None:
    """One line of a log file, its newline cut off; None when it is not in CRI's format."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    time, stream, tags, text = parts
    partial = tags.split(b":")[0] == b"P"
    return LogLine(time, stream, text if partial else text + b"\n")


def is_since(line: LogLine, since: float | None) -> bool:
    if since is None:
        return True
    try:
        return parse_rfc3339(line.time.decode()) >= since
    except ValueError:
        return True


def fixed(time: bytes) -> bytes:
    """A line's time with all nine digits, as `--timestamps` shows it: runtimes leave zeros at the end out."""
    found = _TIME.fullmatch(time)
    if found is None:
        return time
    return found[1] + b"." + (found[2] or b"").ljust(9, b"0") + found[3]


class LogFilter:
    """What `options` lets through of lines that come in several calls."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._continues = False  # the last line was a part that is not the end

    def take(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Ready to be sent."""
        for line in lines:
            parsed = parse_line(line)
            if parsed is None or not is_since(parsed, self._options.since):
                continue
            stamp = fixed(parsed.time) + b" " if self._options.timestamps and not self._continues else b""
            self._continues = not parsed.text.endswith(b"\n")
            yield stamp + parsed.text


class Budget:
    """Cuts a stream after a number of bytes."""

    def __init__(self, limit: int | None) -> None:
        self._left = limit

    def take(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        data = data[: self._left]
        self._left -= len(data)
        return data

    @property
    def spent(self) -> bool:
        return self._left == 0


def tail_start(data: bytes, lines: int) -> int:
    """Where the last `lines` lines of `data` begin; a line in parts counts once."""
    if lines == 0:
        return len(data)
    at = len(data)
    begin = at
    while at > 0:
        start = data.rfind(b"\n", 0, at - 1) + 1
        parsed = parse_line(data[start : at - 1] if data[at - 1 : at] == b"\n" else data[start:at])
        ends_line = parsed is not None and parsed.text.endswith(b"\n")
        if ends_line or begin == len(data):
            lines -= 1
            if lines < 0:
                return begin
        begin = start
        at = start
    return 0

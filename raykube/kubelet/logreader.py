"""Streams a container's log file: the tail of it, then what is written, through rotations, until the container ends.

Who follows may be slower than a rotation: then it goes on with the file that came after the one it has read, packed or
not, as long as that is kept.
"""

import asyncio
import gzip
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, cast

from raykube.kubelet.core.logrotation import PACKED, rotations
from raykube.kubelet.core.podlog import Budget, LogFilter, LogOptions, tail_start

CHUNK_BYTES = 256 * 1024
POLL_S = 0.25  # of a followed file: inotify would need a native module
ALIVE_S = 1.0  # between questions to the runtime whether the container still runs


class LogReader:
    """`alive` answers whether more may come."""

    def __init__(self, path: Path, options: LogOptions, alive: Callable[[], Awaitable[bool]]) -> None:
        self._path = path
        self._options = options
        self._alive = alive
        self._filter = LogFilter(options)
        self._budget = Budget(options.limit_bytes)
        self._rest = b""
        self._before = ""  # the name of the newest rotated file that is older than the one that is read

    async def read(self) -> AsyncIterator[bytes]:
        """Chunks ready to be sent. Raises FileNotFoundError when there is no log yet."""
        file = await asyncio.to_thread(self._open_newest)
        try:
            if self._options.tail_lines is not None:
                file.seek(await asyncio.to_thread(_tail_offset, self._path, self._options.tail_lines))
            alive, asked_at = self._options.follow, asyncio.get_running_loop().time()
            while not self._budget.spent:
                # Looked at before reading: what was written before a rotation or an end is read before either counts.
                rotated = self._rotated(file.fileno())
                data = await asyncio.to_thread(file.read, CHUNK_BYTES)
                if data:
                    chunk = self._take(data)
                    if chunk:
                        yield chunk
                elif rotated:
                    file.close()
                    file = await asyncio.to_thread(self._open_next)
                elif not alive:
                    break
                elif asyncio.get_running_loop().time() - asked_at > ALIVE_S:
                    alive, asked_at = await self._alive(), asyncio.get_running_loop().time()
                else:
                    await asyncio.sleep(POLL_S)
        finally:
            file.close()

    def _rotations(self) -> list[str]:
        return rotations(found.name for found in self._path.parent.glob(f"{self._path.name}.*"))

    def _open_newest(self) -> BinaryIO:
        while True:
            before = self._rotations()
            file = open(self._path, "rb")  # noqa: SIM115  the caller closes it
            if self._rotations() == before:
                self._before = before[-1] if before else ""
                return file
            file.close()  # which of them it is, nobody knows

    def _open_next(self) -> BinaryIO:
        """The file after the one that was read, which has a name of its own by now."""
        later = [name for name in self._rotations() if name > self._before]
        for own, following in itertools.pairwise(later):
            place = self._path.with_name(following)
            for path, opened in ((place, open), (Path(f"{place}{PACKED}"), gzip.open)):
                try:
                    file = cast(BinaryIO, opened(path, "rb"))
                except FileNotFoundError:
                    continue  # it was packed meanwhile, or is kept no more
                self._before = own
                return file
        return self._open_newest()

    def _take(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return self._budget.take(b"".join(self._filter.take(lines)))

    def _rotated(self, handle: int) -> bool:
        if not self._options.follow:
            return False
        try:
            return os.stat(self._path).st_ino != os.fstat(handle).st_ino
        except FileNotFoundError:
            return False


def _tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin, reading no more of the file's end than needed."""
    size = path.stat().st_size
    window = 64 * 1024
    with open(path, "rb") as file:
        while True:
            start = max(size - window, 0)
            file.seek(start)
            data = file.read(size - start)
            if start:  # the first line of the window may be cut
                cut = data.find(b"\n") + 1
                data, start = data[cut:], start + cut
            offset = tail_start(data, lines)
            if offset > 0 or start == 0:
                return start + offset
            window *= 4

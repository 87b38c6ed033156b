"""The logs of containers, written where a kubelet reads them: one follower for each container that runs.

What docker keeps is the truth. A follower that starts goes on behind the last line of the file; where a file was
rotated away under it, behind the position that it noted at that moment.
"""

import asyncio
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from raykube.cridocker.core import logs
from raykube.cridocker.core.logs import Position
from raykube.cridocker.engine import Engine, EngineError
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

TAIL_BYTES = 256 * 1024  # of a file, in which to look for its last lines
AGAIN_S = 0.5
DRAIN_S = 2.0  # how long the status of a container that ended waits for the end of its log


class Follower:
    """Copies one container's log until the container has ended."""

    def __init__(self, engine: Engine, container_id: str, path: Path, note: Path, *, terminal: bool) -> None:
        self._engine = engine
        self._id = container_id
        self._path = path
        self._note = note
        self._terminal = terminal
        self._handle = -1
        self._position = Position()

    async def run(self) -> None:
        try:
            self._open()
            self._position = self._found()
            while True:
                try:
                    await self._follow()
                    inspected = await self._engine.get(f"/containers/{self._id}/json")
                    if not inspected["State"]["Running"]:
                        return
                except EngineError as error:
                    if error.code is Code.NOT_FOUND:
                        return
                    log.debug("the log of %s breaks off: %s", self._id, error.message)
                await asyncio.sleep(AGAIN_S)  # docker was restarted, or gave the stream up
        except OSError as error:
            log.error("cannot write the log %s: %s", self._path, error)
        finally:
            self.close()

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _found(self) -> Position:
        """The position at the end of the file. A line that a crash cut short is taken back."""
        size = os.fstat(self._handle).st_size
        start = max(0, size - TAIL_BYTES)
        tail = os.pread(self._handle, size - start, start)
        if cut := logs.whole(tail):
            os.ftruncate(self._handle, size - cut)
        found = logs.position_of(tail)
        if found.time:
            return found
        with suppress(OSError, ValueError, TypeError, KeyError):
            told = json.loads(self._note.read_text())
            return Position(told["time"], told["count"])
        return Position()

    async def _follow(self) -> None:
        reader = logs.Reader(self._position, terminal=self._terminal)
        query = {"since": logs.since(self._position)} if self._position.time else {}
        pieces = self._engine.pieces(
            f"/containers/{self._id}/logs", follow=True, stdout=True, stderr=True, timestamps=True, **query
        )
        async for piece in pieces:
            self._write(reader.feed(piece))
            self._position = reader.position
        self._write(reader.finish())
        self._position = reader.position

    def _write(self, entries: list[logs.Entry]) -> None:
        data = b"".join(entry.line() for entry in entries)
        while data:
            data = data[os.write(self._handle, data) :]

    def reopen(self) -> None:
        """The file was renamed: what comes goes into a new one. Raises OSError."""
        self._note.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps({"time": self._position.time, "count": self._position.count}))
        fresh.replace(self._note)
        old = self._handle
        self._open()
        if old >= 0:
            os.close(old)


class Logs:
    """All followers. `folder`: where positions are noted."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._running: dict[str, tuple[Follower, asyncio.Task[None]]] = {}

    def follow(self, container_id: str, path: str, *, terminal: bool) -> None:
        """Begins, unless that was done; a container without a path has no log."""
        if not path or container_id in self._running:
            return
        follower = Follower(self._engine, container_id, Path(path), self._note(container_id), terminal=terminal)
        task = asyncio.ensure_future(follower.run())
        self._running[container_id] = (follower, task)
        task.add_done_callback(lambda _: self._running.pop(container_id, None))

    def _note(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.json"

    async def drained(self, container_id: str) -> None:
        """Returns when what a container said before its end is written, or does not come to its end."""
        if container_id in self._running:
            await asyncio.wait([self._running[container_id][1]], timeout=DRAIN_S)

    def reopen(self, container_id: str) -> None:
        """Raises RpcError."""
        if container_id not in self._running:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container_id} is not running")
        try:
            self._running[container_id][0].reopen()
        except OSError as error:
            raise RpcError(Code.UNKNOWN, f"cannot reopen the log: {error}") from None

    def forget(self, container_id: str) -> None:
        if container_id in self._running:
            self._running[container_id][1].cancel()
        self._note(container_id).unlink(missing_ok=True)

    async def close(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

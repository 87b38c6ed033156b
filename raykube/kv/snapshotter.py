"""Takes a member's own snapshots when they are due, and drops the log that they stand for."""

import asyncio
import logging
import time
from collections.abc import Callable

from raykube.kv.core.mvcc.image import Image
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.core.replica import Replica
from raykube.kv.snapshot_files import Abandoned, SnapshotFiles
from raykube.kv.wal import PASSING, SEGMENT_BYTES_MAX, Wal

log = logging.getLogger(__name__)

ENTRIES_KEPT = 5000  # behind a snapshot, for members that lag a little
LOG_BYTES_MAX = 256 << 20  # behind a snapshot: it is in memory, and read at a start
ENTRY_BYTES = 256  # that an entry takes in memory beside its data
RETRY_S = 10.0  # after one for which there was no room


class Snapshotter:
    """One at a time, written in a thread. So is the log purged: its own may wait for the very room that this makes."""

    def __init__(
        self,
        replica: Replica,
        files: SnapshotFiles,
        wal: Wal,
        count: int,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._replica = replica
        self._files = files
        self._wal = wal
        self._count = count
        self._fail = fail
        self._index = self._purge_index = replica.applied
        self._purged = 0  # the log has nothing up to here
        self._is_short = False  # the one that is under way is to make room
        self._log_at = -wal.bytes_behind(replica.applied)  # what the log had appended when the last one was taken
        self._log_bytes = 0  # how much more it must have before the next
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def on_applied(self) -> None:
        """Entries were applied just now."""
        entries = self._replica.applied - self._index
        log_bytes = self._wal.bytes_appended - self._log_at + entries * ENTRY_BYTES
        is_due = entries >= self._count
        # Under load an entry has many requests: a few thousand of them may be gigabytes.
        if (is_due and log_bytes >= self._log_bytes) or log_bytes >= LOG_BYTES_MAX:
            self._begin()

    def on_installed(self, snapshot: Snapshot) -> None:
        """A leader's snapshot took the place of all."""
        self._index = self._purge_index = snapshot.index
        self._log_at = self._wal.bytes_appended

    def make_room(self, bytes_free: int) -> None:
        """The disk is short: a log that takes more than what it made goes, though it is not due to go yet.

        While growth is refused, nothing would make it due, and the disk would stay full.
        """
        if self._task is not None or self._is_closed or self._replica.node.is_installing:
            return
        stored = self._replica.machine.store.bytes_stored  # about the size of a snapshot
        if self._purged < self._purge_index:
            self._task = asyncio.create_task(self._cut())
        elif self._wal.bytes_appended - self._log_at > stored + SEGMENT_BYTES_MAX and stored < bytes_free:
            self._begin()
            self._is_short = self._task is not None

    async def _cut(self) -> None:
        """Drops the log up to the newest snapshot, with the way back to the older one: room is worth more now."""
        try:
            await self._purge(self._purge_index)
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None

    async def _purge(self, index: int) -> None:
        await asyncio.to_thread(self._wal.purge, index)
        self._purged = index

    def renew(self) -> None:
        """The file of the newest snapshot cannot be used: another takes its place, soon."""
        if not self._replica.node.is_installing:
            self._begin()

    def _begin(self) -> None:
        if self._task is None and not self._is_closed and time.monotonic() >= self._not_before:
            snapshot, picture = self._replica.capture()
            self._index = snapshot.index
            log_at, self._log_at = self._log_at, self._wal.bytes_appended
            self._task = asyncio.create_task(self._take(snapshot, picture, log_at))

    async def _take(self, snapshot: Snapshot, picture: Image, log_at: int) -> None:
        try:
            await self._save(snapshot, picture, log_at)
        except Abandoned:
            pass  # by `close`
        except Exception as error:
            self._fail(error)
        finally:
            picture.forget()
            self._task, self._is_short = None, False

    async def _save(self, snapshot: Snapshot, picture: Image, log_at: int) -> None:
        """`log_at`: what the log had appended at the snapshot before, which counts again when this one fails."""
        try:
            size = await asyncio.to_thread(self._files.save, snapshot, picture.chunks())
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.warning("no snapshot now, the log grows: %s", error)
            self._index -= self._count
            self._log_at, self._log_bytes = log_at, 0
            self._not_before = time.monotonic() + RETRY_S
            return
        # Writing a large store out again and again would cost more than all its writes: the log grows as large first.
        self._log_bytes = min(size, LOG_BYTES_MAX)
        self._replica.node.on_snapshot_saved(snapshot, ENTRIES_KEPT)
        # Keep what the older of the two snapshots needs, in case the newer one cannot be read one day.
        purge, self._purge_index = self._purge_index, snapshot.index
        await self._purge(snapshot.index if self._is_short else purge)

    async def close(self) -> None:
        """Begins no other, and gives up the one that is under way."""
        self._is_closed = True
        self._files.abandon()
        if self._task is not None:
            await asyncio.wait({self._task})

"""The write-ahead log on disk: segments `wal/<sequence>-<first index>.wal`, appended and synced by a worker thread.

A failed write or fdatasync ends the member: the kernel may have dropped the data and reports it once only, so that a
second try could succeed without a byte on disk. What such a write left behind is a torn tail, and the next start cuts
it off.

A full disk, or no descriptor left, is no such failure, because each segment's room is allocated before its first byte
is written, and the next one's when it is half full: from then on the member knows that it is short (`shortage`), while
what must be written all the same (elections, deletions) still has half a segment. When that is used up too, a write
waits. (Allocation also makes fdatasync a third faster: appending changes no size.)
"""

import contextlib
import errno
import os
import re
import time
from itertools import pairwise
from pathlib import Path
from threading import Event

from raykube.base.metrics import Histogram
from raykube.kv.core import wal_codec, wal_replay
from raykube.kv.core.raft.messages import Write
from raykube.kv.core.wal_codec import LogWriter, Meta, Place
from raykube.kv.core.wal_replay import Replay

SEGMENT_BYTES_MAX = 16 << 20
SUFFIX = ".wal"
UNUSED = ".tmp"
_NAME = re.compile("[0-9a-f]{16}-[0-9a-f]{16}")
RETRY_S = 0.2
SYNC_BOUNDS_S = tuple(0.001 * 2**power for power in range(14))  # etcd's
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})  # errors that may pass by themselves
ENTRY_BYTES = wal_codec.RECORD.size + wal_codec.ENTRY_BODY.size
FRAME_BYTES = 256  # a frame with all its records, beside the entries; a segment's head too


def sync_folder(folder: Path) -> None:
    """Makes names in `folder` durable: new, renamed or removed files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pause(abandoned: Event) -> bool:
    """Waits before the next try; returns whether to give up."""
    return abandoned.wait(RETRY_S)


def numbered(folder: Path, suffix: str) -> list[Path]:
    """A member's own files in `folder`, in order. What somebody else put beside them, like a copy, is none of them."""
    return sorted(path for path in folder.glob(f"*{suffix}") if _NAME.fullmatch(path.stem))


def segments(folder: Path) -> list[Path]:
    """The log's files, in order."""
    return numbered(folder, SUFFIX)


def _first_index(path: Path) -> int:
    return int(path.stem.partition("-")[2], 16)


def foreign(data_dir: Path, found: Meta, wanted: Meta) -> str:
    """Says that a data directory is another member's."""
    return (
        f"{data_dir} belongs to member {found.member_id:x} of cluster {found.cluster_id:x}, not to member "
        f"{wanted.member_id:x} of cluster {wanted.cluster_id:x}: check --name, --initial-cluster, "
        "--initial-cluster-token and --data-dir"
    )


def owner(folder: Path) -> Meta | None:
    """Whose log is in `folder`; None when there is none, or nothing in it can be read. Raises OSError."""
    for path in segments(folder):
        with path.open("rb") as file:
            meta = wal_codec.read_meta(file.read(wal_codec.HEAD_BYTES_MAX))
        if meta is not None:
            return meta
    return None


class Wal:
    """An open log. `append` is called by one thread at a time; `shortage` and `abandon` from any."""

    def __init__(self, folder: Path, writer: LogWriter, sequence: int) -> None:
        self.shortage = 0  # the error number for which there is no next segment yet: growth should be refused
        self.bytes_appended = 0  # since it was opened
        self.syncs = Histogram("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", (), SYNC_BOUNDS_S)
        self._folder = folder
        self._writer = writer
        self._sequence = sequence
        self._path = folder
        self._names = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file = -1
        self._size = 0
        self._room = 0  # bytes allocated for the segment
        self._next = -1  # the next segment's file, allocated
        self._next_index = 1
        self._abandoned = Event()

    @classmethod
    def open(cls, folder: Path, meta: Meta) -> tuple["Wal", Replay]:
        """Reads the log, cuts a torn tail, and goes on in a new segment. Raises Corrupt, OSError, ValueError."""
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{UNUSED}"):
            leftover.unlink()
        paths = segments(folder)
        replay = wal_replay.replay_lazily([(str(path), path.read_bytes) for path in paths])
        if replay.meta is not None and replay.meta != meta:
            raise ValueError(foreign(folder.parent, replay.meta, meta))
        if paths:
            with paths[-1].open("r+b") as last:
                if last.seek(0, os.SEEK_END) > replay.kept_bytes:
                    last.truncate(replay.kept_bytes)
                # Also what was read: it may have been in the kernel's memory only, and is about to be relied on. The
                # last frame is written again: if its sync failed, the kernel shows it and takes it for written.
                last.seek(replay.last_frame)
                frame = last.read(replay.kept_bytes - replay.last_frame)
                last.seek(replay.last_frame)
                last.write(frame)
                last.flush()
                os.fsync(last.fileno())
        # The names of this folder and of those beside it. Always: the start that made them may have failed right here.
        sync_folder(folder.parent)
        writer = LogWriter(meta, replay.crc, replay.hard_state if replay.meta is not None else None, replay.tail)
        wal = cls(folder, writer, int(paths[-1].stem.partition("-")[0], 16) if paths else 0)
        wal._next_index = 1 + (replay.entries[-1].index if replay.entries else (replay.base or (0, 0))[0])
        try:
            wal._roll(SEGMENT_BYTES_MAX)
        except BaseException:
            wal.close()
            raise
        return wal, replay

    def hold_tail(self, tail: Place) -> None:
        """As `LogWriter.hold_tail`; before the first append."""
        self._writer.hold_tail(tail)

    def append(self, write: Write) -> None:
        """Makes a write's hard state and entries durable; waits while there is no room. Raises OSError: stop then."""
        if write.entries:
            self._next_index = write.entries[0].index
        # The frame continues the chain of what is written now: a roll must come before it is made.
        size = sum(len(entry.data) + ENTRY_BYTES for entry in write.entries) + FRAME_BYTES
        if self._size + size > self._room:
            self._make_room(size)
        self._write(self._writer.write(write))
        if write.entries:
            self._next_index = write.entries[-1].index + 1
        elif write.snapshot is not None:
            self._next_index = write.snapshot.index + 1
        if self._size > self._room // 2:
            self.prepare()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            began = time.perf_counter()
            os.fdatasync(self._file)
            self.syncs.observe((), time.perf_counter() - began)
        except OSError as error:
            error.filename = str(self._path)  # so that a person sees which disk it is
            raise
        self._size += len(data)
        self.bytes_appended += len(data)

    # ---- segments

    def prepare(self) -> None:
        """Allocates the next segment, if there is none, and notes whether there is room for it."""
        try:
            self._allocate(SEGMENT_BYTES_MAX)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            self.shortage = error.errno
        else:
            self.shortage = 0

    def _allocate(self, size: int) -> None:
        if self._next >= 0:
            return
        path = self._folder / f"next{UNUSED}"
        file = -1
        try:
            file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if file >= 0:
                os.close(file)
                path.unlink(missing_ok=True)
            error.filename = str(path)
            raise
        self._next = file

    def _make_room(self, size: int) -> None:
        """Rolls to a segment with room for a frame of `size` bytes.

        While the disk is full or descriptors are short, it waits: nothing is promised, and nothing lost.
        """
        wanted = max(size + FRAME_BYTES, SEGMENT_BYTES_MAX)
        if wanted > SEGMENT_BYTES_MAX and self._next >= 0:
            os.close(self._next)
            self._next = -1
        while True:
            try:
                self._allocate(wanted)
                break
            except OSError as error:
                self.shortage = error.errno or errno.EIO
                if error.errno not in PASSING or pause(self._abandoned):
                    raise
        self._roll(wanted)

    def _roll(self, size: int) -> None:
        """Starts a new segment with room for `size` bytes, whose entries begin at the next index or later."""
        self._allocate(size)
        self._finish()
        self._sequence += 1
        self._path = self._folder / f"{self._sequence:016x}-{self._next_index:016x}{SUFFIX}"
        (self._folder / f"next{UNUSED}").rename(self._path)
        self._file, self._next = self._next, -1
        self._size, self._room = 0, size
        self._write(self._writer.head())
        os.fsync(self._names)

    def _finish(self) -> None:
        """Gives back what the present segment did not use, and closes it."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.ftruncate(file, self._size)
                os.fsync(file)
            finally:
                os.close(file)

    def purge(self, index: int) -> None:
        """Removes segments of which a snapshot at `index` makes every entry superfluous, oldest first."""
        paths = segments(self._folder)
        for path, following in pairwise(paths):
            if _first_index(following) > index + 1:
                break
            path.unlink()

    def bytes_behind(self, index: int) -> int:
        """The size of the segments before the present one that may hold something behind the entry at `index`."""
        paths = segments(self._folder)
        return sum(path.stat().st_size for path, following in pairwise(paths) if _first_index(following) > index + 1)

    def abandon(self) -> None:
        """Ends a wait for room: the append that waits fails."""
        self._abandoned.set()

    def close(self) -> None:
        """Closes the files. All that the log promised is durable already, whatever errors come now."""
        with contextlib.suppress(OSError):
            self._finish()
        for descriptor in (self._next, self._names):
            if descriptor >= 0:
                os.close(descriptor)
        self._next = self._names = -1

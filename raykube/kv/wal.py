"""The write-ahead log on disk: segments `wal/<sequence>-<first index>.wal`, appended and synced by a worker thread.

A failed write or fdatasync ends the member: the kernel may have dropped the data and reports it once only, so that a
second try could succeed without a byte on disk. A full disk is no exception; `limits.py` sees it coming. What such a
write left behind is a torn tail, and the next start cuts it off.
"""

import os
from itertools import pairwise
from pathlib import Path

from raykube.kv.core import wal_codec, wal_replay
from raykube.kv.core.raft.messages import Write
from raykube.kv.core.wal_codec import LogWriter, Meta, Place
from raykube.kv.core.wal_replay import Replay

SEGMENT_BYTES_MAX = 64 << 20
SUFFIX = ".wal"


def sync_folder(folder: Path) -> None:
    """Makes names in `folder` durable: new, renamed or removed files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            meta = wal_codec.read_meta(file.read(wal_codec.HEAD_BYTES_MAX))
        if meta is not None:
            return meta
    return None


class Wal:
    """An open log. `append` is called by one thread at a time."""

    def __init__(self, folder: Path, writer: LogWriter, sequence: int) -> None:
        self._folder = folder
        self._writer = writer
        self._sequence = sequence
        self._path = folder
        self._file = -1
        self._size = 0

    @classmethod
    def open(cls, folder: Path, meta: Meta) -> tuple["Wal", Replay]:
        """Reads the log, cuts a torn tail, and goes on in a new segment. Raises Corrupt, OSError, ValueError."""
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if is_new:
            sync_folder(folder.parent)
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        replay = wal_replay.replay_lazily([(str(path), path.read_bytes) for path in paths])
        if replay.meta is not None and replay.meta != meta:
            raise ValueError(foreign(folder.parent, replay.meta, meta))
        if paths:
            with paths[-1].open("r+b") as last:
                if last.seek(0, os.SEEK_END) > replay.kept_bytes:
                    last.truncate(replay.kept_bytes)
                # Also what was read: it may have been in the kernel's memory only, and is about to be relied on.
                os.fsync(last.fileno())
        writer = LogWriter(meta, replay.crc, replay.hard_state if replay.meta is not None else None, replay.tail)
        wal = cls(folder, writer, int(paths[-1].stem.partition("-")[0], 16) if paths else 0)
        last_index = replay.entries[-1].index if replay.entries else (replay.base or (0, 0))[0]
        try:
            wal._roll(last_index + 1)
        except BaseException:
            wal.close()
            raise
        return wal, replay

    def hold_tail(self, tail: Place) -> None:
        """As `LogWriter.hold_tail`; before the first append."""
        self._writer.hold_tail(tail)

    def append(self, write: Write) -> None:
        """Makes a write's hard state and entries durable. Raises OSError: stop then."""
        first = write.entries[0].index if write.entries else None
        if self._size >= SEGMENT_BYTES_MAX and first is not None:
            self._roll(first)
        self._write(self._writer.write(write))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            error.filename = str(self._path)  # so that a person sees which disk it is
            raise
        self._size += len(data)

    def _roll(self, first_index: int) -> None:
        """Starts a new segment whose entries begin at `first_index` or later."""
        self.close()
        self._sequence += 1
        self._path = self._folder / f"{self._sequence:016x}-{first_index:016x}{SUFFIX}"
        self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._write(self._writer.head())
        sync_folder(self._folder)

    def purge(self, index: int) -> None:
        """Removes segments of which a snapshot at `index` makes every entry superfluous, oldest first."""
        paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        for path, following in pairwise(paths):
            if _first_index(following) > index + 1:
                break
            path.unlink()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

"""Snapshots' bodies on disk: read in pieces, and written in pieces as a leader sends them. Never whole in memory."""

import errno
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

from raykube.kv import room
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.core.snapshot_codec import Decoder

PIECE_BYTES = 1 << 20
CHECK_BYTES = 16 << 20


def pieces(path: Path) -> Generator[bytes]:
    """A file's content. Raises OSError."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def check(path: Path) -> tuple[int, Snapshot]:
    """Reads a snapshot file to its end; the cluster id, and the snapshot with its body there. Raises ValueError."""
    decoder = Decoder()
    for piece in pieces(path):
        decoder.feed(piece)
    found = decoder.finish()
    return decoder.cluster_id, Snapshot(found.index, found.term, found.membership, StoredBody(path))


class StoredBody:
    """A snapshot's body in a file: every iteration reads it anew, and raises ValueError at the end of a damaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[bytes]:
        decoder = Decoder()
        for piece in pieces(self.path):
            yield decoder.feed(piece)
        decoder.finish()


class Arriving:
    """A snapshot file on its way here. Its methods block: call them in a thread."""

    def __init__(self, path: Path) -> None:
        self.cluster_id = 0
        self._path = path
        self._decoder = Decoder()
        self._written = 0
        self._file = path.open("xb")

    def write(self, piece: bytes) -> None:
        """Takes the next bytes. Raises ValueError when they are no snapshot's, OSError."""
        if self._written // CHECK_BYTES != (self._written + len(piece)) // CHECK_BYTES or not self._written:
            free = shutil.disk_usage(self._path.parent).free
            if free - len(piece) < room.BYTES_KEPT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._decoder.feed(piece)
        self._file.write(piece)
        self._written += len(piece)

    def finish(self) -> Snapshot:
        """Makes the file durable under its temporary name. Raises ValueError unless it is whole, OSError."""
        found = self._decoder.finish()
        self.cluster_id = self._decoder.cluster_id
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Snapshot(found.index, found.term, found.membership, StoredBody(self._path))

    def drop(self) -> None:
        """Leaves nothing, when it was not taken over meanwhile. Idempotent."""
        self._file.close()
        self._path.unlink(missing_ok=True)

"""Snapshot files: `snap/<index>-<term>.snap`. Written to a temporary name, fsynced, renamed, then the folder is synced,
so that a file of that name is always whole; two are kept, in case the newer one cannot be read.
"""

import itertools
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event

from raykube.kv.core import snapshot_codec
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.stored_snapshot import Arriving, StoredBody, check
from raykube.kv.wal import numbered, sync_folder

log = logging.getLogger(__name__)

SUFFIX = ".snap"
WRONG_SUFFIX = ".wrong"  # of what is damaged, or was taken of a state that turned out to be wrong; to be looked at
KEPT = 2
SYNC_BYTES = 1 << 20
PAUSE_S_MAX = 0.1  # after a sync; a disk that needs as long is busy anyway


class Abandoned(Exception):
    """A snapshot was given up: the member stops."""


class SnapshotFiles:
    """The snapshots of one member."""

    def __init__(self, folder: Path, cluster_id: int) -> None:
        self._folder = folder
        self._cluster_id = cluster_id
        self._arrivals = itertools.count()
        self._abandoned = Event()
        folder.mkdir(parents=True, exist_ok=True)  # its name is durable when the log beside it is open
        for leftover in folder.glob("*.tmp"):
            leftover.unlink()

    def path(self, snapshot: Snapshot) -> Path:
        return self._folder / f"{snapshot.index:016x}-{snapshot.term:016x}{SUFFIX}"

    def _saved(self) -> list[Path]:
        """The snapshots, oldest first."""
        return numbered(self._folder, SUFFIX)

    def abandon(self) -> None:
        """Ends a save that is under way, from any thread: it raises Abandoned."""
        self._abandoned.set()

    def save(self, snapshot: Snapshot, body: Iterable[bytes]) -> int:
        """Writes a snapshot durably, and removes those that it makes superfluous. Returns its size in bytes.

        Raises OSError, Abandoned.
        """
        size = self._save(self.path(snapshot), snapshot_codec.encode(snapshot, self._cluster_id, body))
        self._drop_superfluous()
        return size

    def arrive(self) -> Arriving:
        """Begins a file for a snapshot that another member sends."""
        return Arriving(self._folder / f"arriving-{next(self._arrivals)}.tmp")

    def adopt(self, snapshot: Snapshot) -> None:
        """Makes a snapshot that arrived this member's own, durably."""
        if not isinstance(snapshot.data, StoredBody):
            self.save(snapshot, [snapshot.data] if isinstance(snapshot.data, bytes) else snapshot.data)
            return
        path = self.path(snapshot)
        snapshot.data.path.rename(path)
        snapshot.data.path = path
        sync_folder(self._folder)
        self._drop_superfluous()

    def rewrite(self, snapshot: Snapshot) -> None:
        """Makes a snapshot that was found here durable for certain.

        Whoever saved it may have ended as its name could not be synced. The kernel says so once: another sync of the
        same name would prove nothing.
        """
        path = self.path(snapshot)
        with path.open("rb") as file:
            self._save(path, iter(lambda: file.read(SYNC_BYTES), b""))

    def _drop_superfluous(self) -> None:
        for old in self._saved()[:-KEPT]:
            old.unlink(missing_ok=True)  # a leader's snapshot and an own one may be saved at the same time

    def _save(self, path: Path, pieces: Iterable[bytes]) -> int:
        temporary = path.with_suffix(".tmp")
        size = 0
        try:
            with temporary.open("wb", buffering=0) as file:
                unsynced = 0
                for piece in pieces:
                    if unsynced >= SYNC_BYTES:
                        self._sync_gently(file.fileno())
                        unsynced = 0
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                    size += len(piece)
                    unsynced += len(piece)
                os.fsync(file.fileno())
        except (OSError, Abandoned) as error:
            if isinstance(error, OSError):
                error.filename = str(temporary)
            temporary.unlink(missing_ok=True)  # on a full disk it would be in the way of what comes next
            raise
        temporary.rename(path)
        sync_folder(self._folder)
        return size

    def _sync_gently(self, descriptor: int) -> None:
        """Gives the disk what was written, and then leaves it to others as long as that took.

        All of a large file at once would be in the log's way for a twentieth of a second (measured; so: a millisecond).
        """
        began = time.monotonic()
        os.fdatasync(descriptor)
        if self._abandoned.wait(min(PAUSE_S_MAX, time.monotonic() - began)):
            raise Abandoned

    def set_aside(self, sound: int) -> None:
        """Takes the snapshots behind the entry `sound` out of use: the state of which they were taken was wrong."""
        wrong = [path for path in self._saved() if int(path.name.partition("-")[0], 16) > sound]
        for path in wrong:
            log.warning("%s is not used any more: its state was wrong", path)
        self._put_away(wrong)

    def _put_away(self, wrong: list[Path]) -> None:
        if not wrong:
            return
        for older in self._folder.glob(f"*{WRONG_SUFFIX}"):
            older.unlink()
        for path in wrong:
            path.rename(path.with_suffix(WRONG_SUFFIX))
        sync_folder(self._folder)

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is whole; its data is read from the file. Damaged ones are put away."""
        damaged = []
        found = None
        for path in reversed(self._saved()):
            try:
                cluster_id, found = check(path)
            except ValueError as error:
                log.error("%s cannot be used: %s", path, error)
                damaged.append(path)
                continue
            if cluster_id != self._cluster_id:
                raise ValueError(
                    f"{path} belongs to cluster {cluster_id:x}, not {self._cluster_id:x}: check --data-dir"
                )
            break
        self._put_away(damaged)
        return found

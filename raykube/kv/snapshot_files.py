"""Snapshot files: `snap/<index>-<term>.snap`. Written to a temporary name, fsynced, renamed, then the folder is synced,
so that a file of that name is always whole; two are kept, in case the newer one cannot be read.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from raykube.kv.core import snapshot_codec
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.wal import sync_folder

log = logging.getLogger(__name__)

SUFFIX = ".snap"
KEPT = 2


class SnapshotFiles:
    """The snapshots of one member."""

    def __init__(self, folder: Path, cluster_id: int) -> None:
        self._folder = folder
        self._cluster_id = cluster_id
        if not folder.exists():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        for leftover in folder.glob("*.tmp"):
            leftover.unlink()

    def path(self, snapshot: Snapshot) -> Path:
        return self._folder / f"{snapshot.index:016x}-{snapshot.term:016x}{SUFFIX}"

    def save(self, snapshot: Snapshot, body: Iterable[bytes]) -> None:
        """Writes a snapshot durably, and removes those that it makes superfluous."""
        self._save(self.path(snapshot), snapshot_codec.encode(snapshot, self._cluster_id, body))
        for old in sorted(self._folder.glob(f"*{SUFFIX}"))[:-KEPT]:
            old.unlink(missing_ok=True)  # a leader's snapshot and an own one may be saved at the same time

    def _save(self, path: Path, pieces: Iterable[bytes]) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = str(temporary)
            temporary.unlink(missing_ok=True)  # on a full disk it would be in the way of what comes next
            raise
        temporary.rename(path)
        sync_folder(self._folder)

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is whole, with its data."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True):
            try:
                cluster_id, snapshot = snapshot_codec.decode(path.read_bytes())
            except ValueError as error:
                log.error("%s cannot be used: %s", path, error)
                continue
            if cluster_id != self._cluster_id:
                raise ValueError(
                    f"{path} belongs to cluster {cluster_id:x}, not {self._cluster_id:x}: check --data-dir"
                )
            return snapshot
        return None

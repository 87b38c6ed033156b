"""A member's files opened: what they say, what of it is damaged, and what must be on disk before the member begins."""

import dataclasses
import logging
import secrets
from pathlib import Path

from raykube.kv.core import recovery, wal_codec
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.wal_replay import Replay
from raykube.kv.snapshot_files import SnapshotFiles
from raykube.kv.wal import Wal

log = logging.getLogger(__name__)


def salted(meta: wal_codec.Meta) -> wal_codec.Meta:
    """A new log's meta gets its salt; one that was read has it."""
    return meta if meta.salt else dataclasses.replace(meta, salt=1 + secrets.randbelow((1 << 32) - 1))


def open_disk(
    data_dir: Path, meta: wal_codec.Meta, bootstrap: Membership | None
) -> tuple[Wal, SnapshotFiles, recovery.Recovered]:
    """Opens a member's files; a new member's log gets `bootstrap` as its first entry. Raises ValueError, OSError."""
    files = SnapshotFiles(data_dir / "snap", meta.cluster_id)
    wal, replay = Wal.open(data_dir / "wal", meta)
    try:
        return wal, files, _recover(data_dir, wal, replay, files, bootstrap)
    except BaseException:
        wal.close()
        raise


def _recover(
    data_dir: Path, wal: Wal, replay: Replay, files: SnapshotFiles, bootstrap: Membership | None
) -> recovery.Recovered:
    newest = files.newest()
    if bootstrap is not None and recovery.is_blank(replay):
        if newest is not None:
            raise ValueError(f"{data_dir} has a snapshot at {newest.index} and no log: put the files in wal/ back")
        first = recovery.founding_write(bootstrap)
        wal.append(first)
        recovery.add(replay, first)
    try:
        found = recovery.recover(replay, newest, bootstrap)
    except wal_codec.Corrupt as error:
        raise wal_codec.Corrupt(f"{data_dir}: {error}") from None
    for place in replay.damage:
        log.error("the log is damaged: %s", place)
    if found.lacking is not None:
        log.error(
            "%s: %s: this member gets its data from the leader, and votes for nobody who has less than it once "
            "acknowledged",
            data_dir,
            found.missing,
        )
        wal.hold_tail(found.lacking)
    if found.marker is not None:
        if newest is not None:
            files.rewrite(newest)  # the log is about to build on it
        wal.append(found.marker)
    return found

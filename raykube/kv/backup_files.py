"""Backups as files: looked at, and made into the data directories of a new cluster. No member runs meanwhile."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from raykube.kv import log_place
from raykube.kv.core import backup, snapshot_codec
from raykube.kv.core.identity import cluster_id, parse_initial_cluster, require_advertised, token_id
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.machine import Machine
from raykube.kv.core.raft.messages import HardState, Snapshot, Write
from raykube.kv.core.wal_codec import Meta
from raykube.kv.disk import salted
from raykube.kv.snapshot_files import SnapshotFiles
from raykube.kv.wal import Wal, segments, sync_folder
from raykube.rpc.folder_lock import FolderLock

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read to its end and is whole. `digest` names its content."""

    path: Path
    size: int  # bytes of the file
    snapshot: Snapshot  # without data
    snapshot_bytes: int  # of the file, from its beginning
    digest: bytes


def open_backup(path: Path, skip_hash_check: bool = False) -> Backup:
    """Reads a backup to its end. Raises OSError, and ValueError in one line when it is not whole.

    `skip_hash_check` also takes a file without a sum: one that lost it, or one of a member's `snap/` folder.
    """
    size = path.stat().st_size
    wrapped = size - backup.SUM_BYTES if backup.has_sum(size) else size
    if wrapped == size and not skip_hash_check:
        raise ValueError(f"{path} has no checksum at its end: it is cut, or no backup (--skip-hash-check takes it)")
    with path.open("rb") as file:
        file.seek(max(0, wrapped - backup.LENGTH_BYTES))
        end = file.read(backup.LENGTH_BYTES)
        expected = file.read()
    digest, length = _digest(path, wrapped), size
    if wrapped != size and digest != expected and not skip_hash_check:
        raise ValueError(f"{path} is damaged: it is not what its checksum says")
    if wrapped != size or (wrapped and wrapped % backup.PAGE_BYTES == 0):
        try:
            length = backup.snapshot_size(end, wrapped)
        except ValueError as error:
            if not skip_hash_check:
                raise ValueError(f"{path}: {error}") from None
            digest = _digest(path, size)  # of a member's folder, and by chance as long as a backup may be
    decoder = snapshot_codec.Decoder()
    try:
        for piece in _pieces(path, length):
            decoder.feed(piece)
        return Backup(path, size, decoder.finish(), length, digest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file."""
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, PIECE_BYTES))):
            size -= len(piece)
            yield piece


def _digest(path: Path, size: int) -> bytes:
    digest = sha256()
    for piece in _pieces(path, size):
        digest.update(piece)
    return digest.digest()


def read_machine(found: Backup) -> Machine:
    """What a backup holds. Raises ValueError, OSError."""
    machine = Machine()
    decoder = snapshot_codec.Decoder()
    try:
        machine.restore(decoder.feed(piece) for piece in _pieces(found.path, found.snapshot_bytes))
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from None
    return machine


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What the restored cluster is to be: its members as in `--initial-cluster`, and which of them this one is."""

    name: str
    initial_cluster: list[str]
    token: str
    peer_urls: list[str]


def restore(
    found: Backup,
    cluster: NewCluster,
    data_dir: Path,
    wal_dir: Path | None = None,
    bump_revision: int = 0,
    compact: bool = False,
) -> None:
    """Writes the data directory of one member of a new cluster that begins with what the backup holds.

    All members must be restored from the same backup with the same members: their ids are made of both, so that no id
    of the backup's cluster, nor of another restore, comes back to life. Revisions and leases are kept; with
    `bump_revision`, the store's revision moves on by as many, for clients that have seen later ones than the backup
    has; with `compact`, watchers that stood before it are told. The log is written into `wal_dir`, if that is given.
    Raises ValueError, OSError; then nothing is left.
    """
    if data_dir.exists() and not (data_dir.is_dir() and not any(data_dir.iterdir())):
        raise ValueError(f"{data_dir} exists: --data-dir must name a directory that is empty or not there yet")
    if wal_dir is not None and wal_dir.absolute() == (data_dir / "wal").absolute():
        wal_dir = None
    if wal_dir is not None and data_dir.resolve() in (wal_dir.resolve(), *wal_dir.resolve().parents):
        raise ValueError(f"--wal-dir {wal_dir} is inside of {data_dir}: without it the log is there, too")
    membership = parse_initial_cluster(cluster.initial_cluster, f"{cluster.token}/{found.digest.hex()}")
    own = next((member for member in membership.members if member.name == cluster.name), None)
    if own is None:
        raise ValueError(f"--initial-cluster does not name this member, {cluster.name!r}")
    require_advertised(cluster.name, own, cluster.peer_urls)
    store = read_machine(found).store
    store.revision += bump_revision
    if compact and store.revision > store.compact_revision:
        store.compact(store.revision)
        while store.sweep(len(store.events) + 1):
            pass
    snapshot = Snapshot(found.snapshot.index, found.snapshot.term, membership)
    meta = salted(Meta(cluster_id(membership), own.id, token_id(cluster.token)))
    # Under another name until it is whole: a half-written directory must not look like a member's.
    temporary = data_dir.with_name(f"{data_dir.name}.restoring")
    own_log = temporary / "wal"
    with contextlib.ExitStack() as locks:
        locks.callback(FolderLock(temporary, 0o700, "member", "--data-dir").close)
        is_ours = False  # the folder of the log
        try:
            if wal_dir is not None:
                locks.callback(FolderLock(wal_dir, 0o700, "member", "--wal-dir").close)
                if segments(wal_dir) and not (own_log.is_symlink() and own_log.resolve() == wal_dir.resolve()):
                    raise ValueError(f"{wal_dir} holds a log: --wal-dir must name a directory that holds none")
                is_ours = True
                _clear(wal_dir)  # of a restore that was interrupted
            for leftover in ("snap", "wal"):
                shutil.rmtree(temporary / leftover, ignore_errors=True)
            own_log.unlink(missing_ok=True)  # where it was a link
            log_place.settle(temporary, wal_dir)
            SnapshotFiles(temporary / "snap", meta.cluster_id).save(snapshot, image.capture(store).chunks())
            wal, _ = Wal.open(own_log, meta)
            wal.append(Write(HardState(snapshot.term, 0, snapshot.index), [], snapshot, []))
            wal.close()
            temporary.rename(data_dir)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if wal_dir is not None and is_ours:
                _clear(wal_dir)
            raise
        sync_folder(data_dir.absolute().parent)


def _clear(wal_dir: Path) -> None:
    for segment in segments(wal_dir):
        segment.unlink()

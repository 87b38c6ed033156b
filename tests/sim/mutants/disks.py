"""Logs, snapshots, disks, files and restarts: cases 6–11, 30, 35, 37–39."""

import errno
import fcntl
import tempfile
from pathlib import Path
from typing import Any

import pytest

from raykube.kv.core import snapshot_codec, wal_codec, wal_replay
from raykube.kv.core.mvcc.image import Image
from raykube.kv.core.raft.messages import Snapshot, Write
from raykube.kv.core.replica import Replica
from raykube.kv.core.wal_codec import Header, Meta
from raykube.kv.disk import open_disk
from raykube.kv.wal import Wal
from raykube.rpc.folder_lock import FolderLock
from tests.sim import scenarios
from tests.sim.disk import SimDisk
from tests.sim.filesystem import Folder
from tests.sim.host import Host
from tests.sim.mutants.planted import mutant, scenario, simulator, test
from tests.sim.paths import SNAPSHOT_OS, WAL_OS, SimFile, SimOs, SimPath


@mutant(6, simulator)
def acknowledges_before_sync(patch: pytest.MonkeyPatch) -> None:
    """The disk is told, and not waited for."""

    def write(self: Host, write: Write) -> None:
        if write.touches_disk:
            _persist_later(self, write)
        self.written(write)
        self.pump()

    patch.setattr(Host, "write", write)


def _persist_later(host: Host, write: Write) -> None:
    host._work = write
    life = host.life

    def persist() -> None:
        if host.life == life:
            host.disk.persist(write)

    host.world.at(host.world.sync_s_max, persist)


@mutant(7, simulator)
def sync_error_ignored(patch: pytest.MonkeyPatch) -> None:
    """A failed fdatasync is tried again, and then all seems well."""
    original = SimOs.fdatasync

    def fdatasync(file: SimFile) -> None:
        try:
            original(file)
        except OSError:
            original(file)

    patch.setattr(WAL_OS, "fdatasync", fdatasync)


@mutant(7, simulator)
def trusts_the_kernel_after_a_sync_error(patch: pytest.MonkeyPatch) -> None:
    """A restart after a failed fdatasync takes what the kernel shows for what the disk has."""
    original = wal_replay.replay_lazily

    def replay(segments: Any) -> Any:
        found = original(segments)
        found.last_frame = found.kept_bytes
        return found

    patch.setattr(wal_replay, "replay_lazily", replay)


@mutant(8, simulator)
def torn_tail_accepted(patch: pytest.MonkeyPatch) -> None:
    """A checksum is not looked at."""
    patch.setattr(wal_codec, "is_whole", lambda data, header: header.end <= len(data))


@mutant(8, scenario(scenarios.rotting_logs))
def damage_taken_for_a_torn_tail(patch: pytest.MonkeyPatch) -> None:
    """A broken frame ends the log, whatever stands behind it."""
    patch.setattr(wal_replay._Reader, "_next", lambda self, data, offset: None)


@mutant(9, simulator)
def zeros_are_records(patch: pytest.MonkeyPatch) -> None:
    """A tail of zeros, which a crash left or nobody wrote yet, is read as a frame with nothing wrong."""
    read, whole_at = wal_replay._Reader.read, wal_replay._Reader._whole_at

    class Unstripped(bytes):
        def rstrip(self, _: Any = None, /) -> bytes:
            return self

    def read_all(self: Any, name: str, data: bytes, is_last: bool) -> None:
        read(self, name, Unstripped(data), is_last)

    def whole_or_zeros(self: Any, data: bytes, offset: int) -> Header | None:
        size = wal_codec.FRAME.size
        if offset and data[offset : offset + size] == bytes(size):
            return Header(offset + size, len(data), self.state.crc, 0)
        found: Header | None = whole_at(self, data, offset)
        return found

    patch.setattr(wal_replay._Reader, "read", read_all)
    patch.setattr(wal_replay._Reader, "_whole_at", whole_or_zeros)


@mutant(10, simulator)
def folders_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A file is synced, the folder with its name is not."""
    original = SimOs.fsync

    def fsync(file: SimFile) -> None:
        if not isinstance(file.file, Folder):
            original(file)

    patch.setattr(WAL_OS, "fsync", fsync)
    patch.setattr(SNAPSHOT_OS, "fsync", fsync)


@mutant(11, simulator)
def snapshot_visible_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """A snapshot gets its name before its bytes are on the disk."""
    patch.setattr(SNAPSHOT_OS, "fsync", lambda file: None)


@mutant(11, simulator)
def snapshot_says_another_index(patch: pytest.MonkeyPatch) -> None:
    """A snapshot's index and its data are not of one moment: entries are applied twice."""
    original = Replica.capture

    def capture(self: Replica) -> tuple[Snapshot, Image]:
        snapshot, picture = original(self)
        index = max(self.node.log.base, snapshot.index - 3)
        return Snapshot(index, self.node.log.term(index) or 0, snapshot.membership), picture

    patch.setattr(Replica, "capture", capture)


@mutant(30, simulator)
def alone_and_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A member alone answers before its own disk has it."""
    original = Host.write

    def write(self: Host, write: Write) -> None:
        assert self.replica is not None
        if write.touches_disk and len(self.replica.node.membership.voters) == 1:
            _persist_later(self, write)
            self.written(write)
            self.pump()
        else:
            original(self, write)

    patch.setattr(Host, "write", write)


@mutant(35, simulator)
def full_disk_ignored(patch: pytest.MonkeyPatch) -> None:
    """A write for which there was no room counts as written."""
    original = SimOs.write

    def write(file: SimFile, data: Any) -> int:
        try:
            return original(file, data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return len(data)

    patch.setattr(WAL_OS, "write", write)
    patch.setattr(WAL_OS, "posix_fallocate", lambda file, offset, length: None)


@mutant(37, simulator)
def log_purged_before_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """The log is purged, then the snapshot is written; the machine dies in between."""
    original = SimDisk.save

    def save(self: SimDisk, snapshot: Snapshot, body: list[bytes]) -> None:
        for old in self.path.__truediv__("snap").glob("*.snap"):
            old.unlink()
        self.purge(snapshot.index)
        original(self, snapshot, body)

    patch.setattr(SimDisk, "save", save)


@mutant(37, simulator)
def unlisted_taken_for_empty(patch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed, for want of descriptors, counts as empty: the member begins anew."""
    original = SimPath.glob

    def glob(self: SimPath, pattern: str) -> list[SimPath]:
        try:
            return original(self, pattern)
        except OSError:
            if pattern == "*.wal":
                self.fs.has_descriptors = True  # somebody gave one back right then
            return []

    patch.setattr(SimPath, "glob", glob)


def a_directory_has_one_member() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = FolderLock(Path(folder), 0o700, "member", "--data-dir")
        try:
            with pytest.raises(OSError, match="another member uses"):
                FolderLock(Path(folder), 0o700, "member", "--data-dir").close()
        finally:
            first.close()


@mutant(38, test(a_directory_has_one_member))
def no_lock(patch: pytest.MonkeyPatch) -> None:
    """A data directory is used by two members at once."""
    patch.setattr(fcntl, "flock", lambda descriptor, operation: None)


def a_directory_is_of_one_cluster() -> None:
    with tempfile.TemporaryDirectory() as folder:
        open_disk(Path(folder), Meta(1, 2, salt=3), None)[0].close()
        with pytest.raises(ValueError, match="belongs to member"):
            Wal.open(Path(folder) / "wal", Meta(2, 2, salt=3))


@mutant(38, test(a_directory_is_of_one_cluster))
def any_cluster_s_directory(patch: pytest.MonkeyPatch) -> None:
    """A member starts on another cluster's data."""
    patch.setattr(Meta, "__eq__", lambda self, other: True)


@mutant(39, scenario(scenarios.rotting_snapshots))
def rotten_snapshot_served(patch: pytest.MonkeyPatch) -> None:
    """A snapshot's checksums are not looked at."""

    def finish(self: snapshot_codec.Decoder) -> Snapshot:
        if self.snapshot is None:
            raise ValueError("not a snapshot, or cut")
        return self.snapshot

    patch.setattr(snapshot_codec.Decoder, "finish", finish)

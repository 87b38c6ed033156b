"""A large snapshot on its way to the disk, beside a log that must not wait for all of it."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import pytest

from raykube.kv import snapshot_files
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.snapshot_files import Abandoned, SnapshotFiles

SNAPSHOT = Snapshot(7, 2, Membership.of(1))
MIB = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "snap", 1)


def pieces(count: int, size: int = MIB) -> Iterator[bytes]:
    return (bytes([number % 256]) * size for number in range(count))


def test_it_is_synced_by_the_megabyte_and_read_back(files: SnapshotFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    fdatasync = os.fdatasync

    def noted(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", noted)
    files.save(SNAPSHOT, pieces(20, MIB // 4))
    assert len(sizes) == 5
    assert all(MIB <= later - earlier <= MIB + MIB // 4 for earlier, later in pairwise(sizes))
    found = files.newest()
    assert found is not None
    data = found.data if isinstance(found.data, bytes) else b"".join(found.data)
    assert data == b"".join(pieces(20, MIB // 4))


def test_the_pause_is_as_long_as_the_sync_but_bounded(files: SnapshotFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    pauses = []
    took = iter([0.001, 0.05, 30.0, 0.002, 0.002])

    def fdatasync(_descriptor: int) -> None:
        nonlocal clock
        clock += next(took)

    def wait(timeout: float) -> bool:
        pauses.append(timeout)
        return False

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(snapshot_files.time, "monotonic", lambda: clock)
    monkeypatch.setattr(files._abandoned, "wait", wait)
    files.save(SNAPSHOT, pieces(4))
    assert pauses == pytest.approx([0.001, 0.05, snapshot_files.PAUSE_S_MAX, 0.002])


def test_a_save_is_given_up_when_the_member_stops(files: SnapshotFiles, tmp_path: Path) -> None:
    outcome: list[object] = []
    begun = Event()

    def endless() -> Iterator[bytes]:
        for number, piece in enumerate(pieces(1 << 30)):
            if number == 5:
                begun.set()
            yield piece

    def save() -> None:
        try:
            outcome.append(files.save(SNAPSHOT, endless()))
        except Abandoned as error:
            outcome.append(error)

    thread = Thread(target=save)
    thread.start()
    assert begun.wait(10)
    files.abandon()
    thread.join(10)
    assert [type(each) for each in outcome] == [Abandoned]
    assert list((tmp_path / "snap").iterdir()) == []

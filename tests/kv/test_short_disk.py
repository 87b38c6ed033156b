"""A disk that fills up with what nobody needs, or is not there any more."""

import asyncio
import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from raykube.kv import room, snapshotter, wal
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration


SEGMENT = 64 << 10


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", SEGMENT)
    monkeypatch.setattr(snapshotter, "SEGMENT_BYTES_MAX", SEGMENT)


async def fill(group: Group) -> None:
    """A few keys written over and over: the log is many times the store."""
    for number in range(100):
        value = b"%d" % number + b"v" * 8192
        await group.client.write([Write(key=b"/%d" % (number % 3), value=value, expected_revision=-1)])
    revision = await group.client.current_revision()
    await group.call("m1", "KV", "Compact", etcd_pb2.CompactionRequest(revision=revision))


def segments(folder: Path) -> int:
    return len(list((folder / "m1" / "wal").glob("*.wal")))


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_full_disk_is_not_full_of_a_log_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    """No snapshot is due for long."""
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        assert segments(tmp_path) > 10
        if restarts:
            await group.stop("m1")
            await group.start("m1")
            await group.leader()
        monkeypatch.setattr(room, "BYTES_KEPT", 1 << 60)
        await until(lambda: segments(tmp_path) < 4, 10, "the log is cut")
        monkeypatch.setattr(room, "BYTES_KEPT", 0)
        await group.stop("m1")
        await group.start("m1")
        await group.leader()
        found = (await group.client.range(b"/0")).kvs
        assert found[0].value.startswith(b"99vvv")


async def test_a_short_disk_does_without_the_way_back_to_the_older_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_group(tmp_path, 1, snapshot_count=30) as group:
        await fill(group)
        member = group.services["m1"].member
        assert member is not None
        await until(lambda: member.snapshotter._task is None)
        before, saved = segments(tmp_path), sorted((tmp_path / "m1" / "snap").iterdir())
        monkeypatch.setattr(room, "BYTES_KEPT", 1 << 60)
        await until(lambda: segments(tmp_path) < before, 10, "the log is cut")
        assert sorted((tmp_path / "m1" / "snap").iterdir()) == saved


async def test_room_is_made_when_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        member = group.services["m1"].member
        assert member is not None
        files, shelf = member.files, member.snapshotter
        saves = []
        save = files.save

        def saving(*arguments: Any) -> int:
            saves.append(arguments)
            if len(saves) == 1:
                raise OSError(errno.ENOSPC, "no room")
            return save(*arguments)

        monkeypatch.setattr(files, "save", saving)
        monkeypatch.setattr(snapshotter, "RETRY_S", 0.05)
        shelf.make_room(100)
        assert shelf._task is None, "a snapshot does not fit"
        node = member.replica.node
        node._pending_snapshot = node.snapshot
        shelf.make_room(1 << 40)
        assert shelf._task is None, "the log begins behind what is applied"
        node._pending_snapshot = None

        def made() -> bool:
            shelf.make_room(1 << 40)
            return segments(tmp_path) < 4

        await until(made, 10, "the log is cut")
        assert len(saves) == 2


async def test_room_is_made_while_the_log_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        member = group.services["m1"].member
        assert member is not None
        waits = threading.Event()
        member._disk.submit(waits.wait, lambda _, __: None)  # as an append does
        try:
            member.snapshotter.make_room(1 << 40)
            await until(lambda: segments(tmp_path) < 4, 10, "the log is cut")
        finally:
            waits.set()


async def test_a_disk_that_cannot_be_asked_stops_the_member(tmp_path: Path) -> None:
    """Its folder was removed: what is open would take writes that nobody finds again."""
    async with running_group(tmp_path, 1) as group:
        shutil.rmtree(tmp_path / "m1")
        async with asyncio.timeout(10):
            with pytest.raises(FileNotFoundError):
                await group.services["m1"].wait()


async def test_a_want_of_descriptors_costs_no_way_back_to_the_older_snapshot(tmp_path: Path) -> None:
    """A smaller log would not help, and what the older snapshot needs of it would be lost."""
    async with running_group(tmp_path, 1) as group:
        await fill(group)
        member = group.services["m1"].member
        assert member is not None
        member.room._retry = lambda: None
        member._wal.shortage = errno.EMFILE
        assert member.room.is_full
        assert "Too many open files" in str(member.room)
        kept = segments(tmp_path)
        for _ in range(5):
            member._tick()
        assert member.snapshotter._task is None
        assert segments(tmp_path) == kept
        member._wal.shortage = errno.ENOSPC
        await until(lambda: segments(tmp_path) < kept, 10, "the log is cut")


async def test_room_for_a_snapshot_is_looked_for_on_its_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log on another disk, which is full, is cut by a snapshot that this one has room for."""
    async with running_group(tmp_path, 1, wal_dir=tmp_path / "log") as group:
        await fill(group)
        member = group.services["m1"].member
        assert member is not None
        usage = shutil.disk_usage(tmp_path)

        def looked(folder: Path) -> Any:
            return usage._replace(free=0 if folder.name == "wal" else 1 << 40)

        monkeypatch.setattr(room.shutil, "disk_usage", looked)
        member.room._checked_at = float("-inf")
        assert member.room.is_full
        assert str(tmp_path / "m1" / "wal") in str(member.room)
        await until(lambda: segments(tmp_path) < 4, 10, "the log is cut")

"""Disks that are full or broken: writes are refused, or the member stops; what was acknowledged is there afterwards."""

import asyncio
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raykube.client.kv import KvClient, UnknownOutcome
from raykube.kv.core.member_changes import NO_ROOM
from raykube.kv.room import BYTES_KEPT
from raykube.kv.service import Service
from raykube.kv.snapshot_files import SnapshotFiles
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import Code, RpcError
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


def put(key: str, value: bytes = b"v") -> Write:
    return Write(key=key.encode(), value=value, expected_revision=-1)


async def stopped(service: Service) -> OSError:
    """The error that ended the member."""
    with pytest.raises(OSError) as error:
        await service.wait()
    assert service.status()["healthy"] is False
    return error.value


async def keys_after_restart(group: Group) -> set[bytes]:
    await group.start("m1")
    return {kv.key for kv in (await group.client.range(b"/", b"0", timeout_s=20)).kvs}


async def test_a_disk_almost_full_refuses_growth_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr("raykube.kv.room.CHECK_S", 0.0)
    async with running_group(tmp_path, 1) as group:
        await group.client.write([put("/a")])
        real = shutil.disk_usage
        monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", lambda _: Usage(1 << 30, 1 << 30, BYTES_KEPT - 1))
        with pytest.raises(RpcError, match=r"no space: the disk of .*m1 has 63 MiB left") as error:
            await group.client.write([put("/b")])
        assert error.value.code is Code.RESOURCE_EXHAUSTED
        # Reading and deleting go on, and the alarm says why.
        delete = etcd_pb2.DeleteRangeRequest(key=b"/a")
        assert (await group.client.call("KV", "DeleteRange", delete)).deleted == 1
        alarms = (await group.client.call("Maintenance", "Alarm", etcd_pb2.AlarmRequest())).alarms
        assert [alarm.alarm for alarm in alarms] == [etcd_pb2.NOSPACE]
        monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", real)
        assert (await group.client.write([put("/c")]))[0].applied


@pytest.mark.parametrize("is_leader", [False, True])
async def test_one_member_s_full_disk_is_everybody_s_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_leader: bool
) -> None:
    monkeypatch.setattr("raykube.kv.room.CHECK_S", 0.02)
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/a")])
        leader = await group.leader()
        full = leader if is_leader else next(name for name in group.names if name != leader)
        number = group.services[full].member.id
        real = shutil.disk_usage

        def usage(path: Path) -> NamedTuple:
            return real(path)._replace(free=BYTES_KEPT - 1) if path.name == full else real(path)

        def nodes() -> set[int]:
            return {service.member.replica.node.full_member for service in group.services.values()}

        monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", usage)
        await until(lambda: nodes() == {number}, 5, "all know")
        for name in group.names:
            client = KvClient([f"127.0.0.1:{group.ports[name]}"])
            try:
                for write in (
                    client.write([put("/b")]),
                    client.call("KV", "Put", etcd_pb2.PutRequest(key=b"/b", value=b"1")),
                ):
                    with pytest.raises(RpcError, match="no space") as error:
                        await write
                    assert error.value.code is Code.RESOURCE_EXHAUSTED
                alarms = (await client.call("Maintenance", "Alarm", etcd_pb2.AlarmRequest())).alarms
                assert [(alarm.memberID, alarm.alarm) for alarm in alarms] == [(number, etcd_pb2.NOSPACE)]
                # Reading and making room go on.
                assert (await client.range(b"/a")).count == 1
                assert "writes are refused: no space: " in str(group.services[name].status()["detail"])
                await client.call("KV", "DeleteRange", etcd_pb2.DeleteRangeRequest(key=b"/none"))
            finally:
                await client.close()
        monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", real)
        await until(lambda: nodes() == {0}, 5, "all know")
        assert (await group.client.write([put("/b")]))[0].applied


async def test_a_learner_s_full_disk_is_its_own_and_it_gets_no_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost member's place may be given to a machine whose disk is full: that must not stop those who are left."""
    monkeypatch.setattr("raykube.kv.room.CHECK_S", 0.02)
    real = shutil.disk_usage

    def usage(path: Path) -> NamedTuple:
        return real(path)._replace(free=BYTES_KEPT - 1) if path.name == "m4" else real(path)

    monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", usage)
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/a")])
        added = await group.add("m4", learner=True)
        await group.start("m4")
        await group.started("m4")
        learner = group.services["m4"].member
        await until(lambda: learner.replica.node.full_member == learner.id, 5, "it knows")
        for _ in range(20):
            assert (await group.client.write([put("/b")]))[0].applied
            with pytest.raises(RpcError, match=r"disk is full|in sync with leader"):
                await group.promote(added.ID)
            await asyncio.sleep(0.05)
        monkeypatch.setattr("raykube.kv.room.shutil.disk_usage", real)
        async with asyncio.timeout(10):
            while learner.id not in learner.replica.node.membership.voters:
                with suppress(RpcError):
                    await group.promote(added.ID)
                await asyncio.sleep(0.05)


async def test_a_learner_without_room_for_a_snapshot_does_not_merely_lag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is not full, but smaller than the store. Who waits for it to catch up waits for ever."""
    monkeypatch.setattr("raykube.kv.transport.SNAPSHOT_RETRY_S", 0.02)
    monkeypatch.setattr("raykube.kv.snapshotter.ENTRIES_KEPT", 1)
    real = shutil.disk_usage

    def usage(path: Path) -> NamedTuple:
        is_short = path.name == "snap" and path.parent.name == "m2"
        return real(path)._replace(free=BYTES_KEPT) if is_short else real(path)

    monkeypatch.setattr("raykube.kv.stored_snapshot.shutil.disk_usage", usage)
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        for number in range(50):
            await group.client.write([put(f"/{number}")])
        node = group.services["m1"].member.replica.node
        await until(lambda: node.log.base > 20, 10, "the log is cut")
        added = await group.add("m2", learner=True)
        await group.start("m2")

        async def answers(wanted: str) -> None:
            answer = "?"
            async with asyncio.timeout(20):
                while answer != wanted:
                    try:
                        await group.promote(added.ID)
                        answer = ""
                    except RpcError as error:
                        answer = error.message
                    await asyncio.sleep(0.02)

        await answers(NO_ROOM)
        monkeypatch.setattr("raykube.kv.stored_snapshot.shutil.disk_usage", real)
        await answers("")


async def test_a_log_without_room_for_its_next_segment_refuses_waits_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of one of three fills up in the middle of writes: none of them is lost, and no member stops."""
    monkeypatch.setattr("raykube.kv.room.CHECK_S", 0.02)
    monkeypatch.setattr("raykube.kv.wal.RETRY_S", 0.02)
    monkeypatch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", 256 << 10)
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/a")])
        leader = await group.leader()
        full = next(name for name in group.names if name != leader)
        member = group.services[full].member
        real = os.posix_fallocate

        def allocate(descriptor: int, offset: int, size: int) -> None:
            if f"/{full}/" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor, offset, size)

        monkeypatch.setattr("raykube.kv.wal.os.posix_fallocate", allocate)
        written = 0
        with pytest.raises(RpcError, match="no space"):
            while True:
                await group.client.write([put(f"/{written}", b"x" * 500)])
                written += 1
        # What need not be refused goes on.
        for number in range(100):
            await group.client.call("KV", "DeleteRange", etcd_pb2.DeleteRangeRequest(key=b"/%d" % number))
        assert not member.failed.done()
        assert group.services[full].status()["healthy"]
        monkeypatch.setattr("raykube.kv.wal.os.posix_fallocate", real)
        await until(lambda: member.replica.node.full_member == 0, 5, "there is room")
        assert (await group.client.write([put("/b")]))[0].applied
        await group.agree()


async def test_a_full_disk_in_the_middle_of_a_write_stops_the_member_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_group(tmp_path, 1) as group:
        for number in range(20):
            await group.client.write([put(f"/{number}")])
        real = os.write
        room = 500

        def full(descriptor: int, data: memoryview) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(descriptor, data[:room])
            room -= written
            return written

        monkeypatch.setattr("raykube.kv.wal.os.write", full)
        with pytest.raises((UnknownOutcome, RpcError)):
            await group.client.write([put("/big", b"x" * 2000)], timeout_s=3)
        error = await stopped(group.services["m1"])
        assert error.errno == errno.ENOSPC
        assert ".wal" in str(error)
        await group.stop("m1")
        # Still full: it does not start, says why, and harms nothing however often it is tried.
        for _ in range(3):
            with pytest.raises(OSError, match="No space left on device"):
                await Service(group.configs["m1"]).start()
        monkeypatch.setattr("raykube.kv.wal.os.write", real)
        assert await keys_after_restart(group) == {b"/%d" % number for number in range(20)}
        assert (await group.client.write([put("/after")]))[0].applied


async def test_a_failed_fdatasync_stops_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_group(tmp_path, 1) as group:
        await group.client.write([put("/before")])
        calls = []

        def broken(descriptor: int) -> None:
            calls.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr("raykube.kv.wal.os.fdatasync", broken)
            with pytest.raises((UnknownOutcome, RpcError)):
                await group.client.write([put("/a")], timeout_s=3)
            assert (await stopped(group.services["m1"])).errno == errno.EIO
            # Nobody is answered any more, and the disk is not asked a second time.
            with pytest.raises(RpcError):
                await group.client.range(b"/before", timeout_s=0.5)
            assert len(calls) == 1
            await group.stop("m1")
        assert b"/before" in await keys_after_restart(group)


async def test_a_failed_fsync_of_a_snapshot_stops_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_group(tmp_path, 1, snapshot_count=10) as group:
        acknowledged = set()

        def broken(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr("raykube.kv.snapshot_files.os.fsync", broken)
            with pytest.raises((UnknownOutcome, RpcError)):
                for number in range(100):
                    await group.client.write([put(f"/{number}")], timeout_s=2)
                    acknowledged.add(b"/%d" % number)
            assert ".tmp" in str(await stopped(group.services["m1"]))
            assert list((tmp_path / "m1" / "snap").iterdir()) == []
            await group.stop("m1")
        assert acknowledged
        assert acknowledged <= await keys_after_restart(group)


async def test_a_large_store_is_not_written_out_for_a_few_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = SnapshotFiles.save

    def save(files: SnapshotFiles, *arguments: Any) -> int:
        sizes.append(real(files, *arguments))
        return sizes[-1]

    monkeypatch.setattr(SnapshotFiles, "save", save)
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        for number in range(5):
            await group.client.write([put(f"/large/{number}", b"x" * 100_000)])
        await until(lambda: bool(sizes))
        await group.client.write([put("/large", b"x" * 200_000)])
        count = 0
        while sum(sizes) < 2_000_000:
            await group.client.write([put("/small", b"x" * 1000)])
            count += 1
        # About as much goes to the log as to snapshots: each is due when the log has a quarter of the last one.
        assert count > 100
        assert len(sizes) < 8


async def test_a_snapshot_without_room_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kv.snapshotter.RETRY_S", 0.01)
    real = SnapshotFiles.save
    tried = 0

    def save(files: SnapshotFiles, *arguments: Any) -> int:
        nonlocal tried
        tried += 1
        if tried < 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(files, *arguments)

    monkeypatch.setattr(SnapshotFiles, "save", save)
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        number = 0
        while not list((tmp_path / "m1" / "snap").glob("*.snap")):
            await group.client.write([put(f"/{number}")])
            number += 1
        assert tried == 4
        assert group.services["m1"].status()["healthy"]

"""A disk that fills up with what nobody needs, or is not there any more."""

import asyncio
import shutil
from pathlib import Path

import pytest

from raykube.kv import room, snapshotter, wal
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import running_group

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_full_disk_is_not_full_of_a_log_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    """A few keys written over and over: the log is many times the store, and no snapshot is due for long."""
    segment = 64 << 10
    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", segment)
    monkeypatch.setattr(snapshotter, "SEGMENT_BYTES_MAX", segment)
    logs = tmp_path / "m1" / "wal"

    def size() -> int:
        return sum(path.stat().st_size for path in logs.iterdir())

    async with running_group(tmp_path, 1) as group:
        for number in range(100):
            value = b"%d" % number + b"v" * 8192
            await group.client.write([Write(key=b"/%d" % (number % 3), value=value, expected_revision=-1)])
        revision = await group.client.current_revision()
        await group.call("m1", "KV", "Compact", etcd_pb2.CompactionRequest(revision=revision))
        assert size() > 10 * segment
        if restarts:
            await group.stop("m1")
            await group.start("m1")
            await group.leader()
        monkeypatch.setattr(room, "BYTES_KEPT", 1 << 60)
        await until(lambda: size() < 5 * segment, 10, "the log is cut")
        monkeypatch.setattr(room, "BYTES_KEPT", 0)
        await group.stop("m1")
        await group.start("m1")
        await group.leader()
        found = (await group.client.range(b"/0")).kvs
        assert found[0].value.startswith(b"99vvv")


async def test_a_disk_that_cannot_be_asked_stops_the_member(tmp_path: Path) -> None:
    """Its folder was removed: what is open would take writes that nobody finds again."""
    async with running_group(tmp_path, 1) as group:
        shutil.rmtree(tmp_path / "m1")
        async with asyncio.timeout(10):
            with pytest.raises(FileNotFoundError):
                await group.services["m1"].wait()

"""The collector does not walk what the store holds."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykube.kv import memory
from raykube.kv.core.mvcc.version import Version
from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import running_group


@pytest.fixture(autouse=True)
def _thaw() -> Iterator[None]:
    yield
    gc.unfreeze()


def watched() -> int:
    """How many versions the collector knows of."""
    return sum(1 for found in gc.get_objects() if type(found) is Version)


async def test_what_was_applied_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FREEZE_REVISIONS", 50)
    async with running_group(tmp_path, 1) as group:
        gc.freeze()
        for batch in range(20):
            writes = [Write(key=b"/%d/%d" % (batch, n), value=b"v", expected_revision=-1) for n in range(20)]
            await group.client.write(writes)
        assert watched() < 100


async def test_garbage_in_cycles_is_found_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_S", 0.02)
    monkeypatch.setattr(memory, "FULL_S", 0.0)
    seen: list[str] = []

    class Circle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            seen.append("gone")

    async with running_group(tmp_path, 1):
        Circle()
        gc.freeze()
        await until(lambda: seen)


async def test_pages_that_compaction_emptied_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_S", 0.02)
    monkeypatch.setattr(memory, "TRIM_BYTES_MIN", 0)
    trimmed: list[int] = []
    monkeypatch.setattr(memory, "_trimmer", lambda: lambda pad: len(trimmed.append(pad) or ()))
    async with running_group(tmp_path, 1):
        await until(lambda: trimmed)

"""Segments and the room for them: allocated before use, waited for when the disk is full, given back at the end."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from raykube.kv.core.raft.messages import Entry, HardState, Write
from raykube.kv.core.wal_codec import Meta
from raykube.kv.wal import Wal

META = Meta(5, 9, 1, 7)
SEGMENT = 4096


def write(index: int, size: int = 100) -> Write:
    return Write(HardState(1, 9, index), [Entry(1, index, 0, b"x" * size)], None, [])


class Disk:
    """Stands for `os.posix_fallocate`: full or not, or out of descriptors."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.error = 0
        self.refused = Event()
        self._real = os.posix_fallocate
        patch.setattr("raykube.kv.wal.os.posix_fallocate", self.allocate)
        patch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", SEGMENT)
        patch.setattr("raykube.kv.wal.RETRY_S", 0.005)

    def allocate(self, descriptor: int, offset: int, size: int) -> None:
        if self.error:
            self.refused.set()
            raise OSError(self.error, os.strerror(self.error))
        self._real(descriptor, offset, size)


def fill_until(wal: Wal, holds: Callable[[], bool]) -> int:
    """Appends until `holds()`; returns the last index."""
    index = 0
    while not holds():
        index += 1
        wal.append(write(index))
    return index


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_full_disk_is_known_early_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    disk = Disk(monkeypatch)
    wal, _ = Wal.open(tmp_path / "wal", META)
    disk.error = error
    index = fill_until(wal, lambda: wal.shortage == error)
    # Half a segment is left for what must be written all the same.
    for _ in range(8):
        index += 1
        wal.append(write(index))
    disk.refused.clear()
    done = Event()

    def append() -> None:
        for number in range(index + 1, index + 31):
            wal.append(write(number))
        done.set()

    thread = Thread(target=append, daemon=True)
    thread.start()
    disk.refused.wait(5)
    assert not done.is_set()
    disk.error = 0
    assert done.wait(5)
    thread.join()
    assert not wal.shortage
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert [entry.index for entry in replay.entries] == list(range(1, index + 31))
    assert not replay.damage


def test_a_wait_for_room_ends_when_the_member_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    wal, _ = Wal.open(tmp_path / "wal", META)
    disk.error = errno.ENOSPC
    wal.abandon()
    written = 0
    with pytest.raises(OSError, match=r"No space left on device: .*next\.tmp"):
        for number in range(1, 100):
            wal.append(write(number))
            written = number
    wal.close()
    disk.error = 0
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert replay.entries[-1].index == written


def test_a_frame_larger_than_a_segment_has_room_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch)
    wal, _ = Wal.open(tmp_path / "wal", META)
    for index, size in enumerate((100, 3 * SEGMENT, 100, 2 * SEGMENT, 2 * SEGMENT, 100), 1):
        wal.append(write(index, size))
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert [entry.index for entry in replay.entries] == [1, 2, 3, 4, 5, 6]


def test_what_a_segment_did_not_use_is_given_back(tmp_path: Path) -> None:
    wal, _ = Wal.open(tmp_path / "wal", META)
    (path,) = (tmp_path / "wal").glob("*.wal")
    assert path.stat().st_size == 16 << 20
    wal.append(write(1))
    wal.close()
    assert path.stat().st_size < 1000
    assert [each.suffix for each in (tmp_path / "wal").iterdir()] == [".wal"]


def test_a_log_that_cannot_be_opened_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal, _ = Wal.open(tmp_path / "wal", META)
    wal.append(write(1))
    wal.close()
    for name in ("posix_fallocate", "write", "fdatasync"):
        before = descriptors()

        def broken(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(f"raykube.kv.wal.os.{name}", broken)
            with pytest.raises(OSError, match="Input/output"):
                Wal.open(tmp_path / "wal", META)
        assert descriptors() == before
    wal, replay = Wal.open(tmp_path / "wal", META)
    wal.close()
    assert [entry.index for entry in replay.entries] == [1]


def test_killed_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies before any one of its calls leaves a log that holds all it promised."""
    Disk(monkeypatch)

    class Killed(BaseException):
        pass

    for calls_left in range(200):
        folder = tmp_path / str(calls_left)
        promised, remaining = 0, calls_left
        with monkeypatch.context() as patch:

            def counted(name: str, patch: pytest.MonkeyPatch = patch) -> None:
                real = getattr(os, name)

                def call(*arguments: object, **keywords: object) -> object:
                    nonlocal remaining
                    if remaining == 0:
                        raise Killed
                    remaining -= 1
                    return real(*arguments, **keywords)

                patch.setattr(os, name, call)

            for name in ("open", "write", "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink"):
                counted(name)
            is_done = False
            try:
                wal, _ = Wal.open(folder, META)
                for index in range(1, 60):
                    wal.append(write(index))
                    promised = index
                wal.close()
                is_done = True
            except Killed:
                pass
        wal, replay = Wal.open(folder, META)
        wal.close()
        assert len(replay.entries) >= promised
        assert not replay.damage
        if is_done:
            break
    else:
        pytest.fail("it made more calls than expected")

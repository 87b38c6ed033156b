"""A log that is followed by somebody slow, while it is rotated."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from raykube.kubelet.core.podlog import LogOptions
from raykube.kubelet.logreader import LogReader


def line(number: int) -> bytes:
    return f"2026-11-23T05:00:00.{number:09}Z stdout F {number}\n".encode()


class Log:
    """A container's log, written and rotated as a kubelet does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "0.log"
        self.written = 0
        self.rotated: list[Path] = []

    def write(self, lines: int) -> None:
        with self.path.open("ab") as file:
            for _ in range(lines):
                file.write(line(self.written))
                self.written += 1

    def rotate(self) -> None:
        for old in self.rotated:
            if old.exists():
                Path(f"{old}.gz").write_bytes(gzip.compress(old.read_bytes()))
                old.unlink()
        aside = Path(f"{self.path}.20261123-0500{len(self.rotated):02}")
        self.path.rename(aside)
        self.path.touch()
        self.rotated.append(aside)


@pytest.mark.parametrize("rotations", [0, 1, 2, 5])
@pytest.mark.parametrize("earlier", [0, 2])
async def test_nothing_is_lost_however_often_it_is_rotated(tmp_path: Path, rotations: int, earlier: int) -> None:
    log = Log(tmp_path)
    for _ in range(earlier):
        log.path.touch()
        log.rotate()
    log.write(3)
    read: list[bytes] = []

    async def alive() -> bool:
        return len(read) < log.written

    steps: list[Callable[[], None]] = [lambda: log.write(3), log.rotate]
    async for chunk in LogReader(log.path, LogOptions(follow=True), alive).read():
        read += chunk.splitlines()
        if log.written == 3:  # the reader waits with the first file open
            for _ in range(rotations):
                for step in steps:
                    step()
            log.write(2)
        if len(read) == log.written:
            break
    assert read == [str(number).encode() for number in range(log.written)]


async def test_what_is_kept_no_more_is_skipped(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(1)
    read: list[bytes] = []

    async def alive() -> bool:
        return True

    async for chunk in LogReader(log.path, LogOptions(follow=True), alive).read():
        read += chunk.splitlines()
        if log.written == 1:
            for _ in range(3):
                log.rotate()
                log.write(1)
            Path(f"{log.rotated[1]}.gz").unlink()
        if read[-1] == b"3":
            break
    assert read == [b"0", b"2", b"3"]

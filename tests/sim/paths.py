"""Paths and open files of a simulated file system, and the `os` that goes with them, for the shipped log's modules."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tests.sim.filesystem import File, Folder, SimFs


class SimPath:
    """As much of pathlib.Path as the shipped code uses."""

    __slots__ = ("fs", "parts")

    def __init__(self, fs: SimFs, parts: tuple[str, ...]) -> None:
        self.fs = fs
        self.parts = parts

    def __truediv__(self, name: str) -> "SimPath":
        return SimPath(self.fs, (*self.parts, *name.split("/")))

    def __str__(self) -> str:
        return "/" + "/".join(self.parts)

    __repr__ = __str__

    def __lt__(self, other: "SimPath") -> bool:
        return self.parts < other.parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimPath) and (self.fs, self.parts) == (other.fs, other.parts)

    def __hash__(self) -> int:
        return hash(self.parts)

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        stem, dot, suffix = self.name.rpartition(".")
        return dot + suffix if stem else ""

    @property
    def parent(self) -> "SimPath":
        return SimPath(self.fs, self.parts[:-1])

    def with_suffix(self, suffix: str) -> "SimPath":
        return self.parent / (self.stem + suffix)

    def with_name(self, name: str) -> "SimPath":
        return self.parent / name

    def exists(self) -> bool:
        return self.fs.find(self.parts) is not None

    def is_dir(self) -> bool:
        return isinstance(self.fs.find(self.parts), Folder)

    def is_file(self) -> bool:
        return isinstance(self.fs.find(self.parts), File)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if self.exists():
            if not exist_ok:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
            return
        if parents and self.parts and not self.parent.exists():
            self.parent.mkdir(parents=True)
        self.fs.set_name(self.parts, Folder())

    def iterdir(self) -> list["SimPath"]:
        return [self / name for name in sorted(self.fs.folder(self.parts).names)]

    def glob(self, pattern: str) -> list["SimPath"]:
        self.fs.need_descriptor()
        found = self.fs.find(self.parts)
        names = found.names if isinstance(found, Folder) else {}
        return [self / name for name in sorted(names) if fnmatchcase(name, pattern)]

    def stat(self) -> os.stat_result:
        size = len(self.fs.file(self.parts).cache)
        return os.stat_result((0o100600, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def read_bytes(self) -> bytes:
        self.fs.need_descriptor()
        return bytes(self.fs.file(self.parts).cache)

    def unlink(self, missing_ok: bool = False) -> None:
        if not self.exists() and missing_ok:
            return
        self.fs.file(self.parts)
        self.fs.set_name(self.parts, None)

    def rename(self, target: "SimPath") -> "SimPath":
        assert target.parts[:-1] == self.parts[:-1], "a rename from folder to folder is not simulated"
        self.fs.set_name(target.parts, self.fs.file(self.parts), drop=self.name)
        return target

    replace = rename

    def open(self, mode: str = "rb", buffering: int = -1) -> "SimFile":
        assert "b" in mode
        self.fs.need_descriptor()
        if "x" in mode and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        if mode[0] in "wxa" and not self.exists():
            self.fs.create(self.parts)
        file = self.fs.file(self.parts)
        if mode[0] == "w":
            self.fs.truncate(file, 0)
        return SimFile(self.fs, file, "a" in mode)


class SimFile:
    """An open file; unbuffered."""

    def __init__(self, fs: SimFs, file: File | Folder, is_appending: bool) -> None:
        self.fs = fs
        self.file = file
        self._is_appending = is_appending
        self._position = 0

    def __enter__(self) -> "SimFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _content(self) -> File:
        assert isinstance(self.file, File)
        return self.file

    def write(self, data: bytes | memoryview) -> int:
        content = self._content()
        if self._is_appending:
            self._position = len(content.cache)
        view = bytes(data)
        done = 0
        while done < len(view):
            done += self.fs.write(content, self._position + done, view[done:])
        self._position += done
        return done

    def write_some(self, data: bytes) -> int:
        """As the system call: it may write less."""
        content = self._content()
        if self._is_appending:
            self._position = len(content.cache)
        done = self.fs.write(content, self._position, data)
        self._position += done
        return done

    def read(self, size: int = -1) -> bytes:
        cache = self._content().cache
        end = len(cache) if size < 0 else self._position + size
        data = bytes(cache[self._position : end])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._content().cache))[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        self.fs.truncate(self._content(), size)
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def fileno(self) -> "SimFile":
        return self  # a descriptor is only ever handed back to SimOs

    def close(self) -> None:
        """Nothing to give back."""

    def __ge__(self, _: int) -> bool:
        return True  # "is it open?", asked as `descriptor >= 0`


class SimOs:
    """The `os` module, as far as the log uses it; a descriptor is a SimFile. Constants are the real ones."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if callable(value) and name not in ("strerror", "fspath"):
            raise AttributeError(f"os.{name} is not simulated")
        return value

    @staticmethod
    def open(path: SimPath, flags: int, _mode: int = 0o777) -> SimFile:
        fs = path.fs
        fs.need_descriptor()
        found = fs.find(path.parts)
        if found is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            found = fs.create(path.parts)
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        elif flags & os.O_TRUNC:
            fs.truncate(fs.file(path.parts), 0)
        return SimFile(fs, found, bool(flags & os.O_APPEND))

    @staticmethod
    def posix_fallocate(file: SimFile, offset: int, length: int) -> None:
        file.fs.allocate(file.file, offset + length)

    @staticmethod
    def write(file: SimFile, data: bytes | memoryview) -> int:
        return file.write_some(bytes(data))

    @staticmethod
    def fsync(file: SimFile) -> None:
        file.fs.sync(file.file)

    fdatasync = fsync

    @staticmethod
    def ftruncate(file: SimFile, size: int) -> None:
        file.truncate(size)

    @staticmethod
    def close(file: SimFile) -> None:
        file.close()


WAL_OS = SimOs()
SNAPSHOT_OS = SimOs()
SEGMENT_BYTES_MAX = 4096
EVENTS_MAX = 4


@contextmanager
def installed() -> Iterator[None]:
    """While it lasts, the shipped log works on simulated paths and in small segments; watches get little at a time."""
    with (
        patch("raykube.kv.wal.os", WAL_OS),
        patch("raykube.kv.snapshot_files.os", SNAPSHOT_OS),
        patch("raykube.kv.stored_snapshot.os", SNAPSHOT_OS),
        patch("raykube.kv.stored_snapshot.shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 40)),
        patch("raykube.kv.wal.SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX),
        patch("raykube.kv.core.watchers.EVENTS_MAX", EVENTS_MAX),
        patch(
            "raykube.kv.wal.pause", lambda _: True, create=True
        ),  # nobody makes room while the simulated thread waits
        patch("raykube.kv.disk.log"),
        patch("raykube.kv.snapshot_files.log"),  # it says which file is damaged, a thousand times
    ):
        yield

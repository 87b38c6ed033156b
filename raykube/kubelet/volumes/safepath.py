"""Paths below a directory whose content is somebody else's: the kernel resolves them, so that no link leads out.

openat2(2) looks a path up in one step. Between a check and a use there is nothing that a container could change.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

NO_XDEV = 0x01
NO_MAGIC_LINKS = 0x02
NO_LINKS = 0x04
BENEATH = 0x08
SYS_OPENAT2 = 437
TEXT_BYTES_MAX = 1 << 20
RETRIES_MAX = 8  # EAGAIN: something was renamed meanwhile

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def open_at(directory: int, path: str, flags: int, resolve: int) -> int:
    """A handle on `path` below the open `directory`. Raises OSError, EXDEV when it would lead out."""
    how = _How(flags | os.O_CLOEXEC, 0, resolve)
    for attempt in range(RETRIES_MAX):
        handle: int = _libc.syscall(
            SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if handle >= 0:
            return handle
        number = ctypes.get_errno()
        if number != 11 or attempt == RETRIES_MAX - 1:
            raise OSError(number, os.strerror(number), path)
    raise AssertionError("the loop returns or raises")


def text(base: str, path: str) -> str | None:
    """A file below the directory `base`, at most TEXT_BYTES_MAX of it; None where there is none. Raises OSError."""
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not to wait for a pipe's other end: what lies there is somebody else's.
        handle = open_at(root, path, os.O_RDONLY | os.O_NONBLOCK, BENEATH | NO_MAGIC_LINKS)
    except FileNotFoundError:
        return None
    finally:
        os.close(root)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read(TEXT_BYTES_MAX).decode(errors="replace")


@contextmanager
def opened(base: str, path: str, mode: int | None) -> Iterator[int]:
    """A handle on `path` in the directory `base`, made with `mode` where it is missing (None: it must be there)."""
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle = _find(root, path, mode)
        try:
            yield handle
        finally:
            os.close(handle)
    finally:
        os.close(root)


def _find(root: int, path: str, mode: int | None) -> int:
    inside = BENEATH | NO_MAGIC_LINKS
    try:
        return open_at(root, path, os.O_PATH, inside)
    except FileNotFoundError:
        if mode is None:
            raise
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for count in range(1, len(parts) + 1):
        here = "/".join(parts[:count])
        try:
            os.close(open_at(root, here, os.O_PATH, inside))
            continue
        except FileNotFoundError:
            pass
        parent = open_at(root, "/".join(parts[: count - 1]) or ".", os.O_RDONLY | os.O_DIRECTORY, inside)
        try:
            os.mkdir(parts[count - 1], dir_fd=parent)
            made = os.open(parts[count - 1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchmod(made, mode)
            finally:
                os.close(made)
        finally:
            os.close(parent)
    return open_at(root, path, os.O_PATH, inside)

"""Deletes a directory tree that containers wrote to: never through a mount, never through a link.

First everything that is mounted in it is taken off. Then each directory is opened by openat2, which refuses to cross a
mount that came meanwhile, and emptied from within. What lies too deep for that is moved up first, so that neither the
depth of a tree nor the length of its paths matters.
"""

import errno
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from raykube.kubelet.volumes import mounts
from raykube.kubelet.volumes.safepath import BENEATH, NO_LINKS, NO_XDEV, open_at

DEPTH_MAX = 64


def clear(directory: Path) -> None:
    """Removes `directory` and all in it; one that is not there is no error. Raises OSError for what stays."""
    mounts.detach_below(directory)
    try:
        parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _Removal(parent, directory.name).run()
    finally:
        os.close(parent)


class _Removal:
    def __init__(self, parent: int, name: str) -> None:
        self._parent = parent
        self._name = name
        self._top = -1
        self._moved = 0
        self._mark = time.time_ns()  # no name that an earlier run left

    def run(self) -> None:
        top = _open(self._parent, self._name)
        if top is None:
            return
        self._top = top
        try:
            before = -1
            while self._moved != before:
                before = self._moved
                self._empty(top, 0)
        finally:
            os.close(top)
        os.rmdir(self._name, dir_fd=self._parent)

    def _empty(self, directory: int, depth: int) -> None:
        for name in os.listdir(directory):
            child = _open(directory, name)
            if child is None:
                continue
            try:
                if depth < DEPTH_MAX:
                    self._empty(child, depth + 1)
                else:
                    self._moved += 1
                    os.rename(name, f"..moved-{self._mark}-{self._moved}", src_dir_fd=directory, dst_dir_fd=self._top)
                    continue
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=directory)


def _open(directory: int, name: str) -> int | None:
    """A handle on a directory to be emptied; what is no directory is deleted at once. None: nothing is left."""
    flags, resolve = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, BENEATH | NO_LINKS | NO_XDEV
    try:
        return open_at(directory, name, flags, resolve)
    except FileNotFoundError:
        return None
    except PermissionError:
        # An ordinary user's own directory that a container closed to its owner.
        _unlock(directory, name)
        return open_at(directory, name, flags, resolve)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, "something is mounted there", name) from None
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    try:
        os.unlink(name, dir_fd=directory)
    except PermissionError:
        os.fchmod(directory, 0o700)
        os.unlink(name, dir_fd=directory)
    return None


def _unlock(directory: int, name: str) -> None:
    handle = open_at(directory, name, os.O_PATH | os.O_NOFOLLOW, BENEATH | NO_LINKS | NO_XDEV)
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            with suppress(PermissionError):
                os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)

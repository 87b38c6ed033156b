"""Gives a volume to the pod's group, as `core.ownership` says; only root can."""

import os
import stat
from pathlib import Path

from raykube.kubelet.core import ownership


def give(directory: Path, group: int, read_only: bool) -> None:
    """Every file and directory at and below `directory`. Links change hands themselves, and lead nowhere."""
    for _, _, files, handle in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in files:
            _give(name, handle, group, read_only)
        _give(".", handle, group, read_only)
        _own_links(handle, group)


def _own_links(directory: int, group: int) -> None:
    """Links to directories, which a walk does not count among the files."""
    with os.scandir(directory) as entries:
        links = [entry.name for entry in entries if entry.is_symlink()]
    for name in links:
        _give(name, directory, group, read_only=True)


def _give(name: str, directory: int, group: int, read_only: bool) -> None:
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return  # a container that runs already removed it
    try:
        found = os.fstat(handle)
        if found.st_gid != group:
            os.chown(name, -1, group, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(f"/proc/self/fd/{handle}", ownership.group_mode(found.st_mode, read_only))
    finally:
        os.close(handle)


def needs_change(directory: Path, group: int) -> bool:
    """Whether the root of a volume that is written to is not yet the group's."""
    found = directory.stat()
    return not ownership.group_matches(found.st_mode, found.st_gid, group, read_only=False)

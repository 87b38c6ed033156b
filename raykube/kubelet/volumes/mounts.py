"""Mounts by system call, and what is mounted now."""

import ctypes
import os
import re
from collections.abc import Collection
from pathlib import Path

from raykube.kubelet.core import mountinfo

MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
CAP_SYS_ADMIN = 21

_libc = ctypes.CDLL(None, use_errno=True)


def allowed() -> bool:
    """Whether this process may mount."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)
    return False


def present() -> list[mountinfo.Mount]:
    """All mounts of this namespace."""
    return mountinfo.parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def below(directory: Path) -> list[str]:
    """What is mounted at and below `directory`, in the order in which it can be taken off."""
    return mountinfo.below(present(), str(directory))


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def tmpfs(target: Path, bytes_max: int = 0) -> None:
    """A file system in memory, if there is none yet; it is never swapped out where the kernel can promise that."""
    if os.path.ismount(target):
        return
    size = [f"size={bytes_max}"] if bytes_max else []
    try:
        _mount("tmpfs", str(target), "tmpfs", 0, ",".join([*size, "noswap"]))
    except OSError:
        _mount("tmpfs", str(target), "tmpfs", 0, ",".join(size))


def bind(handle: int, target: Path) -> None:
    """Shows the open file or directory `handle` at `target` too."""
    _mount(f"/proc/self/fd/{handle}", str(target), "", MS_BIND, "")


def detach_below(directory: Path) -> None:
    """Takes off everything that is mounted at and below `directory`."""
    for point in below(directory):
        detach(point)


_OF_PODS = re.compile(r"/pods/([^/]+)/(?:volumes/kubernetes\.io~[^/]+/[^/]+|volume-subpaths/.+)$")


def detach_pods(directory: Path, spared: Collection[str] = ()) -> None:
    """Takes off what kubelets below `directory` mounted for their pods, once no kubelet is left to do it.

    Pods with a uid in `spared` keep theirs.
    """
    for point in below(directory):
        found = _OF_PODS.search(point)
        if found and found[1] not in spared:
            detach(point)


def detach(point: str) -> None:
    """Takes a mount off, for new users at once, whoever still has files open on it; none is no error."""
    if _libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number not in (22, 2):  # EINVAL: not a mount (any more); ENOENT
            raise OSError(number, os.strerror(number), point)

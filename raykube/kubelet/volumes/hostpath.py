"""hostPath and local: places of the machine, checked as their volume asks."""

import stat
from pathlib import Path

from raykube.kubelet.volumes.failure import VolumeFailed

_TYPES = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def prepare(path: str, kind: str) -> None:
    """Checks a hostPath volume, and makes it where its type says so. Raises VolumeFailed and OSError.

    Without a type nothing is checked: the runtime makes a directory where nothing is.
    """
    if not kind:
        return
    place = Path(path)
    if kind == "DirectoryOrCreate" and not place.exists():
        place.mkdir(mode=0o755, parents=True)
    if kind == "FileOrCreate" and not place.exists():
        place.touch(mode=0o644)
    check, what = _TYPES[kind]
    if not place.exists() or not check(place.stat().st_mode):
        raise VolumeFailed(f"hostPath type check failed: {path} is not a {what}")


def check_local(path: str, block: bool) -> None:
    """Checks the place of a local PersistentVolume. Raises VolumeFailed."""
    place = Path(path)
    if not place.exists():
        raise VolumeFailed(f'path "{path}" does not exist')
    is_block = place.is_block_device()
    if is_block != block:
        wanted = "block device" if block else "directory"
        raise VolumeFailed(f'path "{path}" is not a {wanted}, which volumeMode asks for')

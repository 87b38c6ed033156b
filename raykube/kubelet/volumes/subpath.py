"""subPath: one place inside a volume, shown to a container in a way that the container cannot redirect.

What the path names is opened once, inside the volume (`safepath`), and that very file or directory is bind-mounted to a
place of the kubelet's, which is what the runtime gets. A kubelet that may not mount hands out the path it found; its
containers run as its own user and can open nothing that they could not open anyway.
"""

import os
import stat
from pathlib import Path

from raykube.kubelet.volumes import mounts, safepath
from raykube.kubelet.volumes.failure import VolumeFailed


def prepare(base: str, path: str, place: Path, may_mount: bool, mount_name: str, container: str) -> str:
    """The path for the runtime; missing directories get the permissions of the volume. Raises VolumeFailed."""
    refused = VolumeFailed(f'failed to prepare subPath for volumeMount "{mount_name}" of container "{container}"')
    if ".." in path.split("/") or path.startswith("/"):
        raise refused
    try:
        with safepath.opened(base, path, os.stat(base).st_mode & 0o777) as handle:
            if not may_mount:
                return os.readlink(f"/proc/self/fd/{handle}")
            _show(handle, place)
            return str(place)
    except OSError as error:
        refused.add_note(str(error))
        raise refused from error


def _show(handle: int, place: Path) -> None:
    mounts.detach_below(place)  # of the container's last run, or of a kubelet that was killed
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        if place.is_file():
            place.unlink()
        place.mkdir(parents=True, exist_ok=True)
    else:
        if place.is_dir():
            place.rmdir()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    mounts.bind(handle, place)

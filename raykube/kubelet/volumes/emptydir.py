"""emptyDir: a directory on disk, or a tmpfs where the pod asks for memory and the kubelet may mount."""

import os
from collections.abc import Iterable
from pathlib import Path

from raykube.kubelet.volumes import mounts


def prepare(directory: Path, in_memory: bool, bytes_max: int) -> bool:
    """Makes it if it is not there yet; answers whether it is new."""
    ready = os.path.ismount(directory) if in_memory else directory.is_dir()
    if ready:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    if in_memory:
        mounts.tmpfs(directory, bytes_max)
    directory.chmod(0o777)
    return True


def used_bytes(directory: Path) -> int:
    """The blocks that a volume takes on its disk, files with several names once. May take long: call in a thread."""
    device = directory.stat().st_dev
    seen: set[int] = set()
    total = 0
    pending = [str(directory)]
    while pending:
        try:
            entries: Iterable[os.DirEntry[str]] = list(os.scandir(pending.pop()))
        except OSError:
            continue  # removed meanwhile
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != device or (found.st_nlink > 1 and found.st_ino in seen):
                continue
            seen.add(found.st_ino)
            total += found.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return total

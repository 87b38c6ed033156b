"""emptyDir: a directory on disk, or a tmpfs where the pod asks for memory and the kubelet may mount."""

import os
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

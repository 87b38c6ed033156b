"""Writes a payload into a volume so that a reader sees either all of the old files or all of the new ones.

volume/..2026_11_23_04_45_00.123456789/key     the files
volume/..data -> ..2026_…                      replaced by one rename
volume/key    -> ..data/key                    what a container opens
"""

import os
import shutil
import time
from pathlib import Path

from raykube.kubelet.core.payload import Payload

DATA = "..data"


def _same(directory: Path, payload: Payload) -> bool:
    current = directory / DATA
    if not current.is_dir():
        return False
    present = {str(Path(root, name).relative_to(current)) for root, _, names in os.walk(current) for name in names}
    if present != set(payload):
        return False
    return all(
        (current / path).read_bytes() == file.content and (current / path).stat().st_mode & 0o777 == file.mode & 0o777
        for path, file in payload.items()
    )


def write(directory: Path, payload: Payload) -> bool:
    """Makes `directory` show `payload`; answers whether anything changed."""
    directory.mkdir(parents=True, exist_ok=True)
    if _same(directory, payload):
        return False
    now = time.time_ns()
    name = time.strftime("..%Y_%m_%d_%H_%M_%S", time.gmtime(now // 1_000_000_000)) + f".{now % 1_000_000_000:09d}"
    target = directory / name
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    for path, file in payload.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode)
    link = directory / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.rename(directory / DATA)
    wanted = {path.split("/")[0] for path in payload}
    for top in wanted:
        if not (directory / top).is_symlink():
            (directory / top).symlink_to(f"{DATA}/{top}")
    for entry in os.scandir(directory):
        if entry.name.startswith("..") and entry.name not in (DATA, name):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif not entry.name.startswith("..") and entry.is_symlink() and entry.name not in wanted:
            os.unlink(entry.path)
    return True

"""Writes a payload into a volume so that a reader sees either all of the old files or all of the new ones.

volume/..2026_11_23_04_45_00.123456789/key     the files
volume/..data -> ..2026_…                      replaced by one rename
volume/key    -> ..data/key                    what a container opens

Every call makes all of it true again, whatever a writer that was killed left unfinished.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from raykube.kubelet.core.payload import Payload

DATA = "..data"


def _same(directory: Path, payload: Payload) -> bool:
    current = directory / DATA
    if not current.is_dir():
        return False
    present = {str(Path(root, name).relative_to(current)) for root, _, names in os.walk(current) for name in names}
    # The owner may read at least: a group that owns the volume has added bits for itself.
    return present == set(payload) and all(
        (current / path).read_bytes() == file.content
        and (current / path).stat().st_mode & file.mode & 0o777 == file.mode & 0o777
        for path, file in payload.items()
    )


def write(directory: Path, payload: Payload, own: Callable[[Path], None] = lambda _: None) -> bool:
    """Makes `directory` show `payload`; answers whether the files changed. `own` is called before they are seen."""
    directory.mkdir(parents=True, exist_ok=True)
    changed = not _same(directory, payload)
    if changed:
        name = _write_files(directory, payload, own)
        link = directory / "..data_tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.rename(directory / DATA)
    _show(directory, {path.split("/")[0] for path in payload}, os.readlink(directory / DATA))
    return changed


def _write_files(directory: Path, payload: Payload, own: Callable[[Path], None]) -> str:
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
        if file.user is not None and os.geteuid() == 0:
            os.chown(place, file.user, -1)
    own(target)
    return name


def _show(directory: Path, wanted: set[str], current: str) -> None:
    """A link for each file, and nothing of older payloads."""
    for top in wanted:
        if not (directory / top).is_symlink():
            (directory / top).symlink_to(f"{DATA}/{top}")
    for entry in os.scandir(directory):
        if entry.name.startswith(".."):
            if entry.name not in (DATA, current):
                _remove(entry)
        elif entry.is_symlink() and entry.name not in wanted:
            os.unlink(entry.path)


def _remove(entry: "os.DirEntry[str]") -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        os.unlink(entry.path)

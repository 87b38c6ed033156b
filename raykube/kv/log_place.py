"""Where a member's log is: in its data directory, or on a disk of its own, to which a link `wal` leads from there.

A link, so that the data directory says it: a start that forgets `--wal-dir` must not take the member for a new one.
"""

import contextlib
import os
from pathlib import Path

from raykube.kv.joins import INCARNATION
from raykube.kv.wal import UNUSED, segments, sync_folder
from raykube.rpc.folder_lock import LOCK


def settle(data_dir: Path, wal_dir: Path | None) -> None:
    """Has `data_dir`'s log in `wal_dir`, if that is given. Raises ValueError where it is elsewhere, and OSError."""
    link = data_dir / "wal"
    if link.is_symlink():
        there = Path(os.readlink(link))
        # Before a member begins, it locks the folder of its log. An empty one is where a disk is not mounted.
        has_begun = (data_dir / INCARNATION).exists() and not (link / LOCK).exists()
        has_more = any((data_dir / "snap").glob("*.snap"))
        if not link.is_dir() or (not segments(link) and (has_begun or has_more)):
            raise ValueError(f"the log of {data_dir} is in {there}, which holds none: is its disk mounted?")
        if wal_dir is not None and wal_dir.resolve() != link.resolve():
            raise ValueError(
                f"the log of {data_dir} is in {there}, and --wal-dir is {wal_dir}: to move it, move its files, "
                f"and remove the link {link}"
            )
        _sync(link.resolve().parent)
        return
    if wal_dir is None or wal_dir.absolute() == link.absolute():
        return
    if segments(link):
        raise ValueError(f"the log is in {link}: move its files to --wal-dir {wal_dir}, and remove {link}")
    if data_dir.resolve() in wal_dir.resolve().parents and not wal_dir.is_mount():
        raise ValueError(f"--wal-dir {wal_dir} is inside of {data_dir}: without it the log is there, too")
    place = wal_dir.absolute()
    made = [folder for folder in place.parents if not folder.exists()]
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (place, *made):
        _sync(folder.parent)
    for leftover in link.glob(f"*{UNUSED}"):
        leftover.unlink()
    if link.exists():
        link.rmdir()
    temporary = data_dir / "wal.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(place)
    temporary.rename(link)
    sync_folder(data_dir)


def _sync(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # one that this user may not read was there before
        sync_folder(folder)

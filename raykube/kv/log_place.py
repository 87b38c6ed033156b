"""Where a member's log is: in its data directory, or on a disk of its own, to which a link `wal` leads from there.

A link, so that the data directory says it: a start that forgets `--wal-dir` must not take the member for a new one.
"""

import os
from pathlib import Path

from raykube.kv.wal import segments, sync_folder


def settle(data_dir: Path, wal_dir: Path | None) -> None:
    """Has `data_dir`'s log in `wal_dir`, if that is given. Raises ValueError where it is elsewhere, and OSError."""
    link = data_dir / "wal"
    if link.is_symlink():
        there = Path(os.readlink(link))
        if not link.is_dir():
            raise ValueError(f"the log of {data_dir} is in {there}, which is not there: is its disk mounted?")
        if wal_dir is not None and wal_dir.resolve() != link.resolve():
            raise ValueError(
                f"the log of {data_dir} is in {there}, and --wal-dir is {wal_dir}: to move it, move its files, "
                f"and remove the link {link}"
            )
        sync_folder(there.parent)
        return
    if wal_dir is None:
        return
    if segments(link):
        raise ValueError(f"the log is in {link}: move its files to --wal-dir {wal_dir}, and remove {link}")
    place = wal_dir.absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(place.parent)
    if link.exists():
        link.rmdir()
    temporary = data_dir / "wal.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(place)
    temporary.rename(link)
    sync_folder(data_dir)

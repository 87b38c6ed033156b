"""The data of a member that lived on this machine before: it is moved out of the way of a new one, which begins with
nothing, and not all that was ever moved is kept.

    kv/                         the member's
    kv.<its id>.<when>/         a former one's; on a disk of its own, it lies inside kv/

A store whose machines come and go would fill their disks else, and a learner that fails where it has no room takes up
more with each attempt. What was moved last is kept, in case it is needed after all, the last that has a snapshot, and
of those that have none, as in a young store, the one with the longest log: a learner that got little of the store does
not push out what its predecessor had of it.
"""

import logging
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from raykube.kv import joins
from raykube.kv.wal import owner, segments

log = logging.getLogger(__name__)

PARTS = ("snap", joins.INCARNATION, "wal")  # the log says whose they are: it goes last


def set_aside(folder: Path, member: int) -> None:
    """Moves away what `folder` has of another member than `member`, and removes what is superfluous. Raises OSError."""
    found = owner(folder / "wal")
    if found is not None and found.member_id == member:
        return
    if found is None and not any(folder.glob("wal/*")) and not any(folder.glob("snap/*")):
        return
    whose = f"{found.member_id:x}" if found is not None else "unreadable"
    name = f"{folder.name}.{whose}.{time.time():.0f}"
    if folder.is_mount() or folder.is_symlink():
        # A disk of its own is where members of this machine are to be: it cannot, or must not, move away.
        aside = folder / name
        aside.mkdir(mode=0o700, exist_ok=True)
        for part in PARTS:
            if (folder / part).exists():
                (folder / part).rename(aside / part)
    else:
        aside = folder.rename(folder.with_name(name))
    log.info(
        "the data of the former member (%s) is set aside in %s, which nobody reads:"
        " it may be removed by hand once the store is healthy",
        whose,
        aside,
    )
    for old in superfluous(aside, kept(folder)):
        log.info("what was set aside before is removed: %s", old)
        try:
            shutil.rmtree(old)
        except OSError as error:  # no reason not to begin
            log.warning("%s cannot be removed: %s", old, error)


def kept(folder: Path) -> list[Path]:
    """What was set aside of `folder`, in any order."""
    pattern = re.compile(rf"{re.escape(folder.name)}\.([0-9a-f]{{1,16}}|unreadable)\.[0-9]{{10,}}")
    places = [*folder.parent.iterdir(), *(folder.iterdir() if folder.exists() else ())]
    return [each for each in places if pattern.fullmatch(each.name) and each.is_dir() and not each.is_symlink()]


def superfluous(newest: Path, there: Iterable[Path]) -> list[Path]:
    """Those of `there` that need not be kept beside `newest`: the ones that have a snapshot as it has, or have none and
    no longer log than another."""
    alike = [each for each in there if each != newest and has_snapshot(each) == has_snapshot(newest)]
    if has_snapshot(newest):
        return sorted(alike)
    longest = max([newest, *alike], key=log_bytes)
    return sorted(each for each in alike if each != longest)


def has_snapshot(folder: Path) -> bool:
    """Whether a member's folder has a snapshot, whole or damaged."""
    return any(path.suffix != ".tmp" for path in folder.glob("snap/*"))


def log_bytes(folder: Path) -> int:
    """How much is written in a member's log; what is only allocated does not count."""
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in segments(folder / "wal"))

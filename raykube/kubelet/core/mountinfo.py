"""/proc/self/mountinfo as values: what is mounted where in this mount namespace.

36 35 98:0 /root /mount\\040point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
id parent device root point options  tags…           - kind source super-options
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    id: int
    device: str
    root: str  # which directory of the file system
    point: str
    options: tuple[str, ...]
    shared: bool
    kind: str
    source: str


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), text)


def parse(text: str) -> list[Mount]:
    """All mounts, in the order of the kernel: a mount comes after the one that it lies on."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        mounts.append(
            Mount(
                id=int(fields[0]),
                device=fields[2],
                root=_plain(fields[3]),
                point=_plain(fields[4]),
                options=tuple(fields[5].split(",")),
                shared=any(tag.startswith("shared:") for tag in fields[6:]),
                kind=rest[0],
                source=_plain(rest[1]) if len(rest) > 1 else "",
            )
        )
    return mounts


def below(mounts: Iterable[Mount], directory: str) -> list[str]:
    """The mount points at and below `directory` in the order in which they can be taken off; one per mount."""
    prefix = directory.rstrip("/") + "/"
    found = [mount.point for mount in mounts if mount.point == directory or mount.point.startswith(prefix)]
    return found[::-1]


def holder(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that `path` is on: the longest point above it, the last of several at one place."""
    best: Mount | None = None
    for mount in mounts:
        covers = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if covers and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best

"""Which files of a container's log go, and which are packed, when its log is rotated.

0.log                       written to
0.log.20260102-030405       the last rotated one, plain, for who follows it
0.log.20260102-010203.gz    older ones
"""

from collections.abc import Iterable

PACKED = ".gz"
UNFINISHED = ".tmp"


def rotation(rotated: Iterable[str], files_max: int) -> tuple[list[str], list[str]]:
    """(to remove, to pack) before the log itself is rotated, so that `files_max` files are left with the new one."""
    found = sorted(rotated)
    removals = [name for name in found if name.endswith(UNFINISHED)]
    whole = [name for name in found if not name.endswith(UNFINISHED)]
    # A crash after packing leaves both forms: the packed one is complete.
    twice = [name for name in whole if name + PACKED in whole]
    whole = [name for name in whole if name not in twice]
    surplus = max(len(whole) - max(files_max - 2, 0), 0)
    return removals + twice + whole[:surplus], [name for name in whole[surplus:] if not name.endswith(PACKED)]


def rotations(rotated: Iterable[str]) -> list[str]:
    """The names that the log has been given, the oldest first, whether what was in it is packed by now or not."""
    return sorted({name.removesuffix(PACKED) for name in rotated if not name.endswith(UNFINISHED)})

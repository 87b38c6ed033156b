"""Checksums by which members prove that they hold the same state, and one member that it still holds what it wrote.

A store's `written` is the sum of the checksums of every version it ever wrote, `released` of those that compaction gave
back. `written` is the same on all members; the versions in memory must add up to `written - released`, on each alone.
A sum, because a write then costs the same in a large store as in a small one; revision and place are in every
checksum, so order counts all the same.
"""

import struct

from isal.isal_zlib import crc32

from raykube.kv.core.mvcc.version import Version

SUM_MASK = (1 << 64) - 1  # of a sum on disk and in comparisons
_NUMBERS = struct.Struct("<QIQQq?").pack


def checksum(version: Version) -> int:
    """32 bits that stand for all of `version`."""
    key, mod, sub, create, number, value, lease = version
    if value is None:
        return crc32(_NUMBERS(mod, sub, create, number, lease, True) + key)
    return crc32(value, crc32(_NUMBERS(mod, sub, create, number, lease, False) + key))


def lease_checksum(lease: int, ttl_s: int) -> int:
    """32 bits that stand for a lease."""
    return crc32(b"%d %d" % (lease, ttl_s))

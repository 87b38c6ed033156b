"""What `etcdctl snapshot save` writes: a snapshot file in the wrapping that etcd's clients expect.

    backup = snapshot file | zeros | length of the snapshot file u64 | sha256 of all before

Without the sum its size is a multiple of 512, by which clients tell that the sum came. Inside is our own format, not
etcd's database: `raykube kv snapshot restore` reads it, etcd's tools cannot.
"""

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256

_LENGTH = struct.Struct("<Q")
PAGE_BYTES = 512
SUM_BYTES = sha256().digest_size


def wrapped_size(snapshot_bytes: int) -> int:
    """Bytes of a backup without its sum."""
    return -(-(snapshot_bytes + _LENGTH.size) // PAGE_BYTES) * PAGE_BYTES


def wrap(pieces: Iterable[bytes], snapshot_bytes: int) -> Iterator[bytes]:
    """The backup of a snapshot file of that many bytes; the last piece is the sum, alone."""
    digest = sha256()
    sent = 0
    for piece in pieces:
        digest.update(piece)
        sent += len(piece)
        yield piece
    if sent != snapshot_bytes:
        raise AssertionError(f"a snapshot of {sent} bytes, announced as {snapshot_bytes}")
    end = bytes(wrapped_size(sent) - sent - _LENGTH.size) + _LENGTH.pack(sent)
    digest.update(end)
    yield end
    yield digest.digest()


def has_sum(size: int) -> bool:
    """Whether a file of that size ends with a sum."""
    return size % PAGE_BYTES == SUM_BYTES


def snapshot_size(end: bytes, wrapped_bytes: int) -> int:
    """The length of the snapshot file in a backup of `wrapped_bytes` (without its sum) whose last bytes are `end`.

    Raises ValueError on an impossible one.
    """
    (length,) = _LENGTH.unpack(end[-_LENGTH.size :])
    if not length or wrapped_size(length) != wrapped_bytes:
        raise ValueError("the file is cut or damaged")
    return int(length)


LENGTH_BYTES = _LENGTH.size

"""A snapshot file: `magic | head length u32 | head crc u32 | head | body… | length u64 | crc u32`.

The head says what the body stands for; the trailer (length and crc of the body) proves that the body is whole.
"""

import struct
from collections.abc import Iterable, Iterator
from zlib import crc32

from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot

_MAGIC = b"raykube1"
_LENGTHS = struct.Struct("<II")
_FIELDS = struct.Struct("<QQQ")
_TRAILER = struct.Struct("<QI")


def encode(snapshot: Snapshot, cluster_id: int, body: Iterable[bytes]) -> Iterator[bytes]:
    """The file, in pieces."""
    head = _FIELDS.pack(cluster_id, snapshot.index, snapshot.term) + snapshot.membership.encode()
    yield _MAGIC + _LENGTHS.pack(len(head), crc32(head)) + head
    size = crc = 0
    for piece in body:
        size += len(piece)
        crc = crc32(piece, crc)
        yield piece
    yield _TRAILER.pack(size, crc)


def decode(data: bytes) -> tuple[int, Snapshot]:
    """The cluster id and the snapshot with its data. Raises ValueError unless every byte is as it was written."""
    start = len(_MAGIC) + _LENGTHS.size
    if len(data) < start + _TRAILER.size or not data.startswith(_MAGIC):
        raise ValueError("not a snapshot, or cut")
    head_length, head_crc = _LENGTHS.unpack_from(data, len(_MAGIC))
    head = data[start : start + head_length]
    if len(head) < max(head_length, _FIELDS.size) or crc32(head) != head_crc:
        raise ValueError("the snapshot's head is damaged")
    body = data[start + head_length : -_TRAILER.size]
    if _TRAILER.unpack_from(data, len(data) - _TRAILER.size) != (len(body), crc32(body)):
        raise ValueError("the snapshot's body is damaged or cut")
    cluster_id, index, term = _FIELDS.unpack_from(head)
    return cluster_id, Snapshot(index, term, Membership.decode(head[_FIELDS.size :]), body)

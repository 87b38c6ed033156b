"""A snapshot file: `magic | head length u32 | head crc u32 | head | body… | length u64 | crc u32`.

The head says what the body stands for; the trailer (length and crc of the body) proves that the body is whole.
"""

import struct
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError
from isal.isal_zlib import crc32

from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot

_MAGIC = b"raykube1"
_LENGTHS = struct.Struct("<II")
_FIELDS = struct.Struct("<QQQ")
_TRAILER = struct.Struct("<QI")
_START = len(_MAGIC) + _LENGTHS.size
HEAD_BYTES_MAX = 1 << 20  # far above any membership: a damaged length must not make us wait for gigabytes
FRAMING_BYTES = _START + _FIELDS.size + _TRAILER.size  # beside the membership and the body


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


class Decoder:
    """Takes a file in pieces of any size and gives its body in pieces: nothing is held but the last few bytes.

    What `feed` gave counts only once `finish` has not raised: the proof stands at the end.
    """

    def __init__(self) -> None:
        self.cluster_id = 0
        self.snapshot: Snapshot | None = None  # without data; None until the head has come
        self._rest = b""
        self._size = 0
        self._crc = 0

    def feed(self, piece: bytes) -> bytes:
        """The body's next bytes, perhaps none yet. Raises ValueError when this is no snapshot."""
        data = self._rest + piece if self._rest else piece
        if self.snapshot is None:
            data = self._take_head(data)
            if self.snapshot is None:
                self._rest = data
                return b""
        # What may be the trailer is held back.
        cut = max(0, len(data) - _TRAILER.size)
        body, self._rest = data[:cut], data[cut:]
        self._size += len(body)
        self._crc = crc32(body, self._crc)
        return body

    def _take_head(self, data: bytes) -> bytes:
        if len(data) < _START:
            return data
        if not data.startswith(_MAGIC):
            raise ValueError("not a snapshot of a raykube store")
        length, crc = _LENGTHS.unpack_from(data, len(_MAGIC))
        if not _FIELDS.size <= length <= HEAD_BYTES_MAX:
            raise ValueError("the snapshot's head is damaged")
        if len(data) < _START + length:
            return data
        head = data[_START : _START + length]
        if crc32(head) != crc:
            raise ValueError("the snapshot's head is damaged")
        self.cluster_id, index, term = _FIELDS.unpack_from(head)
        try:
            membership = Membership.decode(head[_FIELDS.size :])
        except DecodeError:
            raise ValueError("the snapshot's head is damaged") from None
        self.snapshot = Snapshot(index, term, membership)
        return data[_START + length :]

    def finish(self) -> Snapshot:
        """The snapshot, without data. Raises ValueError unless every byte came as it was written."""
        if self.snapshot is None:
            raise ValueError("not a snapshot, or cut")
        if len(self._rest) != _TRAILER.size or _TRAILER.unpack(self._rest) != (self._size, self._crc):
            raise ValueError("the snapshot's body is damaged or cut")
        return self.snapshot


def decode(data: bytes) -> tuple[int, Snapshot]:
    """The cluster id and the snapshot with its data. Raises ValueError unless every byte is as it was written."""
    decoder = Decoder()
    body = decoder.feed(data)
    found = decoder.finish()
    return decoder.cluster_id, Snapshot(found.index, found.term, found.membership, body)

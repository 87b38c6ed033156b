"""The store as bytes, for snapshots: `StoreHead` (length first), then a record per version: those before the
compaction, one of each key, in no order; then the others in order of revision.

    u32 head length | head | { mod u64, sub u32, create u64, number u64, lease i64, key u32, value u32 | key | value }*

A value length of 2^32-1 is a tombstone. Leases' keys are not written: the newest versions name their lease.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import chain

from google.protobuf.message import DecodeError

from raykube.kv.core.mvcc.digest import SUM_MASK
from raykube.kv.core.mvcc.picture import Picture
from raykube.kv.core.mvcc.store import VERSION_OVERHEAD_BYTES, Lease, Store
from raykube.kv.core.mvcc.version import Version
from raykube.pb import raft_pb2

_HEAD = struct.Struct("<I")
_RECORD = struct.Struct("<QIQQqII")
_TOMBSTONE = 0xFFFFFFFF
CHUNK_BYTES = 1 << 20


class Image:
    """A picture of a store as bytes; to encode it may take its time, and run in a thread."""

    def __init__(self, head: raft_pb2.StoreHead, leases: list[Lease], picture: Picture) -> None:
        self._head = head
        self._leases = leases
        self._picture = picture

    def forget(self) -> None:
        """Nobody wants it any more. Idempotent."""
        self._picture.forget()

    def _encoded_head(self) -> bytes:
        head = self._head
        head.held = self._picture.held
        if not head.leases:
            found = sorted((lease.id, lease.ttl_s) for lease in self._leases)
            head.leases.extend(raft_pb2.LeaseRecord(id=number, ttl=ttl_s) for number, ttl_s in found)
        return head.SerializeToString(deterministic=True)

    @property
    def size(self) -> int:
        """Bytes that `chunks` gives in all."""
        base, recent = self._picture.base, self._picture.recent
        framed = _HEAD.size + len(self._encoded_head()) + _RECORD.size * (len(base) + len(recent))
        return framed + sum(len(version.key) + len(version.value or b"") for version in chain(base, recent))

    def chunks(self) -> Iterator[bytes]:
        """The encoded store in pieces of about a megabyte."""
        head = self._encoded_head()
        parts: list[bytes] = [_HEAD.pack(len(head)), head]
        size = 0
        # As they are: in whatever thread, Python stands still while it sorts a million of them.
        for key, mod, sub, create, number, value, lease in chain(self._picture.base, self._picture.recent):
            length = _TOMBSTONE if value is None else len(value)
            parts.append(_RECORD.pack(mod, sub, create, number, lease, len(key), length))
            parts.append(key)
            if value:
                parts.append(value)
                size += length
            size += len(key) + _RECORD.size
            if size >= CHUNK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        yield b"".join(parts)


def capture(store: Store, rest: raft_pb2.StoreHead | None = None) -> Image:
    """A picture of `store` now; `rest` is what the head says beside it."""
    head = raft_pb2.StoreHead(
        revision=store.revision,
        compact_revision=store.compact_revision,
        written=store.written & SUM_MASK,
        leases_sum=store.leases_sum,
    )
    if rest is not None:
        head.MergeFrom(rest)
    # A lease says the same as long as it is: records of a hundred thousand are made by whoever encodes the picture.
    return Image(head, list(store.leases.values()), store.capture())


class Restorer:
    """Makes a store out of an image that comes in pieces of any size; holds no more of them than one version."""

    def __init__(self) -> None:
        self._store = Store()
        self._head: raft_pb2.StoreHead | None = None  # None until it has come
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Takes the next bytes. Raises ValueError on a head that is none."""
        data = self._rest + piece if self._rest else piece
        offset = 0
        if self._head is None:
            if len(data) < _HEAD.size or len(data) < _HEAD.size + _HEAD.unpack_from(data, 0)[0]:
                self._rest = data
                return
            offset = _HEAD.size + _HEAD.unpack_from(data, 0)[0]
            self._take_head(data[_HEAD.size : offset])
        self._rest = data[self._take_versions(data, offset) :]

    def _take_head(self, data: bytes) -> None:
        try:
            head = raft_pb2.StoreHead.FromString(data)
        except DecodeError as error:
            raise ValueError(f"the snapshot's body is damaged: {error}") from None
        self._head = head
        store = self._store
        store.revision, store.compact_revision = head.revision, head.compact_revision
        store.events_from = head.compact_revision
        # What is there must add up to `held`: the first scrub will see.
        store.written, store.released, store.leases_sum = head.written, head.written - head.held, head.leases_sum
        store.leases = {lease.id: Lease(lease.id, lease.ttl) for lease in head.leases}

    def _take_versions(self, data: bytes, offset: int) -> int:
        """Takes the whole records of `data` from `offset` on; returns where they end."""
        store = self._store
        histories, horizon = store.index.histories, store.compact_revision
        unpack, size, end, new = _RECORD.unpack_from, _RECORD.size, len(data), tuple.__new__
        note = store.events.append
        stored = 0
        while offset + size <= end:
            mod, sub, create, number, lease, key_length, value_length = unpack(data, offset)
            start = offset + size
            middle = start + key_length
            stop = middle if value_length == _TOMBSTONE else middle + value_length
            if stop > end:
                break
            key = data[start:middle]
            history = histories.get(key)
            if history is not None:
                key = history[0].key  # one copy of the key for all its versions
            value = None if value_length == _TOMBSTONE else data[middle:stop]
            # Not Version(…), whose call takes as long as all the rest of this.
            version = new(Version, (key, mod, sub, create, number, value, lease))
            if history is None:
                histories[key] = [version]
            else:
                history.append(version)
            if mod >= horizon:
                note(version)
            stored += stop - start + VERSION_OVERHEAD_BYTES
            offset = stop
        store.bytes_stored += stored
        return offset

    def finish(self) -> tuple[Store, raft_pb2.StoreHead]:
        """The store, and the head for what is not in it. Raises ValueError when the image is not at its end."""
        store = self._store
        if self._head is None or self._rest:
            raise ValueError("the snapshot's body is cut")
        store.index.put_in_order()
        for key, history in store.index.histories.items():
            newest = history[-1]
            if newest.value is None:
                store.index.dead.add(key)
            elif newest.lease in store.leases:
                store.leases[newest.lease].keys.add(key)
        return store, self._head


Restored = tuple[Store, raft_pb2.StoreHead]


def restore(data: bytes | Iterable[bytes]) -> Restored:
    """The store that `Image.chunks` encoded, whole or in pieces. Raises ValueError on bytes that are none."""
    restorer = Restorer()
    for piece in (data,) if isinstance(data, bytes) else data:
        restorer.feed(piece)
    return restorer.finish()

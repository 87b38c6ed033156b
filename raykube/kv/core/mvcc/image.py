"""The store as bytes, for snapshots: `StoreHead` (length first), then a record per version in order of revision.

    u32 head length | head | { mod u64, sub u32, create u64, number u64, lease i64, key u32, value u32 | key | value }*

A value length of 2^32-1 is a tombstone. Leases' keys are not written: the newest versions name their lease.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from raykube.kv.core.mvcc.store import VERSION_OVERHEAD_BYTES, Lease, Store
from raykube.kv.core.mvcc.version import Version
from raykube.pb import raft_pb2

_HEAD = struct.Struct("<I")
_RECORD = struct.Struct("<QIQQqII")
_TOMBSTONE = 0xFFFFFFFF
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A consistent picture of a store, taken in one go; encoding it may take its time, and run in a thread."""

    head: bytes
    base: list[Version]  # in no order yet
    recent: list[Version]

    def chunks(self) -> Iterator[bytes]:
        """The encoded store in pieces of about a megabyte."""
        parts: list[bytes] = [_HEAD.pack(len(self.head)), self.head]
        size = 0
        for key, mod, sub, create, number, value, lease in chain(
            sorted(self.base, key=attrgetter("mod", "sub")), self.recent
        ):
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


def capture(store: Store, attributes: list[raft_pb2.Attributes]) -> Image:
    """A picture of `store` now, with the members' attributes."""
    head = raft_pb2.StoreHead(
        revision=store.revision,
        compact_revision=store.compact_revision,
        leases=[raft_pb2.LeaseRecord(id=lease.id, ttl=lease.ttl_s) for _, lease in sorted(store.leases.items())],
        attributes=attributes,
    )
    return Image(head.SerializeToString(deterministic=True), *store.capture())


def restore(data: bytes) -> tuple[Store, list[raft_pb2.Attributes]]:
    """The store that `Image.chunks` encoded. Raises ValueError on bytes that are none."""
    try:
        return _restore(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the snapshot's body is cut or damaged: {error}") from None


def _restore(data: bytes) -> tuple[Store, list[raft_pb2.Attributes]]:
    (length,) = _HEAD.unpack_from(data, 0)
    offset = _HEAD.size + length
    head = raft_pb2.StoreHead.FromString(data[_HEAD.size : offset])
    store = Store()
    store.revision, store.compact_revision = head.revision, head.compact_revision
    store.leases = {lease.id: Lease(lease.id, lease.ttl) for lease in head.leases}
    histories = store.index.histories
    unpack, size, end = _RECORD.unpack_from, _RECORD.size, len(data)
    while offset < end:
        mod, sub, create, number, lease, key_length, value_length = unpack(data, offset)
        offset += size
        key = data[offset : offset + key_length]
        offset += key_length
        if value_length == _TOMBSTONE:
            value = None
        else:
            value = data[offset : offset + value_length]
            offset += value_length
        if offset > end:
            raise ValueError("the snapshot's body is cut")
        version = Version(key, mod, sub, create, number, value, lease)
        history = histories.get(key)
        if history is None:
            store.index.add(key, version)
        else:
            history.append(version)
        if mod >= store.compact_revision:
            store.events.append(version)
        store.bytes_stored += key_length + len(value or b"") + VERSION_OVERHEAD_BYTES
    for key, history in histories.items():
        newest = history[-1]
        if newest.value is None:
            store.index.dead.add(key)
        elif newest.lease in store.leases:
            store.leases[newest.lease].keys.add(key)
    return store, list(head.attributes)

"""One state of one key, and its form on etcd's wire."""

from typing import NamedTuple

from raykube.pb import mvcc_pb2


class Version(NamedTuple):
    """What one write made of a key. Immutable, shared by the key's history, the event log and snapshots."""

    key: bytes
    mod: int  # main revision of this write
    sub: int  # number of the operation in its transaction
    create: int  # main revision of the write that brought the key to life; 0 in a tombstone
    number: int  # writes since then, this one counted: etcd's `version`; 0 in a tombstone
    value: bytes | None  # None: a tombstone
    lease: int  # 0: none


def to_kv(version: Version, keys_only: bool = False) -> mvcc_pb2.KeyValue:
    """The version as etcd's KeyValue (a tombstone has key and mod revision only)."""
    return mvcc_pb2.KeyValue(
        key=version.key,
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.number,
        value=b"" if keys_only else version.value or b"",
        lease=version.lease,
    )

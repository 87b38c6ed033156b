"""What a log entry says, and what it does: the replicated state machine around the store.

An entry's data is one command behind the other, each `request id u64 | command u8 | length u32 | body`: the id lets the
member that proposed it find the caller who waits, the body is the protobuf message of the command. All that was
proposed while the member was busy rides in one entry. Empty data is a leader's first entry and does nothing.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import blake2b
from typing import Any

from raykube.base.encoded import tag, varint
from raykube.kv.core.mvcc import errors, image, txn
from raykube.kv.core.mvcc.digest import SUM_MASK
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.store import Outcome, Store
from raykube.kv.core.mvcc.vouching import Vouching
from raykube.pb import batch_pb2, etcd_pb2, raft_pb2

_HEAD = struct.Struct("<QBI")
_SUMS = struct.Struct("<QQQQ")


class Command(IntEnum):
    """What an entry asks for. The numbers are on disk: never reuse one."""

    BATCH = 1
    PUT = 2
    DELETE_RANGE = 3
    TXN = 4
    COMPACT = 5
    LEASE_GRANT = 6
    LEASE_REVOKE = 7
    ATTRIBUTES = 8
    CHECK = 9
    VOUCH = 10
    JOINED_BATCH = 11


LEVEL = max(Command)  # what this program can apply; the newest commands are proposed once all members can
_PUT = int(Command.PUT)  # to reach and compare an enumeration's members is slow
# A result that says `applied` and a revision: 08 01 10 <varint>, whose first byte is the revision's place in a block.
_RESULTS = tag(batch_pb2.BatchResponse.DESCRIPTOR, "results")
_APPLIED_AT = b"\x08\x01\x10"
_BLOCK = 0x80
_LOW = [bytes((number | 0x80,)) for number in range(_BLOCK)]
_put_request = etcd_pb2.PutRequest.FromString


class UnknownCommand(ValueError):
    """The log holds what this program cannot carry out."""


def encode(request_id: int, command: Command, body: bytes) -> bytes:
    """One command in the data of a log entry."""
    return _HEAD.pack(request_id, command, len(body)) + body


def commands(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(request id, command, body) of each command in an entry's data. Raises ValueError when they do not fill it."""
    offset, size = 0, len(data)
    while offset < size:
        if offset + _HEAD.size > size:
            raise ValueError("a log entry ends within a command's head")
        request, command, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        end = offset + length
        if end > size:
            raise ValueError("a command reaches beyond its log entry")
        yield request, command, data[offset:end]
        offset = end


def batch_answer(outcomes: list[Outcome], revision: int) -> bytes:
    """The batch service's answer to outcomes of `Store.apply_writes` and `apply_joined`, a `BatchResponse` but its id.

    By hand, as nearly all results are the same eight bytes, and to make the messages took as long as to apply the
    writes.
    """
    parts = [batch_pb2.BatchResponse(revision=revision).SerializeToString()]
    block, head, tail = -1, b"", b""
    for applied, mod, current in outcomes:
        if not applied:
            result = batch_pb2.WriteResult()
            if current is not None:
                kv = result.current
                kv.key, kv.create_revision, kv.mod_revision = current.key, current.create, current.mod
                kv.version, kv.value, kv.lease = current.number, current.value or b"", current.lease
            refused = result.SerializeToString()
            parts += (_RESULTS, varint(len(refused)), refused)
        elif mod < _BLOCK:
            parts.append(b"%b\x04%b%c" % (_RESULTS, _APPLIED_AT, mod))
        else:
            if mod // _BLOCK != block:
                block = mod // _BLOCK
                tail = varint(block)
                head = b"%b%c%b" % (_RESULTS, len(_APPLIED_AT) + 1 + len(tail), _APPLIED_AT)
            parts += (head, _LOW[mod % _BLOCK], tail)
    return b"".join(parts)


class Machine:
    """The store, the members' attributes, and who vouched for which state, changed by `apply` alone."""

    def __init__(self) -> None:
        self.store = Store()
        self.attributes: dict[int, raft_pb2.Attributes] = {}
        self.vouching = Vouching()

    def apply(self, command: int, body: bytes, answer: bool, index: int = 0) -> Any:
        """Carries out a command of the entry at `index`.

        Returns the response, or the StoreError that it met, when `answer`; a CHECK's is the digest of the state there,
        a PUT's what `txn.put` returns, and a batch's the bytes of `batch_answer`.
        """
        try:
            return self._apply(command, body, answer, index)
        except StoreError as error:
            return error

    def _apply(self, command: int, body: bytes, answer: bool, index: int) -> Any:
        store = self.store
        if command == _PUT:
            return txn.put(store, _put_request(body))
        match command:
            case Command.BATCH:
                outcomes = store.apply_writes(batch_pb2.BatchRequest.FromString(body).writes, answer)
                return batch_answer(outcomes, store.revision) if answer else None
            case Command.JOINED_BATCH:
                outcomes = store.apply_joined(batch_pb2.BatchRequest.FromString(body).writes)
                return batch_answer(outcomes, store.revision) if answer else None
            case Command.DELETE_RANGE:
                return txn.delete_range(store, etcd_pb2.DeleteRangeRequest.FromString(body))
            case Command.TXN:
                return txn.transact(store, etcd_pb2.TxnRequest.FromString(body))
            case Command.COMPACT:
                store.compact(etcd_pb2.CompactionRequest.FromString(body).revision)
                return etcd_pb2.CompactionResponse(header=txn.header(store))
            case Command.LEASE_GRANT:
                grant = etcd_pb2.LeaseGrantRequest.FromString(body)
                store.grant(grant.ID, grant.TTL)
                return etcd_pb2.LeaseGrantResponse(header=txn.header(store), ID=grant.ID, TTL=grant.TTL)
            case Command.LEASE_REVOKE:
                store.revoke(etcd_pb2.LeaseRevokeRequest.FromString(body).ID)
                return etcd_pb2.LeaseRevokeResponse(header=txn.header(store))
            case Command.ATTRIBUTES:
                attributes = raft_pb2.Attributes.FromString(body)
                known = self.attributes.get(attributes.member_id)
                # The first data directory that a member began with is the member: see joins.py.
                if known is None or known.incarnation in (0, attributes.incarnation):
                    self.attributes[attributes.member_id] = attributes
                return self.attributes[attributes.member_id]
            case Command.CHECK:
                check = raft_pb2.Check.FromString(body)
                digest = self.digest()
                self.vouching.on_check(index, check.voters, check.learners)
                return digest
            case Command.VOUCH:
                vouch = raft_pb2.Vouch.FromString(body)
                return self.vouching.on_vouch(vouch.member, vouch.index, vouch.digest)
        # A newer member wrote it: going on would make this member differ from the others.
        raise UnknownCommand(f"entry {index} of the log has command {command}: this program is older than the log")

    def is_known(self, command: Command, members: Iterable[int]) -> bool:
        """Whether all of `members` say that they can apply `command`: one that cannot would have to stop at it."""
        attributes = self.attributes
        return all(member in attributes and attributes[member].level >= command for member in members)

    def digest(self) -> int:
        """64 bits that stand for all this machine holds and all it ever wrote: the same on all members at one entry."""
        store = self.store
        numbers = _SUMS.pack(store.revision, store.compact_revision, store.written & SUM_MASK, store.leases_sum)
        rest = self._head().SerializeToString(deterministic=True)
        return int.from_bytes(blake2b(numbers + rest, digest_size=8).digest(), "little")

    def _head(self) -> raft_pb2.StoreHead:
        """What is not in the store."""
        return raft_pb2.StoreHead(
            attributes=[self.attributes[member] for member in sorted(self.attributes)], vouching=self.vouching.encode()
        )

    def capture(self) -> image.Image:
        """A picture of all this machine holds."""
        return image.capture(self.store, self._head())

    def restore(self, data: bytes | Iterable[bytes]) -> None:
        """Becomes what the picture shows, whole or in pieces. Raises ValueError, and is as it was then."""
        self.adopt(image.restore(data))

    def adopt(self, restored: image.Restored) -> None:
        """Becomes what was read of a picture."""
        self.store, head = restored
        self.attributes = {record.member_id: record for record in head.attributes}
        self.vouching = Vouching.decode(head.vouching)


__all__ = ["LEVEL", "Command", "Machine", "batch_answer", "commands", "encode", "errors"]

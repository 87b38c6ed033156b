"""Random requests in etcd's messages: valid ones, and those that a server must refuse.

Few keys and few leases, so that requests meet each other's traces; now and then what no sane client sends.

Not drawn, as the answer of the real one is an accident:
- a sort target that does not exist ends the process of etcd 3.5.1; ours refuses it as later ones do
- a revision below 0 is the present in a range, and in a transaction "compacted", but -1 only after the first compaction
- a first compaction at 0 does nothing and is answered with success, each later one is "compacted"
- a put with `ignore_value` of what the same transaction deleted "up to the last key" ends etcd
- how two equal values are sorted among more than 6 keys
"""

from random import Random
from typing import NamedTuple

from google.protobuf.message import Message

from raykube.pb import etcd_pb2

KEYS = (b"a", b"b", b"c", b"ca", b"cb", b"d")
ENDS = (b"", b"", b"\0", b"b", b"c", b"cb", b"d", b"f", b"a")
VALUES = (b"", b"1", b"2", b"3", b"\xff\0")
LEASES = (11, 12, 13)
LONG_S = 10_000  # no lease of a comparison expires by itself


class Request(NamedTuple):
    """A unary call."""

    service: str
    method: str
    message: Message


class Requests:
    """Draws requests; `revision` is about where the store is, so that revisions are drawn around it."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._is_wide = False  # whether deletions go "up to the last key", and puts ignore nothing
        self.revision = 1
        self._weighted = (
            (8, self._put_call), (8, self._range_call), (4, self._delete_call), (10, self._txn_call),
            (1, self._compact_call), (2, self._grant_call), (1, self._revoke_call), (1, self._ask_call),
        )  # fmt: skip

    def draw(self) -> Request:
        self._is_wide = self._one_in(4)
        weights = [weight for weight, _ in self._weighted]
        (make,) = self._random.choices([make for _, make in self._weighted], weights)
        return make()

    # ---- parts

    def _one_in(self, number: int) -> bool:
        return self._random.randrange(number) == 0

    def _key(self) -> bytes:
        return b"" if self._one_in(60) else self._random.choice(KEYS)

    def _near_revision(self) -> int:
        if self._one_in(40):
            return self._random.choice((-1, 1, self.revision + 100, 1 << 62))
        return max(1, self.revision - self._random.randrange(25) + self._random.randrange(3))

    def _maybe_revision(self, one_in: int) -> int:
        return self._near_revision() if self._one_in(one_in) else 0

    def _lease(self) -> int:
        return self._random.choice((0, 0, 0, 0, *LEASES, 99 if self._one_in(3) else 0))

    # ---- messages

    def range(self, in_txn: bool = False) -> etcd_pb2.RangeRequest:
        draw = self._random
        revision = self._maybe_revision(3)
        return etcd_pb2.RangeRequest(
            key=draw.choice((self._key(), b"\0")),
            range_end=draw.choice(ENDS),
            limit=draw.choice((0, 0, 0, 1, 2, 3, 100, -1)),
            revision=max(0, revision) if in_txn else revision,
            sort_order=draw.choice((0, 0, 1, 2)),
            sort_target=draw.choice((0, 0, 1, 2, 3, 4)),
            serializable=self._one_in(4),
            keys_only=self._one_in(5),
            count_only=self._one_in(6),
            min_mod_revision=self._maybe_revision(8),
            max_mod_revision=self._maybe_revision(8),
            min_create_revision=self._maybe_revision(8),
            max_create_revision=self._maybe_revision(8),
        )

    def put(self) -> etcd_pb2.PutRequest:
        draw = self._random
        may_ignore = not self._is_wide
        ignores_value, ignores_lease = may_ignore and self._one_in(12), may_ignore and self._one_in(12)
        return etcd_pb2.PutRequest(
            key=self._key(),
            value=b"" if ignores_value and not self._one_in(4) else draw.choice(VALUES),
            lease=0 if ignores_lease and not self._one_in(4) else self._lease(),
            prev_kv=self._one_in(3),
            ignore_value=ignores_value,
            ignore_lease=ignores_lease,
        )

    def delete(self) -> etcd_pb2.DeleteRangeRequest:
        draw = self._random
        end = b"" if self._one_in(2) else draw.choice(ENDS)
        if end == b"\0" and not self._is_wide:
            end = b"z"
        return etcd_pb2.DeleteRangeRequest(key=self._key(), range_end=end, prev_kv=self._one_in(2))

    def compare(self) -> etcd_pb2.Compare:
        draw = self._random
        compare = etcd_pb2.Compare(
            result=draw.choice((0, 0, 1, 2, 3, 8 if self._one_in(30) else 0)),
            target=draw.choice((0, 1, 2, 3, 4, 9 if self._one_in(30) else 0)),
            key=self._key(),
            range_end=draw.choice(ENDS) if self._one_in(3) else b"",
        )
        if self._one_in(40):
            return compare  # without anything to compare with
        target = draw.randrange(5) if self._one_in(40) else compare.target
        if target == etcd_pb2.Compare.VALUE:
            compare.value = draw.choice(VALUES)
        elif target == etcd_pb2.Compare.LEASE:
            compare.lease = self._lease()
        elif target == etcd_pb2.Compare.VERSION:
            compare.version = draw.choice((0, 1, 1, 2, 3))
        elif target == etcd_pb2.Compare.CREATE:
            compare.create_revision = draw.choice((0, self._near_revision()))
        else:
            compare.mod_revision = draw.choice((0, self._near_revision()))
        return compare

    def operation(self, depth: int) -> etcd_pb2.RequestOp:
        kind = self._random.randrange(12)
        if kind < 4:
            return etcd_pb2.RequestOp(request_put=self.put())
        if kind < 7:
            return etcd_pb2.RequestOp(request_range=self.range(in_txn=True))
        if kind < 9:
            return etcd_pb2.RequestOp(request_delete_range=self.delete())
        if kind < 11 and depth:
            return etcd_pb2.RequestOp(request_txn=self.txn(depth - 1))
        if self._one_in(10):
            return etcd_pb2.RequestOp()
        return etcd_pb2.RequestOp(request_range=etcd_pb2.RangeRequest(key=self._key()))

    def txn(self, depth: int = 2) -> etcd_pb2.TxnRequest:
        draw = self._random
        return etcd_pb2.TxnRequest(
            compare=[self.compare() for _ in range(draw.choice((0, 0, 1, 1, 2)))],
            success=[self.operation(depth) for _ in range(draw.choice((0, 1, 2, 3)))],
            failure=[self.operation(depth) for _ in range(draw.choice((0, 1, 2)))],
        )

    def watch(self) -> etcd_pb2.WatchCreateRequest:
        draw = self._random
        return etcd_pb2.WatchCreateRequest(
            key=draw.choice((*KEYS, b"", b"\0")),
            range_end=draw.choice(ENDS),
            start_revision=draw.choice((0, 1, max(1, self._near_revision()), max(1, self._near_revision()))),
            prev_kv=self._one_in(2),
            filters=draw.choice(([], [], [0], [1], [0, 1], [0, 0])),
            watch_id=draw.choice((0, draw.randrange(100, 1 << 40))),
            fragment=self._one_in(3),
            progress_notify=self._one_in(3),
        )

    # ---- calls

    def _put_call(self) -> Request:
        return Request("KV", "Put", self.put())

    def _range_call(self) -> Request:
        return Request("KV", "Range", self.range())

    def _delete_call(self) -> Request:
        return Request("KV", "DeleteRange", self.delete())

    def _txn_call(self) -> Request:
        return Request("KV", "Txn", self.txn())

    def _compact_call(self) -> Request:
        revision = self._random.choice((1, max(1, self._near_revision()), max(1, self.revision - 15)))
        return Request("KV", "Compact", etcd_pb2.CompactionRequest(revision=revision, physical=self._one_in(2)))

    def _grant_call(self) -> Request:
        ttl_s = self._random.choice((LONG_S, LONG_S, 9_000_000_001, 9_000_000_000))
        return Request("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=self._random.choice(LEASES), TTL=ttl_s))

    def _revoke_call(self) -> Request:
        return Request("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=self._random.choice((*LEASES, 0, 77))))

    def _ask_call(self) -> Request:
        if self._one_in(2):
            return Request("Lease", "LeaseLeases", etcd_pb2.LeaseLeasesRequest())
        asked = etcd_pb2.LeaseTimeToLiveRequest(ID=self._random.choice((*LEASES, 0, 77)), keys=self._one_in(2))
        return Request("Lease", "LeaseTimeToLive", asked)

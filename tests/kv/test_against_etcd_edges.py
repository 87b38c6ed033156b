"""Single requests at the edges of etcd's API, to the real etcd and to ours: sizes, empty fields, what is not there."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import etcd_pb2
from tests.kit.etcd import Refusal, Wire
from tests.kv.etcd_requests import Request
from tests.kv.test_against_etcd import Pair, comparable, pair, running_pair

__all__ = ["pair"]
pytestmark = pytest.mark.integration

Range, Put, Delete, Txn = (
    etcd_pb2.RangeRequest,
    etcd_pb2.PutRequest,
    etcd_pb2.DeleteRangeRequest,
    etcd_pb2.TxnRequest,
)
Operation = etcd_pb2.RequestOp


def _put(key: bytes = b"a", **fields: Any) -> Any:
    return Operation(request_put=Put(key=key, **fields))


def _nested(depth: int, *innermost: Any) -> Any:
    txn = Txn(success=innermost)
    for _ in range(depth):
        txn = Txn(success=[Operation(request_txn=txn)])
    return txn


CASES: dict[str, tuple[str, str, Any]] = {
    "empty txn": ("KV", "Txn", Txn()),
    "txn with 128 operations": ("KV", "Txn", Txn(success=[_put(b"%d" % n) for n in range(128)])),
    "txn with 129 operations": ("KV", "Txn", Txn(success=[_put(b"%d" % n) for n in range(129)])),
    "txn with 129 comparisons": ("KV", "Txn", Txn(compare=[etcd_pb2.Compare(key=b"a")] * 129)),
    "nested txns share the bound": (
        "KV", "Txn",
        Txn(success=[_put(b"%d" % n) for n in range(100)]
            + [Operation(request_txn=Txn(success=[_put(b"x%d" % n) for n in range(29)]))]),
    ),
    "nested txns as long as the bound": (
        "KV", "Txn",
        Txn(success=[_put(b"%d" % n) for n in range(63)]
            + [Operation(request_txn=Txn(success=[_put(b"x%d" % n) for n in range(64)]))]),
    ),
    "deep txn": ("KV", "Txn", _nested(30, _put())),
    "put of nothing": ("KV", "Put", Put()),
    "put without value": ("KV", "Put", Put(key=b"a")),
    "put of a value too large": ("KV", "Put", Put(key=b"a", value=bytes(1_572_864))),
    "put of a value just not too large": ("KV", "Put", Put(key=b"a", value=bytes(1_572_000))),
    "put of a key too large": ("KV", "Put", Put(key=bytes(1_600_000))),
    "put with a lease that is not there": ("KV", "Put", Put(key=b"a", lease=5)),
    "put ignoring the value of what is not there": ("KV", "Put", Put(key=b"a", ignore_value=True)),
    "put ignoring and giving a value": ("KV", "Put", Put(key=b"a", value=b"1", ignore_value=True)),
    "put ignoring and giving a lease": ("KV", "Put", Put(key=b"a", lease=1, ignore_lease=True)),
    "put ignoring both": ("KV", "Put", Put(key=b"a", value=b"1", lease=1, ignore_value=True, ignore_lease=True)),
    "txn too large": ("KV", "Txn", Txn(success=[_put(value=bytes(1_600_000))])),
    "delete of nothing": ("KV", "DeleteRange", Delete()),
    "delete of what is not there": ("KV", "DeleteRange", Delete(key=b"a", prev_kv=True)),
    "delete of all": ("KV", "DeleteRange", Delete(key=b"\0", range_end=b"\0")),
    "range of nothing": ("KV", "Range", Range()),
    "range of all": ("KV", "Range", Range(key=b"\0", range_end=b"\0")),
    "range at a future revision": ("KV", "Range", Range(key=b"a", revision=2)),
    "range at a future revision, serializable": ("KV", "Range", Range(key=b"a", revision=2, serializable=True)),
    "range at a negative revision": ("KV", "Range", Range(key=b"a", revision=-5)),
    "compaction of the future": ("KV", "Compact", etcd_pb2.CompactionRequest(revision=2)),
    "compaction of the present": ("KV", "Compact", etcd_pb2.CompactionRequest(revision=1)),
    "lease of no time": ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=0)),
    "lease of negative time": ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=-1)),
    "lease of little time": ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=1)),
    "lease of too much time": ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=9_000_000_001)),
    "lease with a negative id": ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=-5, TTL=100)),
    "revocation of no lease": ("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest()),
    "revocation of what is not there": ("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=5)),
    "time of no lease": ("Lease", "LeaseTimeToLive", etcd_pb2.LeaseTimeToLiveRequest()),
    "time of a lease that is not there": ("Lease", "LeaseTimeToLive", etcd_pb2.LeaseTimeToLiveRequest(ID=5, keys=True)),
    "leases": ("Lease", "LeaseLeases", etcd_pb2.LeaseLeasesRequest()),
    "hash of the future": ("Maintenance", "HashKV", etcd_pb2.HashKVRequest(revision=2)),
    "alarms": ("Maintenance", "Alarm", etcd_pb2.AlarmRequest()),
    "leadership to nobody": ("Maintenance", "MoveLeader", etcd_pb2.MoveLeaderRequest(targetID=5)),
    "removal of nobody": ("Cluster", "MemberRemove", etcd_pb2.MemberRemoveRequest(ID=5)),
    "promotion of nobody": ("Cluster", "MemberPromote", etcd_pb2.MemberPromoteRequest(ID=5)),
    "update of nobody": ("Cluster", "MemberUpdate", etcd_pb2.MemberUpdateRequest(ID=5, peerURLs=["http://h:1"])),
    "member without a scheme": ("Cluster", "MemberAdd", etcd_pb2.MemberAddRequest(peerURLs=["127.0.0.1:1"])),
    "member without an address": ("Cluster", "MemberAdd", etcd_pb2.MemberAddRequest()),
    "state of authentication": ("Auth", "AuthStatus", etcd_pb2.AuthStatusRequest()),
    "authentication": ("Auth", "Authenticate", etcd_pb2.AuthenticateRequest(name="root", password="x")),
}  # fmt: skip


async def test_edges(pair: Pair) -> None:
    """One after the other on the same servers, each on a store that the case before left."""
    different = []
    for name, case in CASES.items():
        etcd, ours = comparable(await pair.etcd.call(*case)), comparable(await pair.ours.call(*case))
        if etcd != ours:
            different.append(f"{name}\n  etcd: {str(etcd)[:300]}\n  ours: {str(ours)[:300]}")
    assert not different, "\n".join(different)


async def test_keep_alive(pair: Pair) -> None:
    await pair.ask(Request("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=100)))
    answers = []
    for wire in (pair.etcd, pair.ours):
        stream = wire.stream("Lease", "LeaseKeepAlive")
        answers.append([])
        for lease in (5, 6, 5, 0):
            await stream.write(etcd_pb2.LeaseKeepAliveRequest(ID=lease))
            answers[-1].append(comparable(await stream.read()))
        stream.cancel()
    assert answers[1] == answers[0]
    assert [answer.TTL for answer in answers[1]] == [100, 0, 100, 0]


async def test_a_lease_id_is_chosen(pair: Pair) -> None:
    for wire in (pair.etcd, pair.ours):
        granted = await wire.call("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(TTL=100))
        assert not isinstance(granted, Refusal)
        assert 0 < granted.ID < 1 << 63


def _delete(key: bytes) -> Any:
    return Operation(request_delete_range=Delete(key=key))


async def test_a_full_store(tmp_path: Path) -> None:
    """What grows is refused in the same words; what reads or makes room is not.

    etcd 3.5.1 refuses transactions that only read or delete as well; later ones take them, as ours does.
    """
    async with running_pair(tmp_path, quota_backend_bytes=1 << 20) as pair:
        for wire in (pair.etcd, pair.ours):
            answer: Any = None
            while not isinstance(answer, Refusal):
                answer = await wire.call("KV", "Put", Put(key=b"big", value=bytes(100_000)))
            assert answer == ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
        different = []
        for request in (
            ("KV", "Put", Put(key=b"a")),
            ("KV", "Txn", Txn(success=[_put()])),
            ("KV", "Txn", Txn(failure=[Operation(request_txn=Txn(failure=[_put()]))])),
            ("KV", "Range", Range(key=b"big", count_only=True)),
            ("KV", "DeleteRange", Delete(key=b"c")),
            ("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=1, TTL=60)),
            ("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=1)),
        ):
            etcd, ours = await pair.etcd.call(*request), await pair.ours.call(*request)
            refusals = [answer if isinstance(answer, Refusal) else None for answer in (etcd, ours)]
            if refusals[0] != refusals[1]:
                different.append((request, refusals))
        assert not different
        for txn in (
            Txn(success=[_delete(b"a"), Operation(request_txn=Txn(failure=[_delete(b"b")]))]),
            Txn(success=[Operation(request_range=Range(key=b"a"))]),
        ):
            answer = await pair.ours.call("KV", "Txn", txn)
            assert not isinstance(answer, Refusal), answer
        # Ours needs nobody to clear an alarm: what is deleted and compacted is room.
        wire = pair.ours
        deleted = await wire.call("KV", "DeleteRange", Delete(key=b"big"))
        await wire.call("KV", "Compact", etcd_pb2.CompactionRequest(revision=deleted.header.revision))
        await until_taken(wire, ("KV", "Put", Put(key=b"a")))


async def until_taken(wire: Wire, call: tuple[str, str, Any]) -> None:
    """Returns once the call is not refused."""
    async with asyncio.timeout(10):
        while isinstance(await wire.call(*call), Refusal):
            pass

"""Locks and elections: the same calls on the real etcd and on ours, and who has what when members and callers go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import election_pb2, etcd_pb2, lock_pb2
from tests.kit.etcd import Refusal, Wire
from tests.kv.etcd_requests import Request
from tests.kv.group import running_group
from tests.kv.test_against_etcd import Pair, comparable, pair

__all__ = ["pair"]
pytestmark = pytest.mark.integration
TIMEOUT_S = 20
WAITS_S = 0.5  # after which a call is under way that nothing shows to have come
LEASES = (7, 0x1F, 0xABCDEF)
PREFIX = etcd_pb2.RangeRequest(key=b"job/", range_end=b"job0", sort_target=etcd_pb2.RangeRequest.CREATE)


def lock(lease: int, name: bytes = b"job") -> lock_pb2.LockRequest:
    return lock_pb2.LockRequest(name=name, lease=lease)


def campaign(lease: int, value: bytes) -> election_pb2.CampaignRequest:
    return election_pb2.CampaignRequest(name=b"job", lease=lease, value=value)


def leader(lease: int, revision: int) -> election_pb2.LeaderKey:
    return election_pb2.LeaderKey(name=b"job", key=b"job/%x" % lease, rev=revision, lease=lease)


async def grant(wire: Wire, *leases: int) -> None:
    for lease in leases:
        await wire.call("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(TTL=600, ID=lease))


async def keys(wire: Wire) -> list[bytes]:
    return [kv.key for kv in (await wire.call("KV", "Range", PREFIX)).kvs]  # type: ignore[union-attr]


async def stand(wire: Wire, count: int) -> None:
    """Waits until so many contend for the name."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(await keys(wire)) != count:
            pass


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[Wire]:
    async with running_group(tmp_path, 1) as group:
        wire = Wire(group.endpoints[0])
        yield wire
        await wire.close()


ASKED: list[tuple[str, str, Any]] = [
    ("Lock", "Lock", lock(7)),
    ("Lock", "Lock", lock(7)),  # who has it may have it again
    ("KV", "Range", PREFIX),
    ("Lock", "Lock", lock(999)),  # no such lease
    ("Lock", "Lock", lock(7, b"")),
    ("Lock", "Unlock", lock_pb2.UnlockRequest(key=b"job/7")),
    ("Lock", "Unlock", lock_pb2.UnlockRequest(key=b"job/7")),
    ("Lock", "Unlock", lock_pb2.UnlockRequest()),
    ("Election", "Leader", election_pb2.LeaderRequest(name=b"job")),
    ("Election", "Campaign", campaign(7, b"a")),
    ("Election", "Campaign", campaign(7, b"a")),
    ("Election", "Campaign", campaign(7, b"b")),
    ("Election", "Leader", election_pb2.LeaderRequest(name=b"job")),
    ("Election", "Proclaim", election_pb2.ProclaimRequest(leader=leader(7, 7), value=b"c")),
    ("Election", "Proclaim", election_pb2.ProclaimRequest(leader=leader(7, 4), value=b"c")),
    ("Election", "Proclaim", election_pb2.ProclaimRequest(value=b"c")),
    ("Election", "Resign", election_pb2.ResignRequest(leader=leader(7, 4))),
    ("Election", "Resign", election_pb2.ResignRequest()),
    ("KV", "Range", PREFIX),
    ("Election", "Campaign", campaign(999, b"a")),
]


async def test_the_same_calls_have_the_same_answers(pair: Pair) -> None:
    for lease in LEASES:
        await pair.ask(Request("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(TTL=600, ID=lease)))
    for request in ASKED:
        await pair.ask(Request(*request))


async def test_a_lock_goes_to_who_waits_longest(pair: Pair) -> None:
    async def order(wire: Wire) -> list[Any]:
        await grant(wire, *LEASES)
        found = [comparable(await wire.call("Lock", "Lock", lock(LEASES[0])))]
        waiting = []
        for number, lease in enumerate(LEASES[1:], 2):
            waiting.append(asyncio.create_task(wire.call("Lock", "Lock", lock(lease))))
            await stand(wire, number)
        # The one in the middle gives up: the last one waits for the first one still.
        waiting[0].cancel()
        await stand(wire, 2)
        assert not waiting[1].done()
        await wire.call("Lock", "Unlock", lock_pb2.UnlockRequest(key=b"job/%x" % LEASES[0]))
        found.append(comparable(await waiting[1]))
        assert await keys(wire) == [b"job/%x" % LEASES[2]]
        return found

    assert await order(pair.ours) == await order(pair.etcd)


@pytest.mark.parametrize("service", ["Lock", "Election"])
async def test_who_gives_up_takes_the_key_along_that_a_call_before_left(pair: Pair, service: str) -> None:
    async def given_up(wire: Wire) -> None:
        await grant(wire, 7, 8)
        await wire.call("Lock", "Lock", lock(7))
        await wire.call("KV", "Put", etcd_pb2.PutRequest(key=b"job/8", lease=8))
        request = ("Lock", "Lock", lock(8)) if service == "Lock" else ("Election", "Campaign", campaign(8, b""))
        waiting = asyncio.create_task(wire.call(*request))
        await asyncio.sleep(WAITS_S)
        waiting.cancel()
        await stand(wire, 1)

    await given_up(pair.etcd)
    await given_up(pair.ours)


async def test_a_lock_whose_lease_ends_while_it_waits(pair: Pair) -> None:
    async def lost(wire: Wire) -> Any:
        await grant(wire, 7, 8)
        await wire.call("Lock", "Lock", lock(7))
        waiting = asyncio.create_task(wire.call("Lock", "Lock", lock(8)))
        await stand(wire, 2)
        await wire.call("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=8))
        await wire.call("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=7))
        return await waiting

    expected = await lost(pair.etcd)
    assert isinstance(expected, Refusal)
    assert await lost(pair.ours) == expected


async def test_observers_hear_every_leader(pair: Pair) -> None:
    async def heard(wire: Wire) -> list[tuple[bytes, bytes, int]]:
        await grant(wire, 7, 8)
        stream = wire.stream("Election", "Observe", election_pb2.LeaderRequest(name=b"job"))
        found: list[tuple[bytes, bytes, int]] = []

        async def next_one() -> None:
            answer = await asyncio.wait_for(stream.read(), TIMEOUT_S)
            found.append((answer.kv.key, answer.kv.value, answer.header.revision - answer.kv.mod_revision))

        elected = await wire.call("Election", "Campaign", campaign(7, b"a"))
        await next_one()
        other = asyncio.create_task(wire.call("Election", "Campaign", campaign(8, b"b")))
        await stand(wire, 2)
        first = elected.leader  # type: ignore[union-attr]
        await wire.call("Election", "Proclaim", election_pb2.ProclaimRequest(leader=first, value=b"c"))
        await next_one()
        await wire.call("Election", "Resign", election_pb2.ResignRequest(leader=first))
        await next_one()
        second = (await other).leader  # type: ignore[union-attr]
        await wire.call("Election", "Resign", election_pb2.ResignRequest(leader=second))
        await wire.call("Election", "Campaign", campaign(7, b"d"))
        await next_one()
        stream.cancel()
        return found

    assert await heard(pair.ours) == await heard(pair.etcd)


async def test_who_brings_no_lease_gets_one_of_a_minute(ours: Wire) -> None:
    held: Any = await ours.call("Lock", "Lock", lock(0))
    lease = int(held.key.removeprefix(b"job/"), 16)
    told: Any = await ours.call("Lease", "LeaseTimeToLive", etcd_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True))
    assert (told.grantedTTL, list(told.keys)) == (60, [held.key])


async def test_a_lock_is_waited_for_at_any_member_and_through_a_compaction(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        first, second = Wire(group.endpoints[0]), Wire(group.endpoints[1])
        await grant(first, 7, 8)
        await first.call("Lock", "Lock", lock(7))
        waiting = asyncio.create_task(second.call("Lock", "Lock", lock(8)))
        await stand(first, 2)
        for _ in range(5):
            put: Any = await first.call("KV", "Put", etcd_pb2.PutRequest(key=b"other"))
        await first.call("KV", "Compact", etcd_pb2.CompactionRequest(revision=put.header.revision))
        assert not waiting.done()
        await first.call("Lock", "Unlock", lock_pb2.UnlockRequest(key=b"job/7"))
        held: Any = await asyncio.wait_for(waiting, TIMEOUT_S)
        assert held.key == b"job/8"
        await first.close()
        await second.close()


async def test_who_waits_at_a_member_that_stops_is_told(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        wire = Wire(group.endpoints[0])
        await grant(wire, 7, 8)
        await wire.call("Lock", "Lock", lock(7))
        waiting = asyncio.create_task(wire.call("Lock", "Lock", lock(8)))
        await stand(wire, 2)
    assert isinstance(answer := await asyncio.wait_for(waiting, TIMEOUT_S), Refusal)
    assert answer.code == "UNAVAILABLE"
    await wire.close()

"""Leases live by the leader's clock: through restarts, too."""

import time
from pathlib import Path

from raykube.kv.core.mvcc.machine import Command, commands
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import running_group
from tests.kv.lone_replica import LoneReplica

LEASE = 7
BOOTED_S = 100_000.0  # what a machine's clock may show when a member starts


def test_a_leader_that_has_just_started_gives_every_lease_its_whole_time() -> None:
    member = LoneReplica()
    member.tick(BOOTED_S)
    member.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=LEASE, TTL=10))
    replica = member.restart()
    assert LEASE in replica.machine.store.leases
    member.tick(BOOTED_S + 60)
    assert LEASE in replica.machine.store.leases
    assert replica.lease_clock.remaining_s(LEASE, BOOTED_S + 60) == 10
    member.tick(BOOTED_S + 69)
    assert LEASE in replica.machine.store.leases
    member.tick(BOOTED_S + 70)
    assert LEASE not in replica.machine.store.leases


def test_a_lease_granted_before_the_first_tick_has_its_whole_time() -> None:
    member = LoneReplica()
    member.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=LEASE, TTL=10))
    member.tick(BOOTED_S)
    assert member.replica.lease_clock.remaining_s(LEASE, BOOTED_S) == 10


async def test_leases_survive_a_crash_of_all_members(tmp_path: Path) -> None:
    for count in (1, 3):
        async with running_group(tmp_path / str(count), count) as group:
            lease = await group.client.grant(30)
            await group.client.write([Write(key=b"/held", value=b"v", expected_revision=-1, lease=lease)])
            for name in group.names:
                await group.crash(name)
            await group.start()
            leader = group.services[await group.leader()].member
            assert leader is not None
            clock = leader.replica.lease_clock
            await until(lambda clock=clock, lease=lease: clock.remaining_s(lease, time.monotonic()) is not None)
            assert (clock.remaining_s(lease, time.monotonic()) or 0) > 20
            assert await group.client.keep_alive(lease) == 30
            assert (await group.client.range(b"/held")).count == 1


def test_leases_that_run_out_together_are_revoked_by_few_entries_and_once() -> None:
    member = LoneReplica()
    member.tick(BOOTED_S)
    for lease in range(1, 1001):
        member.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=lease, TTL=10))
    before = len(member.entries)
    member.tick(BOOTED_S + 1)
    for second in range(2, 20):
        member.tick(BOOTED_S + second)
    assert not member.replica.machine.store.leases
    revocations = [command for entry in member.entries[before:] for _, command, _ in commands(entry.data)]
    assert revocations.count(Command.LEASE_REVOKE) == 1000
    assert len(revocations) == 1000
    assert len(member.entries) - before == 2
    assert not any(member.replica.lease_clock.is_over(lease) for lease in range(1, 1001))


def test_a_lease_that_its_owner_revoked_is_nobody_s_deadline() -> None:
    member = LoneReplica()
    member.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=LEASE, TTL=10))
    member.tick(BOOTED_S)
    member.propose(Command.LEASE_REVOKE, etcd_pb2.LeaseRevokeRequest(ID=LEASE))
    member.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=LEASE, TTL=100))
    member.tick(BOOTED_S + 9)
    member.tick(BOOTED_S + 50)
    assert LEASE in member.replica.machine.store.leases


def test_a_lease_that_was_renewed_and_revoked_leaves_no_clock_to_the_next_of_its_name() -> None:
    lone = LoneReplica()
    lone.tick(0.0)
    lone.propose(Command.LEASE_GRANT, etcd_pb2.LeaseGrantRequest(ID=7, TTL=10))
    lone.tick(0.1)
    assert lone.replica.renew(7)
    lone.propose(Command.LEASE_REVOKE, etcd_pb2.LeaseRevokeRequest(ID=7))
    lone.tick(0.2)
    assert lone.replica.lease_clock.remaining_s(7, 0.2) is None

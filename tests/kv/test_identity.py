"""A member whose state is not the others' is found, stops, says so, and comes back once it is right."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from raykube.kv import scrubber
from raykube.kv.core import prover
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.mvcc.scrub import Rotten
from raykube.kv.core.mvcc.store import Outcome, Store
from raykube.kv.core.prover import Diverged
from raykube.pb import etcd_pb2, raft_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import Code, RpcError
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

CHECK_S = 0.15


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover, "CHECK_S", CHECK_S)


def put(key: str, value: str = "v") -> Write:
    return Write(key=key.encode(), value=value.encode(), expected_revision=-1)


def store_of(group: Group, name: str) -> Store:
    member = group.services[name].member
    assert member is not None
    store = member.store
    assert isinstance(store, Store)
    return store


def settled(group: Group, name: str) -> int:
    """The index of the newest check that this member saw settled."""
    member = group.services[name].member
    assert member is not None
    checks = member.replica.machine.vouching.checks
    return max((check.index for check in checks if check.settled is not None), default=0)


def failure(group: Group, name: str) -> BaseException | None:
    member = group.services[name].member
    assert member is not None
    return member.failed.exception() if member.failed.done() else None


def compute_wrongly(group: Group, name: str) -> None:
    """From here on, this member's writes end up as something else."""
    store = store_of(group, name)
    apply = store.apply_writes

    def wrongly(writes: Sequence[Write], is_awaited: bool = True) -> list[Outcome]:
        wrong = [Write(key=each.key, value=b"wrong", expected_revision=each.expected_revision) for each in writes]
        return apply(wrong, is_awaited)

    store.apply_writes = wrongly  # type: ignore[method-assign]


async def alarms(group: Group) -> list[tuple[int, int]]:
    response = await group.client.call("Maintenance", "Alarm", etcd_pb2.AlarmRequest(action=etcd_pb2.AlarmRequest.GET))
    return [(alarm.memberID, alarm.alarm) for alarm in response.alarms]


async def test_members_that_agree_settle_every_check(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        for number in range(3):
            await group.client.write([put(f"/{number}")])
            last = max(settled(group, name) for name in group.names)
            await until(lambda last=last: min(settled(group, name) for name in group.names) > last)
        await group.agree()
        assert await alarms(group) == []


@pytest.mark.parametrize("is_leader", [False, True])
async def test_a_member_that_computes_wrongly_is_fenced_and_proves_itself_after_a_restart(
    tmp_path: Path, is_leader: bool
) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/before")])
        leader = await group.leader()
        bad = leader if is_leader else next(name for name in group.names if name != leader)
        member = group.services[bad].member
        assert member is not None
        compute_wrongly(group, bad)
        await group.client.write([put("/after")])
        await until(lambda: isinstance(failure(group, bad), Diverged))
        assert "entry" in str(failure(group, bad))
        await group.stop(bad)
        await group.leader()
        other = group.services[next(iter(group.services))].member
        assert other is not None
        await until(lambda: list(other.replica.machine.vouching.fenced) == [member.id])
        assert await alarms(group) == [(member.id, etcd_pb2.CORRUPT)]
        assert (await group.client.range(b"/after")).kvs[0].value == b"v"
        await group.start(bad)
        await until(lambda: not other.replica.machine.vouching.fenced)
        assert failure(group, bad) is None
        await group.agree()
        assert await alarms(group) == []


async def test_a_snapshot_of_a_wrong_state_is_not_used_again(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3, snapshot_count=20) as group:
        leader = await group.leader()
        bad = next(name for name in group.names if name != leader)
        member = group.services[bad].member
        assert member is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prover, "CHECK_S", 3600.0)  # until the wrong state is in both snapshots
            compute_wrongly(group, bad)
            for number in range(80):
                await group.client.write([put(f"/{number}")])
            await until(lambda: len(snapshots(tmp_path / bad)) == 2)
            wrong = snapshots(tmp_path / bad)
        # Each time it starts with one, it is found out again, until it starts with none.
        for _ in range(3):
            await group.client.write([put("/again")])
            at = max(settled(group, name) for name in group.services)
            await until(lambda at=at: is_found_or_right(group, bad, at))
            if failure(group, bad) is None:
                break
            await restarted(group, bad)
        assert failure(group, bad) is None
        assert not set(wrong) & set(snapshots(tmp_path / bad))
        await group.agree()
        assert (await group.client.range(b"/79")).kvs[0].value == b"v"


def snapshots(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "snap").glob("*.snap"))


def is_found_or_right(group: Group, name: str, index: int) -> bool:
    """Whether the member was found to be wrong, or a check behind `index` found it right."""
    if isinstance(failure(group, name), Diverged):
        return True
    member = group.services[name].member
    assert member is not None
    checks = [check for check in member.replica.machine.vouching.checks if check.index > index]
    return any(check.settled is not None and check.vouches.get(member.id) == check.settled for check in checks)


async def restarted(group: Group, name: str) -> None:
    await group.stop(name)
    await group.start(name)


async def test_two_members_that_differ_serve_nobody_until_they_agree(tmp_path: Path) -> None:
    async with running_group(tmp_path, 2) as group:
        await group.client.write([put("/before")])
        leader = await group.leader()
        bad = next(name for name in group.names if name != leader)
        compute_wrongly(group, bad)
        await group.client.write([put("/after")])
        member = group.services[leader].member
        assert member is not None
        vouching = member.replica.machine.vouching
        await until(lambda: vouching.disputed)
        for request in (
            group.client.call("KV", "Range", etcd_pb2.RangeRequest(key=b"/after"), 5.0, retry=False),
            group.client.call("KV", "Range", etcd_pb2.RangeRequest(key=b"/after", serializable=True), 5.0, retry=False),
            group.client.call("KV", "Put", etcd_pb2.PutRequest(key=b"/after", value=b"v"), 5.0, retry=False),
        ):
            with pytest.raises(RpcError) as refusal:
                await request
            assert (refusal.value.code, refusal.value.message) == (Code.DATA_LOSS, "etcdserver: corrupt cluster")
        assert {alarm for _, alarm in await alarms(group)} == {etcd_pb2.CORRUPT}
        assert len(await alarms(group)) == 2
        # Who is wrong, only a person can find out; here it is the one whose state its log does not give.
        await group.stop(bad)
        await group.start(bad)
        await until(lambda: not vouching.disputed)
        assert (await group.client.range(b"/after")).kvs[0].value == b"v"
        assert await alarms(group) == []


def rot(store: Store, key: bytes) -> None:
    """As if memory had changed under the versions of `key`."""
    for versions in (store.index.histories[key], store.events):
        versions[:] = [each._replace(value=b"w") if each.key == key else each for each in versions]


async def test_in_a_dispute_members_look_at_themselves_at_once(tmp_path: Path) -> None:
    async with running_group(tmp_path, 2) as group:
        await group.client.write([put("/7")])
        leader = await group.leader()
        bad = next(name for name in group.names if name != leader)
        await group.agree()
        await until(lambda: settled(group, bad))
        rot(store_of(group, bad), b"/7")
        compute_wrongly(group, bad)
        await group.client.write([put("/after")])
        await until(lambda: isinstance(failure(group, bad), Rotten))  # long before the next pass would have come
        assert failure(group, leader) is None


async def test_memory_that_rots_stops_its_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubber, "REST_S", 0.05)
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put(f"/{number}") for number in range(50)])
        await group.agree()
        rot(store_of(group, "m2"), b"/7")
        await until(lambda: isinstance(failure(group, "m2"), Rotten))
        await restarted(group, "m2")
        await group.agree()
        assert [failure(group, name) for name in group.names] == [None] * 3


async def test_no_check_is_made_while_a_member_would_not_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/first")])
        await until(lambda: settled(group, "m1"))
        member = group.services["m1"].member
        assert member is not None
        older = raft_pb2.Attributes.FromString(member.replica.machine.attributes[member.id].SerializeToString())
        older.level = Command.ATTRIBUTES
        await member.propose(Command.ATTRIBUTES, older.SerializeToString())
        await group.agree()
        before = [settled(group, name) for name in group.names]
        proposed: list[Command] = []
        leader = group.services[await group.leader()].member
        assert leader is not None
        say = leader.replica.prover._propose
        leader.replica.prover._propose = lambda command, body: (proposed.append(command), say(command, body))[1]
        now = 1e9
        for _ in range(10):
            now += 1.0
            leader.replica.prover.tick(now, leader.replica.machine, leader.replica.membership)
        assert proposed == []
        assert [settled(group, name) for name in group.names] == before

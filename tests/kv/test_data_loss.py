"""A member that lost what it promised must not take part as if nothing had happened."""

import shutil
from pathlib import Path

import pytest

from raykube.kv.config import Config
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, HardState, Kind, Message
from raykube.kv.core.raft.node import Node
from raykube.kv.recall import Replaced
from raykube.kv.service import Service
from raykube.pb.batch_pb2 import Write
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


async def test_an_emptied_member_is_refused_by_those_who_remember_it(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        await group.agree()
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        await until(lambda: len(group.services[leader].member.replica.machine.attributes) == 3)
        await group.stop(victim)
        shutil.move(tmp_path / victim, tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=rf"has no log, but .*{leader}.* knows? {victim}.*Put its files back"):
            await Service(group.configs[victim]).start()
        # It wrote nothing, so a second attempt is refused as well; with its files it is welcome.
        with pytest.raises(ValueError, match="has no log, but"):
            await Service(group.configs[victim]).start()
        shutil.rmtree(tmp_path / victim)
        shutil.move(tmp_path / "elsewhere", tmp_path / victim)
        await group.start(victim)
        await group.agree()


async def test_an_emptied_founder_that_nobody_answered_is_found_out_and_elects_nobody(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(group.all_started)
        await group.agree()
        for name in group.names:
            await group.stop(name)
        shutil.rmtree(tmp_path / "m3")
        # Nobody is there to remember it, so it starts.
        await group.start("m3")
        # One other and it would be a majority; but its vote is that of a member without its promises.
        await group.start("m1")
        service = group.services.pop("m3")
        with pytest.raises(Replaced, match="put all its files back"):
            await service.wait()
        await service.stop()
        assert not group.services["m1"].member.replica.node.is_leader
        await group.start("m2")
        await group.leader()
        await group.client.write([Write(key=b"/a", value=b"1", expected_revision=-1)])


async def test_a_late_founder_is_no_stranger(tmp_path: Path) -> None:
    group = Group(tmp_path, 3)
    try:
        await group.start("m1", "m2")
        await group.leader()
        await group.client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        await group.start("m3")
        await group.agree()
    finally:
        await group.client.close()
        for name in list(group.services):
            await group.stop(name)


def existing(group: Group, name: str) -> Config:
    return group.configs[name].model_copy(update={"initial_cluster_state": "existing"})


async def test_an_emptied_founder_is_no_newcomer(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        await group.agree()
        leader = await group.leader()
        await until(lambda: len(group.services[leader].member.replica.machine.attributes) == 3)
        victim = next(name for name in group.names if name != leader)
        await group.stop(victim)
        shutil.rmtree(tmp_path / victim)
        service = Service(existing(group, victim))
        with pytest.raises(ValueError, match="has begun with another data directory"):
            await service.start()


async def test_a_founder_that_never_was_there_may_ask_who_it_is(tmp_path: Path) -> None:
    group = Group(tmp_path, 3)
    try:
        await group.start("m1", "m2")
        await group.leader()
        await group.client.write([Write(key=b"/a", value=b"1", expected_revision=0)])
        group.configs["m3"] = existing(group, "m3")
        await group.start("m3")
        await group.agree()
        # With data it is a member like others, whatever the flag says.
        await group.stop("m3")
        await group.stop("m2")
        group.configs["m2"] = existing(group, "m2")
        await group.start("m3", "m2")
        await group.agree()
    finally:
        await group.client.close()
        for name in list(group.services):
            await group.stop(name)


async def test_snapshots_without_a_log_are_refused(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        for number in range(10):
            await group.client.write([Write(key=b"/a", value=b"%d" % number, expected_revision=-1)])
        await until(lambda: any((tmp_path / "m1" / "snap").glob("*.snap")))
        await group.stop("m1")
        shutil.rmtree(tmp_path / "m1" / "wal")
        with pytest.raises(ValueError, match="no log: put the files in wal/ back"):
            await Service(group.configs["m1"]).start()


def _follower(last: int) -> Node:
    log = Log(entries=[Entry(1, index, 0, b"") for index in range(1, last + 1)])
    return Node(2, Membership.of(1, 2, 3), lambda _: 0, log, HardState(1, 0, 0))


def test_a_leader_s_word_of_what_was_acknowledged_stops_a_member_without_it() -> None:
    _follower(5).step(Message(Kind.HEARTBEAT, 2, 1, 1, commit=5))
    with pytest.raises(AssertionError, match="acknowledged entries up to 6 and has them only up to 5"):
        _follower(5).step(Message(Kind.HEARTBEAT, 2, 1, 1, commit=6))


def test_a_slow_disk_does_not_make_a_follower_look_dead() -> None:
    node = _follower(5)
    entry = Entry(1, 6, 0, b"x")
    node.step(Message(Kind.APPEND, 2, 1, 1, log_term=1, index=5, entries=[entry]))
    write = node.ready().write
    assert write is not None
    assert [message.kind for message in write.messages] == [Kind.APPEND_ANSWER]
    # While the disk works, only what promises nothing leaves.
    node.step(Message(Kind.HEARTBEAT, 2, 1, 1, commit=5, context=3))
    node.step(Message(Kind.APPEND, 2, 1, 1, log_term=1, index=6, entries=[Entry(1, 7, 0, b"y")]))
    ready = node.ready()
    assert [(message.kind, message.context) for message in ready.messages] == [(Kind.HEARTBEAT_ANSWER, 3)]
    assert ready.write is None
    # In a term that is not durable yet, nothing leaves.
    node.persisted(write)
    node.step(Message(Kind.HEARTBEAT, 2, 3, 2))
    ready = node.ready()
    assert ready.messages == []
    assert ready.write is not None
    assert Kind.HEARTBEAT_ANSWER in [message.kind for message in ready.write.messages]

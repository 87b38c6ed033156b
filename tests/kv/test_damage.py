"""A member whose files were damaged gets its data from the others and keeps its promises meanwhile, or says why not."""

from pathlib import Path

import pytest

from raykube.kv.core import recovery, wal_replay
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, HardState, Kind, Message, Snapshot, Write
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import Replica
from raykube.kv.core.wal_codec import MAGIC_BYTES, Corrupt, LogWriter, Meta, Place
from raykube.kv.service import Service
from raykube.pb.batch_pb2 import Write as Put
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

META = Meta(7, 2, 1, 99)
MEMBERS = Membership.of(1, 2, 3)


def log_of(*writes: Write) -> tuple[bytes, list[int]]:
    """A segment with these writes, and where each begins."""
    writer = LogWriter(META)
    content = writer.head()
    places = []
    for write in writes:
        places.append(len(content))
        content += writer.write(write)
    return content, places


def written(term: int, first: int, count: int, commit: int = 0) -> Write:
    return Write(HardState(term, 1, commit), [Entry(term, first + n, 0, b"x") for n in range(count)], None, [])


def recovered(content: bytes, damaged_at: int, snapshot: Snapshot | None = None) -> recovery.Recovered:
    data = bytearray(content)
    data[damaged_at + 30] ^= 1
    return recovery.recover(wal_replay.replay([("segment", bytes(data))]), snapshot, MEMBERS)


def build(found: recovery.Recovered) -> Replica:
    return found.build(2, Limits(), lambda _: 0, iter(range(100, 1000)).__next__)


def test_what_was_promised_survives_the_damage() -> None:
    vote = Write(HardState(5, 3, 7), [], None, [])
    content, places = log_of(written(1, 1, 3), written(2, 4, 2, 3), written(2, 6, 2, 5), vote)
    found = recovered(content, places[1])
    assert found.lacking == Place(2, 7)
    node = build(found).node
    assert (node.term, node.vote) == (5, 3)
    assert (node.log.last, node.log.committed) == (0, 0)
    assert node.membership == MEMBERS
    # It has voted in this term, and votes in later ones only for who has at least what it once acknowledged.
    for term, candidate, log_term, index, granted in (
        (5, 1, 9, 99, False),
        (6, 1, 2, 6, False),
        (7, 1, 1, 99, False),
        (8, 1, 2, 7, True),
        (9, 3, 3, 1, True),
    ):
        node.step(Message(Kind.VOTE, 2, candidate, term, log_term=log_term, index=index))
        write = node.ready().write
        assert write is not None
        answer = next(message for message in write.messages if message.kind is Kind.VOTE_ANSWER)
        assert (not answer.reject) == granted, (term, candidate)
        node.persisted(write)


def test_it_does_not_stand_for_election_until_it_has_it_all_again() -> None:
    content, places = log_of(written(1, 1, 3), written(2, 4, 2, 3))
    node = build(recovered(content, places[0])).node

    def campaigns() -> bool:
        for _ in range(50):
            node.tick()
        write = node.ready().write
        if write is None:
            return False
        node.persisted(write)
        return any(message.kind is Kind.PRE_VOTE for message in write.messages)

    assert not campaigns()
    entries = [Entry(1, 1, 0, b""), Entry(1, 2, 0, b""), Entry(1, 3, 0, b""), Entry(2, 4, 0, b"")]
    node.step(Message(Kind.APPEND, 2, 1, 3, entries=entries))
    assert not campaigns()
    node.step(Message(Kind.APPEND, 2, 1, 3, log_term=2, index=4, entries=[Entry(2, 5, 0, b"")]))
    assert campaigns()


def test_the_promise_is_in_the_log_until_it_is_kept() -> None:
    """Stopped before it had everything, the member still knows what it answers for, though the damage is gone."""
    content, places = log_of(written(1, 1, 3), written(2, 4, 2, 3))
    found = recovered(content, places[0])
    assert found.marker is not None
    assert found.lacking == Place(2, 5)
    writer = LogWriter(META, 1, HardState(2, 1, 3), Place(2, 5))
    writer.hold_tail(found.lacking)
    again = writer.head() + writer.write(found.marker)
    for writes, last, lacking in (
        ([], 0, Place(2, 5)),
        ([Write(HardState(3, 0, 1), [Entry(1, 1, 0, b""), Entry(1, 2, 0, b"")], None, [])], 2, Place(2, 5)),
        ([Write(HardState(3, 0, 1), [Entry(2, 3, 0, b""), Entry(2, 4, 0, b"")], None, [])], 4, Place(2, 5)),
        ([Write(HardState(3, 0, 1), [Entry(3, 5, 0, b"")], None, [])], 5, None),
    ):
        for write in writes:
            again += writer.write(write)
        found = recovery.recover(wal_replay.replay([("later", again)]), None, MEMBERS)
        assert (found.entries[-1].index if found.entries else 0) == last
        assert found.lacking == lacking


def test_damage_before_the_snapshot_costs_nothing() -> None:
    content, places = log_of(written(1, 1, 3), written(1, 4, 3, 3), written(2, 7, 2, 5))
    found = recovered(content, places[0], Snapshot(4, 1, MEMBERS))
    assert found.lacking is None
    assert [entry.index for entry in found.entries] == [5, 6, 7, 8]


def finish(node: Node) -> None:
    """Its disk is done."""
    write = node.ready().write
    assert write is not None
    node.persisted(write)


def test_a_leader_forgets_what_its_follower_lost() -> None:
    """The same leader goes on: it must send again what the follower once acknowledged to it."""
    leader = Node(1, MEMBERS, lambda _: 0)
    leader.campaign(force=True)
    finish(leader)
    leader.step(Message(Kind.VOTE_ANSWER, 1, 2, leader.term))
    assert leader.is_leader
    leader.propose([b"a", b"b"])
    finish(leader)
    leader.step(Message(Kind.APPEND_ANSWER, 1, 2, leader.term, index=3))
    assert leader.log.committed == 3
    writer = LogWriter(META)
    head = writer.head()
    lost = writer.write(Write(HardState(1, 1, 0), list(leader.log.entries), None, []))
    kept = writer.write(Write(HardState(1, 1, 3), [], None, []))
    found = recovered(head + lost + kept, len(head))
    assert found.lacking == Place(1, 3)
    node = build(found).node
    for _ in range(20):
        leader.tick()
        for source, target in ((leader, node), (node, leader)):
            ready = source.ready()
            messages = list(ready.messages)
            if ready.write is not None:
                source.persisted(ready.write)
                messages += ready.write.messages
            for message in messages:
                if message.to == target.id:
                    target.step(message)
    assert node.log.entries == leader.log.entries
    assert not node.log.is_lacking
    assert leader.progress[2].match == 3


def test_the_only_member_says_what_to_do() -> None:
    content, places = log_of(written(1, 1, 3), written(1, 4, 1))
    data = bytearray(content)
    data[places[0] + 30] ^= 1
    with pytest.raises(Corrupt, match=r"nobody has what is lost: begin again with a backup"):
        recovery.recover(wal_replay.replay([("segment", bytes(data))]), None, Membership.of(2))


# ---- with real files and sockets


async def fill(group: Group, first: int, count: int) -> None:
    for number in range(first, first + count):
        await group.client.write([Put(key=b"/%d" % number, value=b"v", expected_revision=0)])


def damage(folder: Path, pattern: str, which: int = 0) -> Path:
    """Flips a bit in the middle of a frame that others follow, or in a snapshot."""
    path = sorted(folder.glob(pattern))[which]
    data = bytearray(path.read_bytes())
    frames = data.count(MAGIC_BYTES)
    place = len(data) // 2
    if frames:
        for _ in range(frames // 2):
            place = data.index(MAGIC_BYTES, place if _ else 0) + 1
    data[place + 25] ^= 4
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("is_leader", [False, True])
async def test_a_damaged_log_is_fetched_again(tmp_path: Path, is_leader: bool) -> None:
    async with running_group(tmp_path, 3) as group:
        await fill(group, 0, 20)
        await group.agree()
        leader = await group.leader()
        victim = leader if is_leader else next(name for name in group.names if name != leader)
        await group.stop(victim)
        await fill(group, 20, 5)
        damage(tmp_path / victim / "wal", "*.wal")
        await group.start(victim)
        await fill(group, 25, 5)
        await group.agree()
        node = group.services[victim].member.replica.node
        assert not node.log.is_lacking
        # Now it is as good as any: the others may go.
        for name in group.names:
            if name != victim:
                await group.stop(name)
                await group.start(name)
        await group.agree()
        assert (await group.client.range(b"/", b"0", timeout_s=20)).count == 30


async def test_damaged_snapshots_are_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raykube.kv.wal.SEGMENT_BYTES_MAX", 1000)  # what the snapshots stand for is purged soon
    async with running_group(tmp_path, 3, snapshot_count=10) as group:
        await fill(group, 0, 40)
        await group.agree()
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        snap = tmp_path / victim / "snap"
        await until(lambda: len(list(snap.glob("*.snap"))) == 2)
        await group.stop(victim)
        assert not any(path.name.endswith(f"{1:016x}.wal") for path in (tmp_path / victim / "wal").iterdir())
        damage(snap, "*.snap", 0)
        damage(snap, "*.snap", 1)
        caplog.clear()
        await group.start(victim)
        assert "gets its data from the leader" in caplog.text
        await group.agree()
        assert not group.services[victim].member.replica.node.log.is_lacking


async def test_a_leader_whose_snapshot_is_damaged_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raykube.kv.transport.SNAPSHOT_RETRY_S", 0.05)
    monkeypatch.setattr("raykube.kv.snapshotter.ENTRIES_KEPT", 2)
    async with running_group(tmp_path, 3, snapshot_count=10) as group:
        await fill(group, 0, 5)
        await group.agree()
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        await group.stop(victim)
        await fill(group, 5, 40)
        replica = group.services[leader].member.replica
        await until(lambda: replica.applied - replica.node.snapshot.index < 10)
        assert await group.leader() == leader
        for which in range(len(list((tmp_path / leader / "snap").glob("*.snap")))):
            damage(tmp_path / leader / "snap", "*.snap", which)
        await group.start(victim)
        await group.agree()
        assert "did not arrive" in caplog.text
        assert (await group.client.range(b"/", b"0", timeout_s=20)).count == 45


async def test_a_snapshot_from_the_leader_goes_from_file_to_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykube.kv.stored_snapshot.PIECE_BYTES", 10_000)
    monkeypatch.setattr("raykube.kv.snapshotter.ENTRIES_KEPT", 2)
    async with running_group(tmp_path, 3, snapshot_count=10) as group:
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        await group.stop(victim)
        for number in range(30):
            await group.client.write([Put(key=b"/%d" % number, value=b"x" * 50_000, expected_revision=0)])
        node = group.services[leader].member.replica.node
        await until(lambda: node.log.base > 10)
        await group.start(victim)
        await group.agree()
        kept = {path.suffix for path in (tmp_path / victim / "snap").iterdir()}
        assert kept == {".snap"}
        # It is a file like its own: the next start begins with it.
        await group.stop(victim)
        await group.start(victim)
        await group.agree()


async def test_a_single_member_with_a_damaged_log_does_not_start(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        await fill(group, 0, 20)
        await group.stop("m1")
        path = damage(tmp_path / "m1" / "wal", "*.wal")
        with pytest.raises(ValueError, match=r"m1.*is damaged|begin again with a backup") as error:
            await Service(group.configs["m1"]).start()
        assert path.name in str(error.value)
        assert "raykube kv snapshot restore" in str(error.value)
        assert "\n" not in str(error.value)

"""When a member asks for a check, vouches, and stops."""

import pytest

from raykube.kv.core.mvcc.machine import LEVEL, Command, Machine
from raykube.kv.core.prover import CHECK_S, Diverged, Prover
from raykube.kv.core.raft.membership import Member, Membership
from raykube.pb import raft_pb2

MEMBERSHIP = Membership((Member(1), Member(2), Member(3), Member(4, learner=True)))


class Room:
    """One member's prover and machine; what it proposes is applied when the test says so."""

    def __init__(self) -> None:
        self.machine = Machine()
        for member in MEMBERSHIP.ids:
            self.machine.attributes[member] = raft_pb2.Attributes(member_id=member, level=LEVEL)
        self.proposed: list[tuple[Command, bytes]] = []
        self.prover = Prover(1, 0, lambda command, body: self.proposed.append((command, body)))
        self.index = 0
        self.now = 1000.0

    def tick(self, seconds: float = CHECK_S) -> list[Command]:
        """What the leader proposes after so long."""
        self.now += seconds
        self.prover.tick(self.now, self.machine, MEMBERSHIP)
        self.prover.vouch()
        return [command for command, _ in self.proposed]

    def apply(self, command: Command, body: bytes) -> None:
        self.index += 1
        self.prover.on_applied(command, self.machine.apply(command, body, False, self.index), self.index)

    def check(self) -> int:
        """A check is proposed and applied; returns its index."""
        ((command, body),) = self.proposed
        assert command == Command.CHECK
        self.proposed.clear()
        self.apply(command, body)
        return self.index

    def others_vouch(self, digest: int) -> None:
        index = self.machine.vouching.checks[-1].index
        for member in (2, 3):
            self.apply(Command.VOUCH, raft_pb2.Vouch(member=member, index=index, digest=digest).SerializeToString())


def test_a_check_comes_with_news_and_not_too_often() -> None:
    room = Room()
    assert room.tick() == []  # the interval begins with the first tick
    assert room.tick(CHECK_S / 2) == []
    assert room.tick(CHECK_S / 2) == [Command.CHECK]
    room.check()
    ((command, body),) = (room.tick(0), room.proposed)[1]
    assert command == Command.VOUCH
    vouch = raft_pb2.Vouch.FromString(body)
    assert (vouch.member, vouch.index) == (1, 1)
    room.proposed.clear()
    room.others_vouch(vouch.digest)
    assert room.tick() == []  # idle
    room.prover.has_news = True
    assert room.tick(0) == [Command.CHECK]


def test_an_open_check_a_fence_and_a_dispute_want_another() -> None:
    room = Room()
    room.tick()
    room.tick()
    room.check()
    room.tick(0)
    assert room.proposed.pop()[0] == Command.VOUCH  # and it gets lost
    assert room.tick() == [Command.CHECK]
    room.check()
    room.tick(0)
    digest = raft_pb2.Vouch.FromString(room.proposed.pop()[1]).digest
    room.others_vouch(digest)
    room.apply(Command.VOUCH, raft_pb2.Vouch(member=4, index=room.index - 2, digest=digest + 1).SerializeToString())
    assert list(room.machine.vouching.fenced) == [4]
    assert room.tick() == [Command.CHECK]


def test_who_is_not_like_the_quorum_stops_and_knows_since_when() -> None:
    room = Room()
    room.tick()
    room.tick()
    first = room.check()
    room.tick(0)
    room.others_vouch(raft_pb2.Vouch.FromString(room.proposed.pop()[1]).digest)
    room.prover.has_news = True
    room.tick()
    room.check()
    with pytest.raises(Diverged, match=f"entry {room.index} has digest") as stopped:
        room.others_vouch(0xBAD)
    assert stopped.value.sound == first


def test_a_state_from_elsewhere_is_not_judged_by_what_was_computed_before() -> None:
    room = Room()
    room.tick()
    room.tick()
    room.check()
    room.prover.forget(7)
    room.others_vouch(0xBAD)
    assert room.tick(0) == []

"""When a leader's new entries leave: at once, or together when those before them are committed."""

import pytest

from raykube.kv.core.raft.gathering import Gathering
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, Write
from raykube.kv.core.raft.node import Limits, Node

LIMITS = Limits(gathered_bytes_max=100)
NARROW = Limits(gathered_bytes_max=100, message_bytes_max=150, window_messages_max=1)


class Leader:
    """Member 1, which leads; its disk is done when the test says so."""

    def __init__(self, *others: int, limits: Limits = LIMITS) -> None:
        membership = Membership.of(1, *others)
        self.node = Node(1, membership, lambda _: 0, Log(entries=[Entry(1, 1, 0, b"")]), HardState(1, 0, 1), limits)
        self.hold = 0  # the last that began
        self.node.campaign()
        self.finish()
        for kind in (Kind.PRE_VOTE_ANSWER, Kind.VOTE_ANSWER):
            for other in others[: len(membership.voters) // 2]:
                self.node.step(Message(kind, 1, other, 2))
                self.finish()
        assert self.node.is_leader
        for other in others:
            self.answer(other, 2)
        self.finish()
        assert self.node.log.committed == 2

    def turn(self) -> tuple[dict[int, list[list[bytes]]], Write | None]:
        """What leaves now: the entries' data of each message, by receiver; and the write."""
        ready = self.node.ready()
        self.hold = ready.hold or self.hold
        sent: dict[int, list[list[bytes]]] = {}
        for message in ready.messages:
            if message.kind is Kind.APPEND and message.entries:
                sent.setdefault(message.to, []).append([entry.data for entry in message.entries])
        return sent, ready.write

    def finish(self) -> None:
        """Everything that is to be written is."""
        while (write := self.turn()[1]) is not None:
            self.node.persisted(write)

    def round(self, *payloads: bytes) -> None:
        """Each comes as an entry of its own; all are committed."""
        for payload in payloads:
            self.node.propose([payload])
        self.node.let_go(self.hold)
        self.finish()
        for member in self.node.membership.voters - {1}:
            self.answer(member, self.node.log.last)
        assert self.node.log.committed == self.node.log.last
        self.turn()

    def answer(self, member: int, index: int) -> None:
        self.node.step(Message(Kind.APPEND_ANSWER, 1, member, self.node.term, index=index))

    def forwarded(self, member: int, data: bytes) -> None:
        entries = [Entry(0, 0, EntryKind.NORMAL, data)]
        self.node.step(Message(Kind.PROPOSE, 1, member, self.node.term, entries=entries))


def written(write: Write | None) -> list[bytes]:
    return [entry.data for entry in write.entries] if write is not None else []


def test_what_arrives_in_one_turn_leaves_in_one_message_and_one_write() -> None:
    leader = Leader(2, 3)
    leader.forwarded(2, b"a")
    leader.forwarded(3, b"b")
    leader.node.propose([b"c"])
    sent, write = leader.turn()
    assert sent == {2: [[b"a", b"b", b"c"]], 3: [[b"a", b"b", b"c"]]}
    assert written(write) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("disk_is_done", [True, False])
def test_the_next_wait_for_the_commit_and_leave_together(disk_is_done: bool) -> None:
    leader = Leader(2, 3)
    leader.node.propose([b"a"])
    _, write = leader.turn()
    leader.node.propose([b"b"])
    assert leader.turn() == ({}, None)
    if disk_is_done:
        assert write is not None
        leader.node.persisted(write)
    leader.node.propose([b"c"])
    assert written(leader.turn()[1]) == []
    leader.answer(2, 3)
    if not disk_is_done:
        leader.answer(3, 3)  # two of three have it, without this member
    sent, write = leader.turn()
    assert sent == {2: [[b"b", b"c"]], 3: [[b"b", b"c"]]}
    assert written(write) == ([b"b", b"c"] if disk_is_done else [])  # its disk is busy still


def test_much_does_not_wait() -> None:
    leader = Leader(2, 3, limits=NARROW)
    leader.node.propose([b"a"])
    leader.finish()
    leader.node.propose([bytes(60)])
    assert leader.turn()[0] == {}
    leader.node.propose([bytes(60)])
    _, write = leader.turn()
    assert written(write) == [bytes(60), bytes(60)]
    leader.node.propose([b"b"])  # counted from the last that left
    leader.answer(2, 3)
    assert leader.turn()[0] == {2: [[bytes(60)]]}  # a message at a time, and none takes `b` along
    leader.answer(2, 4)
    assert leader.turn()[0] == {2: [[bytes(60)]]}
    leader.node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 2, leader.node.term))
    assert leader.turn()[0] == {}
    leader.answer(2, 5)
    assert write is not None
    leader.node.persisted(write)
    assert leader.turn()[0] == {}  # held for those who asked for the two before it
    assert leader.node.let_go(leader.hold)
    assert leader.turn()[0] == {2: [[b"b"]]}


def test_one_voter_writes_what_came_while_its_disk_worked_at_once() -> None:
    leader = Leader()
    leader.node.propose([b"a"])
    _, write = leader.turn()
    leader.node.propose([b"b"])
    leader.node.propose([b"c"])
    assert leader.turn() == ({}, None)
    assert write is not None
    leader.node.persisted(write)
    assert written(leader.turn()[1]) == [b"b", b"c"]


def test_a_change_of_the_members_does_not_wait_for_a_quorum_that_it_ends() -> None:
    leader = Leader(2)
    leader.node.propose([b"a"])
    leader.finish()
    leader.node.propose([b"b"])
    assert leader.node.propose_membership(leader.node.membership.without(2))
    leader.finish()
    assert leader.node.log.committed == 5


def test_a_transfer_waits_for_no_commit() -> None:
    leader = Leader(2, 3, 4, 5)
    leader.node.propose([b"a"])
    leader.turn()  # its disk hangs
    leader.node.propose([b"b"])
    leader.node.transfer(2)
    assert leader.turn()[0][2] == [[b"b"]]
    leader.answer(2, 4)
    assert [message.kind for message in leader.node.ready().messages if message.to == 2] == [Kind.TIMEOUT_NOW]


def test_what_a_deposed_leader_kept_back_is_forgotten_with_its_term() -> None:
    leader = Leader(2, 3)
    leader.node.propose([b"a"])
    leader.finish()
    leader.node.propose([b"kept back"])
    successor = Message(Kind.APPEND, 1, 2, 3, log_term=2, index=3, entries=[Entry(3, 4, 0, b"")], commit=4)
    leader.node.step(successor)
    _, write = leader.turn()
    assert [(entry.term, entry.index) for entry in (write.entries if write else [])] == [(3, 4)]
    assert write is not None
    leader.node.persisted(write)
    assert leader.node.log.committed == 4


def test_a_busy_leader_waits_for_those_whom_it_just_answered() -> None:
    leader = Leader(2, 3)
    leader.round(b"a" * 4, b"b" * 4, b"c" * 4, b"d" * 4)
    for payload in (b"a" * 4, b"b" * 4):
        leader.forwarded(2, payload)
        assert leader.turn() == ({}, None)
    leader.forwarded(3, b"c" * 4)  # three of four: the last may be late, and waits for the commit
    sent, write = leader.turn()
    assert written(write) == sent[2][0] == [b"a" * 4, b"b" * 4, b"c" * 4]
    leader.forwarded(3, b"d" * 4)
    assert leader.turn()[0] == {}
    leader.answer(2, leader.node.log.last - 1)
    leader.answer(3, leader.node.log.last - 1)
    for payload in (b"a" * 4, b"b" * 4):
        leader.forwarded(2, payload)
        assert leader.turn()[0] == {}
    leader.forwarded(2, b"c" * 4)
    assert leader.turn()[0][2] == [[b"d" * 4, b"a" * 4, b"b" * 4, b"c" * 4]]


def test_a_lone_writer_waits_for_nobody() -> None:
    leader = Leader(2, 3)
    for payload in (b"long" * 10, b"b", b""):
        leader.round(payload)
    assert leader.hold == 0
    leader.node.propose([b"c"])
    assert leader.turn()[0] == {2: [[b"c"]], 3: [[b"c"]]}


def test_who_does_not_come_back_is_waited_for_once() -> None:
    leader = Leader(2, 3)
    leader.round(b"a", b"b")
    first = leader.hold
    leader.node.propose([b""])
    assert leader.turn() == ({}, None)
    assert leader.node.let_go(first)
    assert leader.turn()[0][2] == [[b""]]
    assert not leader.node.let_go(first)
    leader.answer(2, leader.node.log.last)
    leader.finish()
    leader.answer(3, leader.node.log.last)
    leader.round(b"a", b"b")  # the next round is one without a hold
    assert leader.hold == first
    leader.round(b"a", b"b")
    assert leader.hold == first + 1
    assert not leader.node.let_go(first)  # the end of an old one is nothing to the new
    leader.node.propose([b""])
    assert leader.turn() == ({}, None)


@pytest.mark.parametrize("returns", [True, False])
def test_holds_for_nothing_become_rare(returns: bool) -> None:
    gathering, holds = Gathering(1000), 0
    for _ in range(3000):
        gathering.on_round(10, 2)
        hold = gathering.begun()
        if returns:
            gathering.add(8)
            assert gathering.may_leave(is_idle=True)
        elif hold:
            holds += 1
            assert gathering.let_go(hold)
        gathering.leave()
    # 8 while the rounds without one double, 263 of them all together; then one of 257.
    assert holds == (0 if returns else 19)
    gathering.on_round(10, 2)
    assert gathering.begun() == (3001 if returns else 0)


@pytest.mark.parametrize("event", ["a change of the members", "a transfer"])
def test_what_is_urgent_is_not_held(event: str) -> None:
    leader = Leader(2, 3)
    leader.round(b"a" * 10, b"b" * 10)
    leader.node.propose([b"c"])
    assert leader.turn()[0] == {}
    if event == "a transfer":
        leader.node.transfer(2)
    else:
        assert leader.node.propose_membership(leader.node.membership.without(3))
    assert leader.turn()[0][2][0][0] == b"c"


class TestFullDisks:
    """What a leader knows of the others' disks is never older than what it heard."""

    def full(self, leader: Leader, member: int) -> None:
        leader.node.step(Message(Kind.HEARTBEAT_ANSWER, 1, member, leader.node.term, reject=True))

    def test_it_is_known_at_once_and_ends_with_the_member_s_word(self) -> None:
        leader = Leader(2, 3)
        self.full(leader, 3)
        assert leader.node.full_member == 3
        leader.node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 3, leader.node.term))
        assert leader.node.full_member == 0

    def test_who_is_silent_does_not_count(self) -> None:
        leader = Leader(2, 3)
        self.full(leader, 3)
        for _ in range(LIMITS.election_ticks):
            leader.node.tick()
            leader.node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 2, leader.node.term))
        assert leader.node.full_member == 0

    def test_it_ends_with_the_membership(self) -> None:
        leader = Leader(2, 3)
        self.full(leader, 3)
        assert leader.node.propose_membership(leader.node.membership.without(3))
        assert leader.node.full_member == 0

    def test_a_deposed_leader_does_not_remember(self) -> None:
        leader = Leader(2, 3)
        self.full(leader, 2)
        leader.node.step(Message(Kind.APPEND, 1, 3, 3, log_term=2, index=2, commit=2))
        assert leader.node.full_member == 0

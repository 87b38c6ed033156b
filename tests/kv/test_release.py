"""When a leader's new entries leave: at once, or together when those before them are committed."""

import heapq
import random
import statistics
from typing import Any

import pytest

from raykube.kv.core.raft.gathering import HOLD_ROUNDS, HOLD_ROUNDS_MAX, HOLD_S_MAX, PRICE, Gathering, hold_s
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Member, Membership
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
    leader.node.propose([b"aaaa"])
    _, write = leader.turn()
    leader.node.propose([b"bbbb"])
    assert leader.turn() == ({}, None)
    if disk_is_done:
        assert write is not None
        leader.node.persisted(write)
    leader.node.propose([b"cccc"])
    assert written(leader.turn()[1]) == []
    leader.answer(2, 3)
    if not disk_is_done:
        leader.answer(3, 3)  # two of three have it, without this member
    assert leader.turn() == ({}, None)  # held for who asked for the first one
    assert leader.node.let_go(leader.hold)
    sent, write = leader.turn()
    assert sent == {2: [[b"bbbb", b"cccc"]], 3: [[b"bbbb", b"cccc"]]}
    assert written(write) == ([b"bbbb", b"cccc"] if disk_is_done else [])  # its disk is busy still


def told(leader: Leader, *, with_news: bool = True) -> list[tuple[int, int]]:
    """Who hears of which commit now."""
    ready = leader.node.ready(with_news=with_news)
    leader.hold = ready.hold or leader.hold
    return [(message.to, message.commit) for message in ready.messages if message.kind is Kind.COMMIT]


@pytest.mark.parametrize("is_awaited", [False, True])
def test_what_changes_nothing_for_others_makes_no_work(is_awaited: bool) -> None:
    leader = Leader(2, 3)
    node = leader.node
    told(leader)
    assert not node.has_work and not node.has_news
    if is_awaited:
        leader.forwarded(3, b"a")
    else:
        node.propose([b"a"])
    assert node.has_work, "it is to be written and sent"
    _, write = leader.turn()
    assert write is not None and not node.has_work
    node.propose([b"b"])
    assert not node.has_work, "it waits for the first"
    node.persisted(write)
    assert not node.has_work, "nobody else has the first"
    leader.answer(2, 3)
    assert node.has_work, "it is committed"
    assert told(leader, with_news=False) == []
    assert not node.has_work
    leader.answer(3, 3)
    assert node.has_work == is_awaited and node.has_news
    assert told(leader, with_news=False) == ([(3, 3)] if is_awaited else [])
    assert not node.has_work and node.has_news, "member 2 is to be told, when there is time"
    assert told(leader) == ([(2, 3)] if is_awaited else [(2, 3), (3, 3)])
    assert not node.has_news
    assert node.let_go(leader.hold) and node.has_work, "what waited may leave"


def test_entries_say_the_same_as_news_before_them() -> None:
    leader = Leader(2, 3)
    told(leader)
    leader.node.propose([b"a"])
    leader.finish()
    leader.answer(2, 3)
    leader.answer(3, 3)
    assert leader.node.has_news
    leader.node.propose([b"b"])
    assert told(leader) == []
    assert not leader.node.has_news


def test_a_hold_is_told_of_though_the_leader_s_own_disk_is_busy() -> None:
    leader = Leader(2, 3)
    told(leader)
    leader.node.propose([b"a"])
    leader.turn()
    leader.node.propose([b"b"])
    leader.answer(2, 3)
    leader.answer(3, 3)
    assert leader.node.log.committed == 3 and not leader.node.log.has_to_hand
    assert leader.node.has_work
    before = leader.hold
    told(leader)
    assert leader.hold > before


def test_what_is_not_committed_is_no_news() -> None:
    leader = Leader(2, 3, 4, 5)
    told(leader)
    leader.node.propose([b"a"])
    leader.turn()
    leader.answer(2, 3)
    assert not leader.node.has_news
    leader.answer(3, 3)
    assert not leader.node.has_news, "this member's own disk is not done"
    leader.answer(4, 3)
    assert leader.node.has_news


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


def test_one_voter_writes_what_came_while_its_disk_worked_together() -> None:
    leader = Leader()
    leader.node.propose([b"aaaa"])
    _, write = leader.turn()
    leader.node.propose([b"bbbb"])
    assert leader.turn() == ({}, None)
    assert write is not None
    leader.node.persisted(write)
    assert leader.turn() == ({}, None)
    leader.node.propose([b"cccc"])  # who asked for the first one
    assert written(leader.turn()[1]) == [b"bbbb", b"cccc"]


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
    leader, all_eight = Leader(2, 3), [b"aaaa"] * 8
    leader.round(*all_eight)
    for _ in range(7):
        leader.forwarded(2, b"aaaa")
        assert leader.turn() == ({}, None)
    leader.forwarded(3, b"aaaa")
    sent, write = leader.turn()
    assert sent[3] == [written(write)] == [all_eight]
    leader.forwarded(3, b"bbbb")  # a ninth one, who is waited for from now on
    assert leader.turn()[0] == {}
    assert write is not None
    leader.node.persisted(write)
    leader.answer(2, leader.node.log.last - 1)
    for _ in range(8):
        assert leader.turn()[0] == {}
        leader.forwarded(2, b"aaaa")
    assert leader.turn()[0][2] == [[b"bbbb", *all_eight]]


def test_a_lone_writer_waits_for_nobody() -> None:
    leader = Leader(2, 3)
    for payload in (b"long" * 10, b"b", b""):
        leader.round(payload)
    assert leader.hold == 0
    leader.node.propose([b"c"])
    assert leader.turn()[0] == {2: [[b"c"]], 3: [[b"c"]]}


def test_a_hold_ends_by_the_clock() -> None:
    leader = Leader(2, 3)
    leader.round(b"aaaa", b"bbbb")
    first = leader.hold
    leader.node.propose([b"c"])
    assert leader.turn() == ({}, None)
    assert leader.node.let_go(first)
    assert leader.turn()[0][2] == [[b"c"]]
    assert not leader.node.let_go(first)
    for _ in range(PRICE):
        leader.finish()
        leader.answer(2, leader.node.log.last)
        leader.answer(3, leader.node.log.last)
        leader.round(b"aaaa", b"bbbb")
        assert leader.hold == first
    leader.round(b"aaaa", b"bbbb")
    assert leader.hold == first + 1
    assert not leader.node.let_go(first)  # the end of an old one is nothing to the new
    leader.node.propose([b"c"])
    assert leader.turn() == ({}, None)


def test_a_round_begins_when_its_entries_leave_also_while_the_leaders_own_disk_is_busy() -> None:
    leader = Leader(2, 3)
    assert not leader.node.ready().has_left
    leader.node.propose([b"a"])
    first = leader.node.ready()
    assert first.has_left
    assert first.write is not None
    leader.node.propose([b"b"])
    assert not leader.node.ready().has_left
    for member in (2, 3):
        leader.answer(member, leader.node.log.last - 1)
    leader.node.let_go(leader.node.ready().hold)
    second = leader.node.ready()
    assert second.has_left
    assert second.write is None
    assert not leader.node.ready().has_left


ROUND_S = 0.001


class Load:
    """Clients of a group whose rounds take `ROUND_S`: `closed` ones, who ask again some time of `returns_s` after an
    answer and begin within `starts_s`, and those who ask `rate` times a second, whatever happens. At `cut_at`, a hold
    is let go before it could be fulfilled."""

    def __init__(
        self,
        closed: int,
        rate: float,
        returns_s: tuple[float, float] = (0.0002, 0.0006),
        starts_s: float = 0.001,
        cut_at: float = 1e9,
    ) -> None:
        self._returns_s = returns_s
        self._cut_at = cut_at
        self.rounds: list[int] = []  # requests in each
        self.fruitless = 0
        self.latencies_s: dict[bool, list[float]] = {True: [], False: []}  # by whether the client is a closed one
        self._draw = random.Random(7)
        self._gathering = Gathering(1 << 20)
        self._events: list[tuple[float, int, str, Any]] = []
        self._waiting: list[tuple[float, bool]] = []
        self._under_way: list[tuple[float, bool]] = []
        self._rate = rate
        for _ in range(closed):
            self._at(self._draw.random() * starts_s, "ask", True)
        if rate:
            self._at(0, "ask", False)

    def _at(self, when: float, kind: str, what: Any) -> None:
        heapq.heappush(self._events, (when, len(self._events) + self._draw.randrange(1 << 40), kind, what))

    def run(self, seconds: float) -> "Load":
        now = 0.0
        while now < seconds:
            now, _, kind, what = heapq.heappop(self._events)
            if kind == "ask":
                self._ask(now, what)
            elif kind == "let go":
                self.fruitless += self._gathering.let_go(what)
            else:
                self._commit(now)
            if self._waiting and not self._under_way and self._gathering.may_leave(is_idle=True):
                self._gathering.leave()
                self._under_way, self._waiting = self._waiting, []
                self.rounds.append(len(self._under_way))
                self._at(now + ROUND_S, "commit", None)
        return self

    def _ask(self, now: float, is_closed: bool) -> None:
        self._gathering.add(100)
        self._waiting.append((now, is_closed))
        if not is_closed:
            self._at(now + self._draw.expovariate(self._rate), "ask", False)

    def _commit(self, now: float) -> None:
        done, self._under_way = self._under_way, []
        self._gathering.on_commit(100 * len(done), len(done) + len(self._waiting))
        hold, rounds = self._gathering.begun()
        if hold:
            is_cut = now > self._cut_at
            self._at(now if is_cut else now + hold_s(rounds, ROUND_S), "let go", hold)
            self._cut_at = 1e9 if is_cut else self._cut_at
        for asked_at, is_closed in done:
            self.latencies_s[is_closed].append(now - asked_at)
            if is_closed:
                self._at(now + self._draw.uniform(*self._returns_s), "ask", True)


@pytest.mark.parametrize("closed", [2, 4, 16, 100])
def test_clients_who_wait_for_answers_share_a_round(closed: int) -> None:
    load = Load(closed, 0).run(2)
    assert statistics.mean(load.rounds) > 0.9 * closed
    assert load.fruitless == 0


@pytest.mark.parametrize("returns_s", [(0.0005, 0.0015), (0.0005, 0.0025)])
@pytest.mark.parametrize("closed", [4, 16, 64])
def test_clients_who_parted_find_each_other_again(closed: int, returns_s: tuple[float, float]) -> None:
    load = Load(closed, 0, returns_s, starts_s=0.1, cut_at=1.0).run(6)
    assert load.fruitless
    assert statistics.mean(load.rounds[len(load.rounds) // 2 :]) > 0.9 * closed


def test_a_hold_may_last_the_longer_the_more_were_good() -> None:
    gathering = Gathering(1 << 20)
    granted = []
    for _ in range(2 * PRICE):
        gathering.add(100)
        gathering.leave()
        gathering.on_commit(100, 2)
        _, rounds = gathering.begun()
        granted.append(rounds)
        gathering.add(100)
        assert gathering.may_leave(is_idle=True)
        gathering.leave()
        gathering.on_commit(100, 1)
        assert gathering.begun() == (0, 0.0)
    assert granted[0] == HOLD_ROUNDS
    assert granted == sorted(granted)
    assert granted[-1] == HOLD_ROUNDS_MAX
    gathering.on_commit(100, 2)
    assert gathering.let_go(gathering.begun()[0])
    gathering.on_commit(100, 2)
    assert gathering.begun()[1] < HOLD_ROUNDS_MAX
    assert hold_s(HOLD_ROUNDS, 0.001) == pytest.approx(0.001 * HOLD_ROUNDS)
    assert hold_s(HOLD_ROUNDS_MAX, 60) == HOLD_S_MAX


@pytest.mark.parametrize("closed", [0, 1])
@pytest.mark.parametrize("rate", [10, 100, 300, 1000, 2000, 3000, 5000, 20_000])
def test_who_does_not_wait_meets_few_holds(closed: int, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(closed, rate).run(20)
    monkeypatch.setattr(Gathering, "on_commit", lambda *_: None)
    free = Load(closed, rate).run(20)
    for is_closed, found in load.latencies_s.items():
        if found:
            expected = free.latencies_s[is_closed]
            assert statistics.mean(found) < 1.03 * statistics.mean(expected)
            assert statistics.quantiles(found, n=50)[-1] < 1.1 * statistics.quantiles(expected, n=50)[-1]


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

    def test_a_learner_s_is_its_own_until_it_votes(self) -> None:
        """Otherwise a member that is added where the disk is full would stop a group that lacks nothing."""
        leader = Leader(2, 3)
        leader.node.propose_membership(leader.node.membership.put(Member(4, learner=True)))
        self.full(leader, 4)
        assert leader.node.full_member == 0
        self.full(leader, 3)
        assert leader.node.full_member == 3

    def test_a_deposed_leader_does_not_remember(self) -> None:
        leader = Leader(2, 3)
        self.full(leader, 2)
        leader.node.step(Message(Kind.APPEND, 1, 3, 3, log_term=2, index=2, commit=2))
        assert leader.node.full_member == 0

"""What a replica goes on to do without any other event: it says so, and nothing else would wake its member for it."""

import itertools

from raykube.kv.core.mvcc.machine import Command, Machine, encode
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, Kind, Message
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import READ_RETRY_TICKS, Replica
from raykube.pb import etcd_pb2, raft_pb2

LEADER, OWN, OTHER, TERM = 1, 2, 3, 5


class Follower:
    """A replica that hears its leader; what it asks of it, and whom it lets read. No time goes by."""

    def __init__(self, limits: Limits | None = None) -> None:
        ids = itertools.count(100)
        node = Node(OWN, Membership.of(LEADER, OWN, OTHER), lambda _: 0, limits=limits or Limits())
        self.replica = Replica(node, Machine(), lambda: next(ids))
        self.asked: list[int] = []  # contexts of read-index questions
        self.proposed: list[tuple[int, int]] = []  # term and bytes of what it passes on
        self.released: list[int] = []
        self.hear(Message(Kind.HEARTBEAT, OWN, LEADER, TERM))

    def hear(self, message: Message) -> None:
        self.replica.step(message)
        self.work()

    def ticks(self, count: int) -> None:
        """So many ticks, in each of which the leader is heard of."""
        for _ in range(count):
            self.replica.tick(0.0)
            self.hear(Message(Kind.HEARTBEAT, OWN, LEADER, TERM))

    def read(self, reader: int) -> None:
        self.replica.read(reader)
        self.work()

    def answered(self, context: int) -> None:
        self.hear(Message(Kind.READ_INDEX_ANSWER, OWN, LEADER, TERM, context=context))

    def appended(self, *data: bytes, term: int = TERM, leader: int = LEADER) -> None:
        """The next entries, committed."""
        log = self.replica.node.log
        previous, previous_term = log.last, log.last_term
        entries = [Entry(term, previous + number, EntryKind.NORMAL, each) for number, each in enumerate(data, 1)]
        self.hear(
            Message(
                *(Kind.APPEND, OWN, leader, term),
                log_term=previous_term,
                index=previous,
                entries=entries,
                commit=previous + len(entries),
            )
        )

    def work(self) -> None:
        """As a member does when something came."""
        for _ in range(20):
            output = self.replica.ready()
            for message in output.messages:
                if message.kind is Kind.READ_INDEX:
                    self.asked.append(message.context)
                elif message.kind is Kind.PROPOSE:
                    self.proposed.append((message.term, sum(len(entry.data) for entry in message.entries)))
            applied = self.replica.apply()
            self.released += applied.readers
            if output.write is not None:
                self.replica.persisted(output.write)
            elif not applied.may_have_more:
                return
        raise AssertionError("it turns for ever")


def put(key: bytes) -> bytes:
    return encode(1, Command.PUT, etcd_pb2.PutRequest(key=key, value=b"v" * 50).SerializeToString())


def test_readers_who_came_during_a_round_get_the_next() -> None:
    follower = Follower()
    follower.read(1)
    assert len(follower.asked) == 1
    follower.read(2)
    follower.read(3)
    assert len(follower.asked) == 1
    follower.answered(follower.asked[0])
    assert follower.released == [1]
    assert len(follower.asked) == 2
    follower.answered(follower.asked[1])
    assert follower.released == [1, 2, 3]
    assert len(follower.asked) == 2


def test_an_answer_counts_however_long_its_way_was() -> None:
    follower = Follower()
    follower.read(1)
    follower.ticks(READ_RETRY_TICKS - 1)
    follower.read(2)
    follower.ticks(1)
    assert len(follower.asked) == 2
    follower.ticks(READ_RETRY_TICKS)
    assert len(follower.asked) == 3
    follower.answered(follower.asked[0])
    assert follower.released == [1], "the other one came after it was asked"
    follower.answered(follower.asked[0])
    follower.answered(follower.asked[1])
    assert follower.released == [1, 2]
    follower.ticks(2 * READ_RETRY_TICKS)
    assert len(follower.asked) <= 4


def test_the_answer_to_a_later_question_is_for_all_who_asked_before() -> None:
    follower = Follower()
    follower.read(1)
    follower.ticks(READ_RETRY_TICKS)
    follower.answered(follower.asked[1])
    assert follower.released == [1]
    follower.read(2)
    follower.answered(follower.asked[0])
    assert follower.released == [1], "it was asked before the second reader came"


def test_nobody_asks_for_readers_who_have_gone() -> None:
    follower = Follower()
    follower.read(1)
    follower.replica.forget_reader(1)
    follower.ticks(3 * READ_RETRY_TICKS)
    assert len(follower.asked) == 1


def test_requests_that_were_given_up_without_a_leader_leave_nothing() -> None:
    follower = Follower()
    follower.replica.node.on_peer_lost(LEADER)
    follower.replica.propose(1, Command.PUT, b"x")
    for request in range(2, 10_000):
        follower.replica.propose(request, Command.PUT, b"x")
        assert follower.replica.forget(request)
    assert len(follower.replica._unbound) < 2000
    follower.hear(Message(Kind.HEARTBEAT, OWN, LEADER, TERM))
    assert follower.proposed == [(TERM, len(encode(1, Command.PUT, b"x")))]


def test_readers_without_a_leader_wait_for_one() -> None:
    follower = Follower()
    follower.read(1)
    follower.read(2)
    follower.replica.node.on_peer_lost(LEADER)
    follower.answered(follower.asked[0])
    assert follower.released == [1]
    assert len(follower.asked) == 1
    follower.hear(Message(Kind.HEARTBEAT, OWN, LEADER, TERM))
    assert len(follower.asked) == 2


def test_what_is_committed_is_applied_to_its_end() -> None:
    follower = Follower(Limits(apply_bytes_max=60))
    follower.appended(put(b"/a"), put(b"/b"), put(b"/c"))
    assert follower.replica.applied == follower.replica.node.log.last == 3
    assert follower.replica.machine.store.get(b"/c") is not None


def test_what_was_lost_with_a_term_is_proposed_again() -> None:
    follower = Follower()
    body = etcd_pb2.PutRequest(key=b"/a").SerializeToString()
    follower.replica.propose(7, Command.PUT, body)
    follower.work()
    size = len(encode(7, Command.PUT, body))
    assert follower.proposed == [(TERM, size)]
    follower.appended(b"", term=TERM + 1, leader=OTHER)
    assert follower.proposed == [(TERM, size), (TERM + 1, size)]


def test_a_check_is_vouched_for() -> None:
    follower = Follower()
    check = raft_pb2.Check(voters=[LEADER, OWN, OTHER]).SerializeToString()
    follower.appended(encode(9, Command.CHECK, check))
    assert [term for term, _ in follower.proposed] == [TERM]

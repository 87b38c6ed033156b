"""A leader and its followers' windows: bounded in messages and bytes, opened again after losses, shut for the dead."""

from dataclasses import replace

import pytest

from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, Snapshot
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.raft.progress import Sending

LIMITS = Limits(message_bytes_max=100, window_messages_max=100, window_bytes_max=1000, gathered_bytes_max=0)


def leader(entries: int = 0) -> Node:
    """Member 1 of three, elected with the vote of member 2."""
    log = Log(entries=[Entry(1, index, 0, b"") for index in range(1, entries + 1)])
    node = Node(1, Membership.of(1, 2, 3), lambda _: 0, log, HardState(1, 0, entries), LIMITS)
    node.campaign()
    node.step(Message(Kind.PRE_VOTE_ANSWER, 1, 2, 2))
    take(node)
    node.step(Message(Kind.VOTE_ANSWER, 1, 2, 2))
    assert node.is_leader
    take(node)
    return node


def take(node: Node) -> list[Message]:
    """What the node sends, with a disk that is always done."""
    messages = []
    while True:
        ready = node.ready()
        node.let_go(ready.hold)
        messages += ready.messages
        if ready.write is None:
            return messages
        node.persisted(ready.write)
        messages += ready.write.messages


def sent(node: Node, to: int) -> list[Message]:
    return [message for message in take(node) if message.to == to and message.kind is Kind.APPEND]


def answer(node: Node, sender: int, index: int) -> None:
    node.step(Message(Kind.APPEND_ANSWER, 1, sender, node.term, index=index))


def test_a_window_is_bounded_in_bytes() -> None:
    node = leader()
    answer(node, 2, 1)
    take(node)
    for _ in range(50):
        assert node.propose([bytes(90)])
    first = sent(node, 2)
    assert sum(len(entry.data) for message in first for entry in message.entries) <= 1000 + 90
    assert len(first) < 50
    answer(node, 2, first[-1].entries[-1].index)
    second = sent(node, 2)
    assert second[0].entries[0].index == first[-1].entries[-1].index + 1
    assert len(second) == len(first)


def test_one_large_message_goes_alone() -> None:
    node = leader()
    answer(node, 2, 1)
    take(node)
    node.propose([bytes(5000)])
    node.propose([b"behind it"])
    assert [len(message.entries) for message in sent(node, 2)] == [1]
    answer(node, 2, 2)
    assert [entry.data for message in sent(node, 2) for entry in message.entries] == [b"behind it"]


def test_a_lost_answer_does_not_shut_the_window_for_ever() -> None:
    node = leader()
    answer(node, 2, 1)
    take(node)
    for _ in range(50):
        node.propose([bytes(90)])
    before = sent(node, 2)
    node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 2, node.term))
    after = sent(node, 2)
    assert after[0].entries[0].index == before[-1].entries[-1].index + 1


def test_readers_do_not_open_a_window() -> None:
    node = leader()
    answer(node, 2, 1)
    answer(node, 3, 1)
    take(node)
    for _ in range(50):
        node.propose([bytes(90)])
    last = sent(node, 3)[-1].entries[-1].index
    for context in range(1, 30):
        node.read_index(context)
        take(node)
        for member in (2, 3):
            node.step(Message(Kind.HEARTBEAT_ANSWER, 1, member, node.term, context=context))
        assert sent(node, 3) == [], "the disk of this one stands still: it would hold all that its leader writes"
    node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 3, node.term, context=29))
    assert sent(node, 3)[0].entries[0].index == last + 1


@pytest.mark.parametrize("reason", ["learner", "lacking"])
def test_who_cannot_be_elected_does_not_believe_in_a_silent_leader_for_ever(reason: str) -> None:
    log = Log(entries=[Entry(1, 1, 0, b"")])
    if reason == "lacking":
        log.answers_for = (1, 9)
    membership = Membership.of(1, 2, 3)
    if reason == "learner":
        membership = Membership(tuple(replace(each, learner=each.id == 3) for each in membership.members))
    node = Node(3, membership, lambda _: 0, log, HardState(1, 0, 1), LIMITS)
    node.step(Message(Kind.HEARTBEAT, 3, 1, 1))
    assert node.leader == 1
    for _ in range(2 * LIMITS.election_ticks):
        node.tick()
    assert node.leader == 0
    node.step(Message(Kind.HEARTBEAT, 3, 1, 1))
    assert node.leader == 1


def test_a_dead_follower_far_behind_gets_no_snapshot_and_holds_nobody_up() -> None:
    node = leader(entries=20)
    answer(node, 2, 21)
    take(node)
    node.on_snapshot_saved(node.snapshot.__class__(21, node.term, node.membership), 0)
    node.step(Message(Kind.APPEND_ANSWER, 1, 3, node.term, index=20, reject=True, hint=0))
    assert [message.kind for message in take(node) if message.to == 3] == [Kind.SNAPSHOT]
    node.on_snapshot_sent(3, False)
    for _ in range(2 * LIMITS.election_ticks):
        node.tick()
        node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 2, node.term))
    node.progress[3].is_probe_sent = False
    node.propose([b"x"])  # returns
    messages = take(node)
    assert not [message for message in messages if message.to == 3 and message.kind is Kind.SNAPSHOT]
    node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 3, node.term))
    assert [message.kind for message in take(node) if message.to == 3] == [Kind.SNAPSHOT]
    assert node.progress[3].sending is Sending.SNAPSHOT


def test_the_heir_is_the_most_advanced_voter_that_answers() -> None:
    node = leader()
    assert node.heir() == 0  # nobody answered yet
    assert node.alive() == {1}
    answer(node, 3, 1)
    assert node.heir() == 3
    node.propose([b"x"])
    answer(node, 2, 2)
    assert node.heir() == 2
    for _ in range(LIMITS.election_ticks):
        node.tick()
        node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 3, node.term))
    assert node.alive() == {1, 3}
    assert node.heir() == 3


def test_late_and_foreign_answers_never_move_a_match_back() -> None:
    node = leader()
    for number in range(4):
        node.propose([b"%d" % number])
    take(node)
    answer(node, 2, 4)
    assert node.progress[2].match == 4
    assert node.log.committed == 4
    answer(node, 2, 2)
    node.step(Message(Kind.APPEND_ANSWER, 1, 2, node.term, index=3, reject=True, hint=1))
    assert node.progress[2].match == 4
    # An answer given in another term is no answer to this leader, nor is one of a stranger.
    node.step(Message(Kind.APPEND_ANSWER, 1, 3, node.term - 1, index=5))
    answer(node, 9, 5)
    assert node.progress[3].match == 0
    assert node.log.committed == 4


def test_a_log_does_not_grow_without_a_quorum() -> None:
    log = Log(entries=[Entry(1, 1, 0, b"")])
    limits = Limits(uncommitted_bytes_max=1000)
    node = Node(1, Membership.of(1, 2, 3), lambda _: 0, log, HardState(1, 0, 1), limits)
    node.campaign()
    node.step(Message(Kind.PRE_VOTE_ANSWER, 1, 2, 2))
    take(node)
    node.step(Message(Kind.VOTE_ANSWER, 1, 2, 2))
    take(node)
    assert node.propose([bytes(900)])
    assert not node.propose([bytes(200)])
    answer(node, 2, node.log.last)
    take(node)
    assert node.propose([bytes(200)])


def test_no_proposals_while_leadership_is_handed_over() -> None:
    node = leader()
    answer(node, 2, 1)
    take(node)
    node.transfer(2)
    assert not node.propose([b"lost if it were taken"])
    node.step(Message(Kind.PROPOSE, 1, 3, node.term, entries=[Entry(0, 0, 0, b"also")]))
    node.step(Message(Kind.PROPOSE, 1, 3, node.term, entries=[Entry(0, 0, 0, b"and this")]))
    assert node.log.last == 1
    for _ in range(LIMITS.election_ticks):
        node.tick()
        node.step(Message(Kind.HEARTBEAT_ANSWER, 1, 2, node.term))
    # It did not take over. Who asked from elsewhere will not ask again in this term.
    assert [entry.data for entry in node.log.entries[1:]] == [b"also", b"and this"]
    assert node.progress[3].awaited == node.log.last
    assert node.propose([b"more"])


def test_proposals_of_others_wait_for_room_and_so_many_only() -> None:
    node = leader()
    node.limits = Limits(uncommitted_bytes_max=2000)
    answer(node, 2, 1)
    take(node)
    assert node.propose([bytes(1900)])
    for size in (200, 300, 1000):
        node.step(Message(Kind.PROPOSE, 1, 3, node.term, entries=[Entry(0, 0, 0, bytes(size))]))
    take(node)
    answer(node, 2, node.log.last)
    node.tick()
    assert [len(entry.data) for entry in node.log.entries[1:]] == [1900, 200, 300]
    node.step(Message(Kind.PROPOSE, 1, 3, node.term, entries=[Entry(0, 0, 0, bytes(1800))]))
    node.step(Message(Kind.HEARTBEAT, 1, 2, node.term + 1))
    node.tick()
    assert len(node.log.entries) == 4, "what waited at a leader is lost with its term, and asked for again"


def test_a_joiner_that_never_heard_of_a_commit_may_come_to_lead() -> None:
    """It has all of the log, and before the founders' entry there was no membership whose quorum could count."""
    founding = Entry(1, 1, EntryKind.CONFIG, Membership.of(1, 2, 3).encode())
    log = Log(entries=[founding, Entry(1, 2, 0, b"x")])
    node = Node(1, Membership(), lambda _: 0, log, HardState(1, 0, 0), LIMITS)
    node.campaign()
    node.step(Message(Kind.PRE_VOTE_ANSWER, 1, 2, 2))
    take(node)
    node.step(Message(Kind.VOTE_ANSWER, 1, 2, 2))
    take(node)
    assert node.log.committed == 0
    answer(node, 3, 3)
    assert node.log.committed == 3


def ask(node: Node, sender: int) -> list[tuple[Kind, int]]:
    """What the node tells `sender` when readers there ask: kinds of messages and an answer's index."""
    node.step(Message(Kind.READ_INDEX, node.id, sender, node.term, context=7))
    return [(message.kind, message.index) for message in take(node) if message.to == sender]


def test_a_follower_whose_readers_wait_hears_of_the_commit_at_once() -> None:
    node = leader()
    for member in (2, 3):
        answer(node, member, 1)
    take(node)
    for index, is_awaited in ((2, True), (3, False)):
        assert node.propose([b"a"])
        take(node)
        answer(node, 3, index)
        if is_awaited:
            assert ask(node, 2) == [(Kind.READ_INDEX_ANSWER, index)]
        take(node)
        answer(node, 2, index)
        told = [message for message in node.ready(with_news=False).messages if message.kind is Kind.COMMIT]
        assert [(message.to, message.commit) for message in told] == ([(2, index)] if is_awaited else [])


def test_whose_question_will_do() -> None:
    """A follower's that is a quorum with its leader, once that knows what is committed. For others there is a round."""
    a_round = [(Kind.HEARTBEAT, 0)]
    node = leader()
    assert ask(node, 2) == [], "not before an entry of its own term is committed"
    answer(node, 2, 1)
    assert a_round[0] in [(message.kind, message.index) for message in take(node)]
    assert ask(node, 2) == [(Kind.READ_INDEX_ANSWER, 1)]
    assert node.propose_membership(Membership.of(1, 2, 3, 4))
    take(node)
    assert ask(node, 2) == a_round, "two of four"


def test_a_question_of_a_member_that_was_removed() -> None:
    node = leader()
    answer(node, 2, 1)
    take(node)
    assert node.propose_membership(Membership.of(1, 2))
    take(node)
    answer(node, 2, 2)
    take(node)
    assert ask(node, 2) == [(Kind.READ_INDEX_ANSWER, 2)], "both of two"
    assert node.propose_membership(Membership.of(1))
    take(node)
    assert ask(node, 2) == [(Kind.READ_INDEX_ANSWER, 3)], "the one that is left decides alone"


def follower(log: Log) -> Node:
    return Node(2, Membership.of(1, 2, 3), lambda _: 0, log, HardState(1, 0, log.committed), LIMITS)


def append(index: int, log_term: int, terms: list[int]) -> Message:
    """From a leader of term 2: entries behind `index`, of these terms."""
    entries = [Entry(term, index + 1 + offset, EntryKind.NORMAL, b"") for offset, term in enumerate(terms)]
    return Message(Kind.APPEND, 2, 1, 2, index=index, log_term=log_term, entries=entries)


def snapshot(index: int, term: int) -> Message:
    return Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(index, term, Membership.of(1, 2, 3)))


@pytest.mark.parametrize(
    ("index", "log_term", "terms"), [(1, 1, [2]), (1, 1, [1, 2]), (2, 2, []), (3, 2, []), (3, 2, [2])]
)
def test_a_leader_that_lacks_what_is_committed_is_not_followed(index: int, log_term: int, terms: list[int]) -> None:
    node = follower(Log(entries=[Entry(1, i, EntryKind.NORMAL, b"") for i in (1, 2, 3)], commit=3))
    with pytest.raises(AssertionError, match="of term 1 or before, and the leader has one of term 2"):
        node.step(append(index, log_term, terms))


@pytest.mark.parametrize("message", [append(4, 1, [2]), append(4, 2, []), snapshot(4, 2), snapshot(11, 2)])
def test_nor_is_it_where_this_log_is_compacted(message: Message) -> None:
    node = follower(Log(10, 1, [Entry(1, 11, EntryKind.NORMAL, b"")], commit=11))
    with pytest.raises(AssertionError, match="of term 1 or before, and the leader has one of term 2"):
        node.step(message)


@pytest.mark.parametrize("message", [append(4, 1, [1]), append(10, 1, [1]), snapshot(4, 1), snapshot(11, 1)])
def test_what_is_old_and_agrees_is_acknowledged(message: Message) -> None:
    node = follower(Log(10, 1, [Entry(1, 11, EntryKind.NORMAL, b"")], commit=11))
    node.step(message)
    assert [(m.kind, m.index, m.reject) for m in take(node)] == [(Kind.APPEND_ANSWER, 11, False)]


def test_a_late_message_with_what_is_committed_is_acknowledged() -> None:
    node = follower(Log(1, 1, [Entry(1, i, EntryKind.NORMAL, b"") for i in (2, 3)], commit=3))
    node.step(append(0, 0, [1, 1]))
    assert [(m.kind, m.index, m.reject) for m in take(node)] == [(Kind.APPEND_ANSWER, 3, False)]

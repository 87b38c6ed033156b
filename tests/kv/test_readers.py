"""Those who read at one member share rounds; who comes while one runs gets the next."""

import itertools

from raykube.kv.core.mvcc.machine import Machine
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import Replica

LEADER, OWN, TERM = 1, 2, 5


class Follower:
    """A replica that hears its leader, and what it asks of it and whom it lets read. No time goes by."""

    def __init__(self) -> None:
        ids = itertools.count(100)
        node = Node(OWN, Membership.of(LEADER, OWN, 3), lambda _: 0, limits=Limits())
        self.replica = Replica(node, Machine(), lambda: next(ids))
        self.asked: list[int] = []
        self.released: list[int] = []
        self.hear(Message(Kind.HEARTBEAT, OWN, LEADER, TERM))

    def hear(self, message: Message) -> None:
        self.replica.step(message)
        self.work()

    def read(self, reader: int) -> None:
        self.replica.read(reader)
        self.work()

    def answered(self, context: int) -> None:
        self.hear(Message(Kind.READ_INDEX_ANSWER, OWN, LEADER, TERM, context=context))

    def work(self) -> None:
        """As a member does when something came."""
        may_have_more = True
        while may_have_more:
            output = self.replica.ready()
            self.asked += [message.context for message in output.messages if message.kind is Kind.READ_INDEX]
            applied = self.replica.apply()
            self.released += applied.readers
            may_have_more = applied.may_have_more
            if output.write is not None:
                self.replica.persisted(output.write)
                may_have_more = True


def test_who_comes_while_a_round_runs_gets_the_next_without_any_other_event() -> None:
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


def test_without_a_leader_readers_wait_and_nothing_turns() -> None:
    follower = Follower()
    follower.read(1)
    follower.read(2)
    follower.hear(Message(Kind.VOTE, OWN, 3, TERM + 1, force=True))  # of another term: nobody leads it yet
    assert follower.replica.node.leader == 0
    follower.answered(follower.asked[0])
    assert follower.released == []
    follower.hear(Message(Kind.HEARTBEAT, OWN, 3, TERM + 1))
    assert follower.replica.node.leader == 3

"""A member that stood still, and whose leader perhaps did too."""

from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Kind, Message
from raykube.kv.core.raft.node import Limits, Node, Role

TICKS = 10


def follower() -> Node:
    """Member 1, whose time-out is the shortest there is, just when it heard of its leader."""
    node = Node(1, Membership.of(1, 2, 3), lambda _: 0, limits=Limits(election_ticks=TICKS))
    hear(node)
    return node


def hear(node: Node) -> None:
    node.step(Message(Kind.HEARTBEAT, 1, 2, 1))
    assert node.leader == 2


def ticks_until_it_campaigns(node: Node) -> int:
    for number in range(1, 3 * TICKS):
        node.tick()
        if node.role is not Role.FOLLOWER:
            return number
    raise AssertionError("it never does")


def test_it_waits_a_whole_time_out_before_it_campaigns() -> None:
    node = follower()
    for _ in range(TICKS - 1):
        node.tick()
    node.on_stalled(TICKS)
    assert ticks_until_it_campaigns(node) == TICKS


def test_it_is_excused_once_until_it_hears_of_a_leader() -> None:
    node = follower()
    for _ in range(2):
        for _ in range(TICKS // 2):
            node.tick()
        node.on_stalled(TICKS)
    assert ticks_until_it_campaigns(node) == TICKS // 2
    node = follower()
    node.on_stalled(TICKS)
    hear(node)
    for _ in range(TICKS - 1):
        node.tick()
    node.on_stalled(TICKS)
    assert ticks_until_it_campaigns(node) == TICKS


def test_without_a_leader_nothing_is_excused() -> None:
    node = follower()
    node.tick()
    node.on_peer_lost(2)
    hurried = ticks_until_it_campaigns(node)
    node = follower()
    node.tick()
    node.on_peer_lost(2)
    node.on_stalled(TICKS)
    assert ticks_until_it_campaigns(node) == hurried

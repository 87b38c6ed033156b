"""Who leads, who may vote, who is a member, and what a leader may say: cases 1, 3, 14–21, 26, 27."""

from typing import Any

import pytest

from raykube.kv.core.lease_clock import LeaseClock
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, Kind, Message, ReadState, Ready, Write
from raykube.kv.core.raft.node import Node, Role
from raykube.kv.core.raft.reads import Reads
from raykube.kv.core.raft.state import State
from raykube.kv.core.replica import Replica
from raykube.pb import etcd_pb2
from tests.sim import scenarios
from tests.sim.disk import SimDisk
from tests.sim.mutants.planted import changing, mutant, scenario, simulator, test, transcript


@mutant(1, simulator)
def vote_not_durable(patch: pytest.MonkeyPatch) -> None:
    """The term and the vote are not written."""
    original = SimDisk.persist

    def persist(self: SimDisk, write: Write) -> None:
        original(self, Write(None, write.entries, write.snapshot, write.messages))

    patch.setattr(SimDisk, "persist", persist)


@mutant(1, simulator)
def promises_overtake_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Votes and acknowledgements leave before they are written."""
    original = Node.ready

    def ready(self: Node, *, with_news: bool) -> Ready:
        found = original(self, with_news=with_news)
        if found.write is not None:
            found.messages = [*found.messages, *found.write.messages]
            found.write.messages = []
        return found

    patch.setattr(Node, "ready", ready)


@mutant(1, simulator)
def votes_for_everybody(patch: pytest.MonkeyPatch) -> None:
    """A member votes for everybody who asks."""
    original = Node._on_vote_request

    def generous(self: Node, message: Any) -> None:
        if self.role is Role.FOLLOWER:
            self.vote = 0
            self.leader = 0
        original(self, message)

    patch.setattr(Node, "_on_vote_request", generous)


@mutant(3, transcript("shorter_but_newer"))
def length_before_term(patch: pytest.MonkeyPatch) -> None:
    """The longer log wins, whatever its last term."""
    patch.setattr(Log, "is_up_to_date", lambda self, index, term: (index, term) >= (self.last, self.last_term))


@mutant(14, scenario(scenarios.rejoin))
def no_pre_vote(patch: pytest.MonkeyPatch) -> None:
    """A member that hears nobody takes a new term at once."""
    patch.setattr(Node, "_become_pre_candidate", lambda self: self._become_candidate(force=False))


@mutant(14, scenario(scenarios.deaf_leader))
def no_check_of_the_quorum(patch: pytest.MonkeyPatch) -> None:
    """A leader that hears nobody leads on, and its heartbeats keep the others quiet: livelock."""
    patch.setattr(Node, "_check_quorum", lambda self: True)


@mutant(15, scenario(scenarios.broken_link))
def no_stickiness(patch: pytest.MonkeyPatch) -> None:
    """Members that hear their leader vote for another all the same."""
    original = Node.step

    def step(self: Node, message: Message) -> None:
        if message.kind in (Kind.VOTE, Kind.PRE_VOTE):
            message.force = True
        original(self, message)

    patch.setattr(Node, "step", step)


@mutant(16, simulator)
def half_is_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """Half of the members decide."""
    patch.setattr(Membership, "quorum", property(lambda self: max(1, len(self.voters) // 2)))


@mutant(16, simulator)
def reads_without_a_round(patch: pytest.MonkeyPatch) -> None:
    """A leader serves reads without asking whether it still leads."""

    def release_all(self: Node) -> None:
        for context, sender, index in self._reads.confirm(self._reads.round):
            if sender == self.id:
                self._read_states.append(ReadState(context, index))

    patch.setattr(Node, "_confirm_reads", release_all)


@mutant(16, transcript("follower_reads"))
def a_word_for_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """A question from any follower counts as a quorum's word that its leader leads."""
    patch.setattr(Node, "_is_quorum_with", lambda self, sender: sender in self.progress)


@mutant(17, simulator)
def reads_before_own_commit(patch: pytest.MonkeyPatch) -> None:
    """The commit index of a new leader is taken for the truth."""
    patch.setattr(Node, "has_committed_in_term", property(lambda self: True))


@mutant(18, transcript("read_index"))
def rounds_reused(patch: pytest.MonkeyPatch) -> None:
    """A round's number stands for an earlier one."""

    def start(self: Reads, commit: int) -> bool:
        if not self._waiting:
            return False
        self.round = 1
        self._under_way.extend((1, context, sender, commit) for context, sender in self._waiting)
        self._waiting.clear()
        return True

    patch.setattr(Reads, "start_round", start)


@mutant(19, simulator)
def lease_reads(patch: pytest.MonkeyPatch) -> None:
    """A leader that heard a quorum lately, by its own clock, serves reads without asking; then it was paused."""
    original = Node._on_read

    def on_read(self: Node, context: int, sender: int) -> None:
        is_sure = len(self.alive() & self.membership.voters) >= self.membership.quorum
        if sender == self.id and is_sure and self.has_committed_in_term:
            self._read_states.append(ReadState(context, self.log.committed))
        else:
            original(self, context, sender)

    patch.setattr(Node, "_on_read", on_read)


def a_new_leader_changes_no_members() -> None:
    """Not before a commit in its own term tells it that no other change is under way."""
    founders = Membership.of(1, 2, 3)
    node = Node(1, founders, lambda below: 0, Log(entries=[Entry(1, 1, EntryKind.NORMAL, b"")], commit=1))
    node.campaign()
    node.step(Message(Kind.PRE_VOTE_ANSWER, 1, 2, 1))
    write = node.ready().write
    assert write is not None
    node.persisted(write)
    node.step(Message(Kind.VOTE_ANSWER, 1, 2, 1))
    assert node.is_leader
    assert not node.propose_membership(founders.without(3))


@mutant(20, test(a_new_leader_changes_no_members))
def changes_members_before_a_commit(patch: pytest.MonkeyPatch) -> None:
    """A new leader changes the membership before it has committed anything in its term."""
    patch.setattr(Node, "may_change_members", property(lambda self: self.is_leader))


@mutant(21, changing)
def membership_at_commit(patch: pytest.MonkeyPatch) -> None:
    """A new membership holds only once it is committed."""
    patch.setattr(
        State, "membership", property(lambda self: self.membership_at(max(self.log.base, self.log.committed)))
    )


@mutant(21, changing)
def learners_counted(patch: pytest.MonkeyPatch) -> None:
    """Learners count for the quorum."""
    patch.setattr(Membership, "voters", property(lambda self: frozenset(member.id for member in self.members)))


@mutant(21, changing)
def membership_lost_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A restart looks for the membership in the snapshot alone, not in the log behind it."""
    original = Node.__init__

    def init(self: Node, *arguments: Any) -> None:
        original(self, *arguments)
        founding = [(at, held) for at, held in self._memberships if at <= 1]
        self._memberships = founding or self._memberships[:1]

    patch.setattr(Node, "__init__", init)


@mutant(21, transcript("own_removal"))
def removed_too_early(patch: pytest.MonkeyPatch) -> None:
    """A leader with its own removal in its log does not campaign, though nobody else can win."""
    patch.setattr(Node, "_may_campaign", lambda self: self.id in self.membership.voters and not self.is_leader)


@mutant(26, simulator)
def leases_end_with_their_leader(patch: pytest.MonkeyPatch) -> None:
    """A new leader gives leases no time to be renewed with it."""
    original = Replica._note_role

    def note_role(self: Replica) -> None:
        was_leader = self._was_leader
        original(self)
        if self._was_leader and not was_leader:
            self._granted = [(lease, 0) for lease, _ in self._granted]

    patch.setattr(Replica, "_note_role", note_role)


@mutant(26, simulator)
def followers_end_leases(patch: pytest.MonkeyPatch) -> None:
    """Every member ends leases by its own clock, which hears of no renewal."""
    original = Replica.tick

    def tick(self: Replica, now: float, stalled_s: float = 0.0, missed_ticks: int = 0) -> None:
        clocks = self.__dict__.setdefault("_clocks", LeaseClock())
        for lease in self.machine.store.leases.values():
            if clocks.remaining_s(lease.id, now) is None:
                clocks.start(lease.id, lease.ttl_s, now)
        for lease_id in clocks.expired(now):
            if lease_id in self.machine.store.leases:
                self._say(Command.LEASE_REVOKE, etcd_pb2.LeaseRevokeRequest(ID=lease_id).SerializeToString())
        original(self, now, stalled_s, missed_ticks)

    patch.setattr(Replica, "tick", tick)


@mutant(26, scenario(scenarios.sleepy_leaders))
def renewed_at_a_deposed_leader(patch: pytest.MonkeyPatch) -> None:
    """A leader renews leases without asking whether it still leads."""
    from tests.sim.world import World

    original = World.read

    def read(self: World, host: Any, ready: Any) -> None:
        if "_renew" in ready.__qualname__:
            ready()
        else:
            original(self, host, ready)

    patch.setattr(World, "read", read)


@mutant(27, scenario(scenarios.hand_over))
def takes_proposals_while_it_hands_over(patch: pytest.MonkeyPatch) -> None:
    """A leader that hands over goes on to append, so its successor never has it all."""
    original = Node.propose

    def propose(self: Node, payloads: Any, kind: EntryKind = EntryKind.NORMAL) -> bool:
        transferee, self.transferee = self.transferee, 0
        try:
            return original(self, payloads, kind)
        finally:
            self.transferee = transferee

    patch.setattr(Node, "propose", propose)

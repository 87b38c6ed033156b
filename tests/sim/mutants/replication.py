"""The log, what is committed and applied, and what clients are told: cases 2, 4, 5, 12, 13, 22–25, 28, 29."""

from typing import Any

import pytest

from raykube.kv.core import recovery
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, Snapshot
from raykube.kv.core.raft.node import Node
from raykube.kv.core.raft.progress import Progress
from raykube.kv.core.replica import Replica
from raykube.kv.core.wal_replay import Replay
from tests.sim import scenarios
from tests.sim.mutants.planted import members_themselves, mutant, scenario, simulator, test, transcript


@mutant(2, transcript("old_term_commit"))
def counts_earlier_terms(patch: pytest.MonkeyPatch) -> None:
    """An entry of an earlier term is committed by counting."""
    original = Node._maybe_commit

    def commit(self: Node) -> bool:
        index = self._held_by_quorum(self.membership)
        if index > self.log.committed and self.log.term(index) != self.term:
            return self.log.commit_to(index)
        return original(self)

    patch.setattr(Node, "_maybe_commit", commit)


@mutant(4, simulator)
def cuts_without_conflict(patch: pytest.MonkeyPatch) -> None:
    """Every message cuts the log behind it, also a late one."""
    patch.setattr(Log, "first_conflict", lambda self, entries: 0 if entries else None)


@mutant(5, simulator)
def commits_beyond_the_verified(patch: pytest.MonkeyPatch) -> None:
    """A follower commits all that it has, up to the leader's index, whether or not it is the leader's."""

    def on_append(self: Node, message: Message) -> None:
        self.log.commit_to(min(message.commit, self.log.last))
        original(self, message)

    original = Node._on_append
    patch.setattr(Node, "_on_append", on_append)


def late_snapshots_change_nothing() -> None:
    """What is committed is not replaced by what stands for less."""
    entries = [Entry(1, index, EntryKind.NORMAL, b"") for index in range(1, 9)]
    node = Node(1, Membership.of(1, 2), lambda below: 0, Log(entries=entries, commit=8), HardState(1, 0, 8))
    node.step(Message(Kind.SNAPSHOT, 1, 2, 1, snapshot=Snapshot(5, 1, Membership.of(1, 2))))
    assert (node.log.last, node.log.committed, node.ready().write.snapshot) == (8, 8, None)


@mutant(12, test(late_snapshots_change_nothing))
def installs_any_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A late snapshot replaces what is newer."""

    def on_snapshot(self: Node, message: Message) -> None:
        snapshot = message.snapshot
        assert snapshot is not None
        self.log.reset(snapshot.index, snapshot.term)
        self._memberships = [(snapshot.index, snapshot.membership)]
        self.snapshot = Snapshot(snapshot.index, snapshot.term, snapshot.membership)
        self._pending_snapshot = snapshot
        self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)

    patch.setattr(Node, "_on_snapshot", on_snapshot)


@mutant(12, simulator)
def gap_behind_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A restart begins the log one entry too late behind a snapshot."""
    original = recovery.entries_after

    def entries_after(replay: Replay, index: int, term: int) -> list[Entry]:
        return original(replay, index, term)[1 if index else 0 :]

    patch.setattr(recovery, "entries_after", entries_after)


@mutant(13, simulator)
def nothing_to_fall_back_on(patch: pytest.MonkeyPatch) -> None:
    """The log is cut, and the snapshot that stands for it is not the one that a follower gets."""
    original = Node.on_snapshot_saved

    def saved(self: Node, snapshot: Snapshot, entries_kept: int) -> None:
        before = self.snapshot
        original(self, snapshot, entries_kept)
        self.snapshot = before

    patch.setattr(Node, "on_snapshot_saved", saved)


@mutant(22, simulator)
def proposals_of_any_term(patch: pytest.MonkeyPatch) -> None:
    """A proposal is given to every new leader, whether or not it is in the log."""
    original = Replica.tick

    def tick(self: Replica, now: float, stalled_s: float = 0.0, missed_ticks: int = 0) -> None:
        original(self, now, stalled_s, missed_ticks)
        for request, proposal in self._proposals.items():
            if 0 <= proposal.term < self.node.term:
                proposal.term = -1
                self._unbound.append(request)

    patch.setattr(Replica, "tick", tick)


@mutant(23, simulator)
def silence_taken_for_failure(patch: pytest.MonkeyPatch) -> None:
    """A request that timed out is said to have failed for good."""
    original = Replica.forget

    def forget(self: Replica, request: int) -> bool:
        original(self, request)
        return True

    patch.setattr(Replica, "forget", forget)


@mutant(24, simulator)
def match_counts_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    """What was sent to a follower counts as what it has."""
    original = Progress.on_accepted

    def accepted(self: Progress, index: int) -> bool:
        return original(self, max(index, self.next - 1))

    patch.setattr(Progress, "on_accepted", accepted)


def acknowledgements_count_in_their_term_alone() -> None:
    """What a follower had in an earlier term may have been cut off since."""
    entries = [Entry(1, index, EntryKind.NORMAL, b"") for index in range(1, 9)]
    node = Node(1, Membership.of(1, 2, 3), lambda below: 0, Log(entries=entries))
    node.campaign()
    for kind in (Kind.PRE_VOTE_ANSWER, Kind.VOTE_ANSWER):
        node.step(Message(kind, 1, 2, 1))
    assert node.is_leader
    node.step(Message(Kind.APPEND_ANSWER, 1, 3, 0, index=8))
    assert node.progress[3].match == 0


@mutant(24, test(acknowledgements_count_in_their_term_alone))
def acknowledgements_of_old_terms(patch: pytest.MonkeyPatch) -> None:
    """A late acknowledgement of an earlier term counts in this one."""
    original = Node.step

    def step(self: Node, message: Message) -> None:
        if message.kind is Kind.APPEND_ANSWER and message.term < self.term:
            message.term = self.term
        original(self, message)

    patch.setattr(Node, "step", step)


def late_acknowledgements_change_nothing() -> None:
    """Of a follower, and of a term, that went on since."""
    progress = Progress(next=1)
    progress.become_replicate()
    progress.on_accepted(7)
    progress.on_accepted(4)
    assert (progress.match, progress.next) == (7, 8)


@mutant(24, test(late_acknowledgements_change_nothing))
def match_moves_back(patch: pytest.MonkeyPatch) -> None:
    """A late acknowledgement takes back what a newer one said."""
    original = Progress.on_accepted

    def accepted(self: Progress, index: int) -> bool:
        news = original(self, index)
        self.match = index
        return news

    patch.setattr(Progress, "on_accepted", accepted)


@mutant(25, members_themselves)
@mutant(25, simulator)
def applies_by_chance(patch: pytest.MonkeyPatch) -> None:
    """What is applied depends on something that members do not share."""
    original = Store.apply_writes
    calls = [0]

    def apply(self: Store, writes: Any, is_awaited: bool = True) -> Any:
        calls[0] += 1
        return original(self, writes[:-1] if calls[0] % 97 == 0 and len(writes) > 1 else writes, is_awaited)

    patch.setattr(Store, "apply_writes", apply)


@mutant(28, scenario(scenarios.lonely_leader))
def log_without_bound(patch: pytest.MonkeyPatch) -> None:
    """A leader without a quorum takes more and more."""
    original = Node.propose

    def propose(self: Node, payloads: Any, kind: EntryKind = EntryKind.NORMAL) -> bool:
        self._uncommitted_bytes = 0
        return original(self, payloads, kind)

    patch.setattr(Node, "propose", propose)


@mutant(29, simulator)
def window_stays_shut(patch: pytest.MonkeyPatch) -> None:
    """A message whose answer was lost stays in flight for ever."""
    original, forget = Node._on_heartbeat_answer, Progress.forget_oldest
    is_heartbeat = [False]

    def answered(self: Node, message: Message, progress: Progress) -> None:
        is_heartbeat[0] = True
        original(self, message, progress)
        is_heartbeat[0] = False

    def forget_oldest(self: Progress) -> None:
        if not is_heartbeat[0]:
            forget(self)

    patch.setattr(Node, "_on_heartbeat_answer", answered)
    patch.setattr(Progress, "forget_oldest", forget_oldest)

"""Known mistakes of real systems, planted one at a time: the simulator, or a transcript, must notice each.

Every mutant is a patch from the tests' side. It is caught when, within `SEEDS`, an assertion fails or a member
refuses to start.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Write
from raykube.kv.core.raft.node import Node, Role
from raykube.kv.core.raft.reads import Reads
from raykube.kv.core.replica import Replica
from tests.kit.transcript import play
from tests.kv.raft_group import RaftGroup
from tests.sim.disk import SimDisk
from tests.sim.host import Host
from tests.sim.run import run

SEEDS = range(60)
TRANSCRIPTS = Path(__file__).parent.parent / "kv" / "testdata" / "raft"
Patch = Callable[[pytest.MonkeyPatch], None]


def vote_not_durable(patch: pytest.MonkeyPatch) -> None:
    """1: the term and the vote are not written."""
    original = SimDisk.persist

    def persist(self: SimDisk, write: Write) -> None:
        original(self, Write(None, write.entries, write.snapshot, write.messages))

    patch.setattr(SimDisk, "persist", persist)


def counts_earlier_terms(patch: pytest.MonkeyPatch) -> None:
    """2: an entry of an earlier term is committed by counting."""
    original = Node._maybe_commit

    def commit(self: Node) -> bool:
        matches = sorted((self.progress[m].match for m in self.membership.voters), reverse=True)
        index = matches[self.membership.quorum - 1]
        if index > self.log.committed and self.log.term(index) != self.term:
            return self.log.commit_to(index)
        return original(self)

    patch.setattr(Node, "_maybe_commit", commit)


def length_before_term(patch: pytest.MonkeyPatch) -> None:
    """3: the longer log wins, whatever its last term."""
    patch.setattr(Log, "is_up_to_date", lambda self, index, term: (index, term) >= (self.last, self.last_term))


def cuts_without_conflict(patch: pytest.MonkeyPatch) -> None:
    """4: every message cuts the log behind it, also a late one."""
    patch.setattr(Log, "first_conflict", lambda self, entries: 0 if entries else None)


def commits_beyond_the_verified(patch: pytest.MonkeyPatch) -> None:
    """5: a heartbeat commits what the follower happens to have."""
    original = Node._send

    def send(self: Node, kind: Any, to: int, **fields: Any) -> None:
        if kind.name == "HEARTBEAT":
            fields["commit"] = self.log.committed
        original(self, kind, to, **fields)

    patch.setattr(Node, "_send", send)


def acknowledges_before_sync(patch: pytest.MonkeyPatch) -> None:
    """6: the disk is told, and not waited for."""

    def write(self: Host, write: Write) -> None:
        if write.touches_disk:
            self._work = write
            life = self.life

            def synced() -> None:
                if self.life == life:
                    self.disk.persist(write)

            self.world.at(self.world.sync_s_max, synced)
        self.written(write)
        self.pump()

    patch.setattr(Host, "write", write)


def torn_tail_accepted(patch: pytest.MonkeyPatch) -> None:
    """8: a checksum is not looked at."""
    from raykube.kv.core import wal_codec

    patch.setattr(wal_codec, "is_whole", lambda data, header: header.start <= len(data))


def half_is_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """16: half of the members decide."""
    patch.setattr(Membership, "quorum", property(lambda self: max(1, len(self.voters) // 2)))


def reads_without_a_round(patch: pytest.MonkeyPatch) -> None:
    """16, 17: a leader serves reads without asking whether it still leads."""
    patch.setattr(Node, "_confirm_reads", _release_all)


def _release_all(node: Node) -> None:
    for context, sender, index in node._reads.confirm(node._reads.round):
        if sender == node.id:
            from raykube.kv.core.raft.messages import ReadState

            node._read_states.append(ReadState(context, index))


def reads_before_own_commit(patch: pytest.MonkeyPatch) -> None:
    """17: the commit index of a new leader is taken for the truth."""
    patch.setattr(Node, "has_committed_in_term", property(lambda self: True))


def rounds_reused(patch: pytest.MonkeyPatch) -> None:
    """18: a round's number stands for an earlier one."""

    def start(self: Reads, commit: int) -> bool:
        if not self._waiting:
            return False
        self.round = 1
        self._under_way.extend((1, context, sender, commit) for context, sender in self._waiting)
        self._waiting.clear()
        return True

    patch.setattr(Reads, "start_round", start)


def reads_before_applied(patch: pytest.MonkeyPatch) -> None:
    """A reader does not wait until its member has applied the index."""

    def release(self: Replica) -> list[int]:
        released = [reader for _, readers in self._at_index for reader in readers]
        self._at_index = []
        return released

    patch.setattr(Replica, "_release_readers", release)


def proposals_of_any_term(patch: pytest.MonkeyPatch) -> None:
    """22: a proposal is given to every new leader, whether or not it is in the log."""
    original = Replica.tick

    def tick(self: Replica, now: float, stalled_s: float = 0.0) -> None:
        original(self, now, stalled_s)
        for request, proposal in self._proposals.items():
            if 0 <= proposal.term < self.node.term:
                proposal.term = -1
                self._unbound.append(request)

    patch.setattr(Replica, "tick", tick)


def applies_by_chance(patch: pytest.MonkeyPatch) -> None:
    """25: what is applied depends on something that members do not share."""
    original = Store.apply_writes
    calls = [0]

    def apply(self: Store, writes: Any) -> Any:
        calls[0] += 1
        return original(self, writes[:-1] if calls[0] % 97 == 0 and len(writes) > 1 else writes)

    patch.setattr(Store, "apply_writes", apply)


def leases_missing_from_the_image(patch: pytest.MonkeyPatch) -> None:
    """34: a part of the state is not in the snapshot."""
    from raykube.kv.core.mvcc import image

    original = image.restore

    def restore(data: bytes) -> Any:
        store, attributes = original(data)
        store.leases.clear()
        return store, attributes

    patch.setattr(image, "restore", restore)


def two_leaders_possible(patch: pytest.MonkeyPatch) -> None:
    """A member votes for everybody who asks."""
    original = Node._on_vote_request

    def generous(self: Node, message: Any) -> None:
        if self.role is Role.FOLLOWER:
            self.vote = 0
            self.leader = 0
        original(self, message)

    patch.setattr(Node, "_on_vote_request", generous)


MUTANTS: list[Patch] = [
    vote_not_durable,
    cuts_without_conflict,
    commits_beyond_the_verified,
    acknowledges_before_sync,
    torn_tail_accepted,
    half_is_a_quorum,
    reads_without_a_round,
    reads_before_own_commit,
    reads_before_applied,
    proposals_of_any_term,
    applies_by_chance,
    leases_missing_from_the_image,
    two_leaders_possible,
]
# These need a schedule too rare for few seeds: a transcript tells it move by move.
BY_TRANSCRIPT: list[Patch] = [counts_earlier_terms, length_before_term, rounds_reused]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_the_simulator_notices(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in SEEDS:
        try:
            run(seed)
        except Exception:  # any way of failing is a way of noticing
            return
    pytest.fail(f"{plant.__name__} went unnoticed in {len(SEEDS)} seeds")


@pytest.mark.parametrize("plant", BY_TRANSCRIPT, ids=lambda plant: plant.__name__)
def test_a_transcript_notices(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    paths = sorted(TRANSCRIPTS.glob("*.txt"))
    assert any(_fails(path) for path in paths), f"{plant.__name__} went unnoticed"


def _fails(path: Path) -> bool:
    try:
        play(path, RaftGroup().handle, rewrite=False)
    except AssertionError:
        return True
    return False

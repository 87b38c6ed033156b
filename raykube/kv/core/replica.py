"""One member without its surroundings: Raft node, state machine, and those who wait for either.

    propose / read / step / tick ─▶ Replica ─▶ Output: messages, a write for the disk, answers, readers to let go

All that is proposed between two `ready` rides in one log entry: what a burst costs the log does not depend on its size.

A proposal is bound to the term of the leader it was given to, and a leader takes none of another term. So when this
member has applied an entry of a later term, a proposal that is still waiting is certainly not in the log and never will
be: it is proposed again, once, without the client's help. Only a time-out or a crash leaves an outcome unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raykube.kv.core.compactor import Compactor
from raykube.kv.core.lease_clock import LeaseClock
from raykube.kv.core.member_changes import Change, Changed, Circumstances, decide
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.image import Image, Restored
from raykube.kv.core.mvcc.machine import Command, Machine, commands, encode
from raykube.kv.core.prover import Prover
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, Message, ReadState, Snapshot, Write
from raykube.kv.core.raft.node import Node
from raykube.pb import etcd_pb2

READ_RETRY_TICKS = 5
UNBOUND = -1  # the term of a proposal that no leader has seen
FORGOTTEN_MAX = 1000  # of those that wait for a leader
REVOCATIONS_MAX = 500  # of leases that ran out, in one entry
ENTRY_BYTES_MAX = 1 << 20  # of proposals that share an entry; a larger one has an entry for itself
# Sets, as to reach and compare an enumeration's members is slow.
_PROOFS = frozenset({Command.CHECK, Command.VOUCH})
_OF_LEASES = frozenset({Command.LEASE_GRANT, Command.LEASE_REVOKE})


@dataclass(slots=True)
class Output:
    """What is to be done now; the order of durability is `raft`'s."""

    messages: list[Message]
    write: Write | None
    hold: int  # the number of one that began, 0: none; `let_go` it when it has lasted
    hold_rounds: float  # how long that is: `gathering.hold_s`
    has_left: bool  # new entries left: a round began


@dataclass(slots=True)
class Applied:
    """What became of what was committed."""

    answers: list[tuple[int, Any]] = field(default_factory=list)  # request id, response or StoreError
    readers: list[int] = field(default_factory=list)  # readers who may read now
    has_applied: bool = False
    may_have_more: bool = False  # `ready` has something to give already, and nothing else will call for it


def _change_lost() -> StoreError:
    return StoreError("UNAVAILABLE", "etcdserver: leader changed")


@dataclass(slots=True)
class _Proposal:
    data: bytes
    term: int = UNBOUND


class Replica:
    """A member's whole state. Request and reader ids come from the caller, and are never reused in a group's life."""

    def __init__(
        self, node: Node, machine: Machine, new_id: Callable[[], int], compactor: Compactor | None = None
    ) -> None:
        self.node = node
        self.machine = machine
        self.applied = node.log.handed
        self.applied_term = node.log.base_term
        self.lease_clock = LeaseClock()
        self.prover = Prover(node.id, self.applied, self._say)
        self._compactor = compactor or Compactor()
        self._new_id = new_id
        self._granted: list[tuple[int, int]] = []  # lease, seconds: those that began since the last tick
        self._was_leader = False
        self._to_apply: list[Entry] = []  # that the last `ready` took
        self._proposals: dict[int, _Proposal] = {}
        self._unbound: list[int] = []
        self._new_readers: list[int] = []
        self._asked: list[tuple[int, list[int]]] = []  # context, readers: questions without an answer, oldest first
        self._asked_ticks = 0  # since the last of them
        self._at_index: list[tuple[int, list[int]]] = []  # readers who wait for an index to be applied
        self.is_removed = node.id in node.membership_at(self.applied).removed  # for good, as of what is applied
        self._changes: dict[int, tuple[int, int, int]] = {}  # index of a new membership → request, term, member

    @property
    def membership(self) -> Membership:
        """The membership as of what is applied: it is never taken back."""
        return self.node.membership_at(max(self.applied, self.node.log.base))

    # ---- inputs

    def propose(self, request: int, command: Command, body: bytes) -> None:
        """Puts a command into the log, now or as soon as there is a leader; its answer comes in an `Output`."""
        self._proposals[request] = _Proposal(encode(request, command, body))
        self._unbound.append(request)

    def forget(self, request: int) -> bool:
        """Nobody waits for `request` any more; returns whether it surely never took and never will take effect."""
        proposal = self._proposals.pop(request, None)
        if len(self._unbound) > 2 * len(self._proposals) + FORGOTTEN_MAX:
            self._unbound = [waiting for waiting in self._unbound if waiting in self._proposals]
        return proposal is not None and proposal.term == UNBOUND

    def renew(self, lease: int) -> bool:
        """As leader, gives a lease its whole time again, from the next tick on; False when there is none here.

        Read linearizably before you tell anybody: this member may be deposed, or have the lease's end in its log.
        """
        record = self.machine.store.leases.get(lease)
        if record is None or not self.node.is_leader:
            return False
        # Not from now on: a tick that finds out that this process stood still would give it that time once more.
        self._granted.append((lease, record.ttl_s))
        return True

    def change_members(self, request: int, change: Change, is_late: bool = False) -> bool:
        """As leader, puts a new membership into the log; its `Changed`, or a StoreError, comes in an `Output`.

        False: not now; this member does not lead, an earlier change is not settled, or it stood still so long that it
        does not know who answers (`is_late`: the tick that will say so is still to come). Raises StoreError: refused.
        """
        node = self.node
        if is_late or not node.may_change_members:
            return False
        matches = {member: progress.match for member, progress in node.progress.items()}
        started = frozenset(member for member, found in self.machine.attributes.items() if found.name)
        full = frozenset(member for member, progress in node.progress.items() if progress.has_no_room)
        known = Circumstances(node.membership, node.id, started, node.alive(), matches, full)
        member, membership = decide(change, known)
        if not node.propose_membership(membership):
            return False
        self._changes[node.log.last] = (request, node.term, member)
        return True

    def read(self, reader: int) -> None:
        """Asks for a linearizable read; `reader` is in an `Output` when it may happen."""
        self._new_readers.append(reader)

    def forget_reader(self, reader: int) -> None:
        """The reader has gone."""
        for readers in (self._new_readers, *(readers for _, readers in (*self._asked, *self._at_index))):
            if reader in readers:
                readers.remove(reader)

    def step(self, message: Message) -> None:
        self.node.step(message)

    def tick(self, now: float, stalled_s: float = 0.0, missed_ticks: int = 0) -> None:
        """A tick of time. `stalled_s`, `missed_ticks`: how long this process stood still before it, beyond the tick."""
        if stalled_s > 0:
            self.lease_clock.delay(stalled_s)
            self.node.on_stalled(missed_ticks)
        self.node.tick()
        self._note_role()
        granted, self._granted = self._granted, []
        for lease, ttl_s in granted:
            if lease in self.machine.store.leases:  # else it was revoked since: a clock would end the next of its name
                self.lease_clock.start(lease, ttl_s, now)
        if self._asked:
            self._asked_ticks += 1
            if self._asked_ticks >= READ_RETRY_TICKS:
                self._ask_again()
        self._compact(now)
        if self.node.is_leader:
            self._expire_leases(now)
            self.prover.tick(now, self.machine, self.membership)

    def _note_role(self) -> None:
        is_leader = self.node.is_leader
        if is_leader and not self._was_leader:
            # A new leader does not know who renewed what: everybody gets the whole time again.
            self._granted = [(lease.id, lease.ttl_s) for lease in self.machine.store.leases.values()]
        elif not is_leader and self._was_leader:
            self.lease_clock.clear()
            self._granted.clear()
        self._was_leader = is_leader

    def _expire_leases(self, now: float) -> None:
        leases = self.lease_clock.expired(now)
        for start in range(0, len(leases), REVOCATIONS_MAX):
            some = leases[start : start + REVOCATIONS_MAX]
            bodies = [etcd_pb2.LeaseRevokeRequest(ID=lease).SerializeToString() for lease in some]
            if self.node.propose([b"".join(encode(self._new_id(), Command.LEASE_REVOKE, body) for body in bodies)]):
                for lease in some:
                    self.lease_clock.settle(lease)

    def _compact(self, now: float) -> None:
        store = self.machine.store
        target = self._compactor.due(now, store.revision, store.compact_revision)
        if target is not None and self.node.is_leader:
            body = etcd_pb2.CompactionRequest(revision=target).SerializeToString()
            self.node.propose([encode(self._new_id(), Command.COMPACT, body)])

    def _say(self, command: Command, body: bytes) -> None:
        """Puts a command into the log for which nobody waits; it may get lost."""
        data = encode(self._new_id(), command, body)
        if self.node.is_leader:
            self.node.propose([data])
        elif self.node.leader:
            self.node.forward([Entry(0, 0, EntryKind.NORMAL, data)])

    def let_go(self, hold: int) -> bool:
        """As `Node.let_go`."""
        return self.node.let_go(hold)

    # ---- proposals

    def _bind_waiting(self) -> None:
        """Gives what waits to the leader, as few entries as it fits in."""
        if not self._unbound or not self.node.leader:
            return
        waiting, self._unbound = self._unbound, []
        together: list[int] = []
        size = 0
        for request in waiting:
            proposal = self._proposals.get(request)
            if proposal is None:
                continue  # forgotten meanwhile
            if together and size + len(proposal.data) > ENTRY_BYTES_MAX:
                self._bind(together)
                together, size = [], 0
            together.append(request)
            size += len(proposal.data)
        if together:
            self._bind(together)

    def _bind(self, requests: list[int]) -> None:
        """Proposes an entry to the leader; what it does not take now waits on."""
        node = self.node
        proposals = [self._proposals[request] for request in requests]
        data = b"".join([proposal.data for proposal in proposals])
        if not node.is_leader:
            node.forward([Entry(0, 0, EntryKind.NORMAL, data)])
        elif not node.propose([data]):
            self._unbound += requests
            return
        for proposal in proposals:
            proposal.term = node.term

    def _unbind_lost(self) -> None:
        """An entry of a later term is applied: what was bound to earlier ones and is not in the log is lost."""
        for request, proposal in self._proposals.items():
            if UNBOUND < proposal.term < self.applied_term:
                proposal.term = UNBOUND
                self._unbound.append(request)

    # ---- output

    def ready(self, *, with_news: bool = True) -> Output:
        """Takes what is to be done now; then `apply`. News is what `Node.has_news` says, which may wait a little.

        In this order, as applying may take its time: the others learn of a commit before this member carries it out,
        and do so at the same time, and the disk works meanwhile.
        """
        self._prepare()
        return self._take(with_news=with_news)

    def ready_if_due(self) -> Output | None:
        """As `ready`, without news; None: there is nothing to do now.

        Much that comes changes nothing that others must know of: the second of two followers that has an entry.
        """
        self._prepare()
        # Readers: an installed snapshot may have brought them what they wait for.
        is_due = self.node.has_work or any(index <= self.applied for index, _ in self._at_index)
        return self._take(with_news=False) if is_due else None

    def _prepare(self) -> None:
        self._note_role()
        self._bind_waiting()
        self._start_round()
        if self.node.leader:
            self.prover.vouch()

    def _take(self, *, with_news: bool) -> Output:
        ready = self.node.ready(with_news=with_news)
        self._to_apply += ready.committed
        self._on_read_states(ready.read_states)
        return Output(ready.messages, ready.write, ready.hold, ready.hold_rounds, ready.has_left)

    def apply(self) -> Applied:
        """Applies what the last `ready` took."""
        entries, self._to_apply = self._to_apply, []
        applied = Applied(has_applied=bool(entries))
        self._apply(entries, applied.answers)
        applied.readers = self._release_readers()
        applied.may_have_more = self._may_have_more(applied.has_applied)
        return applied

    def _may_have_more(self, has_applied: bool) -> bool:
        if self.node.log.has_to_hand or (has_applied and (self._unbound or self.prover.has_to_vouch)):
            return True
        # Readers who came while a round ran, which has ended: nothing else may wake this member before a heartbeat.
        return bool(self._new_readers) and not self._asked and self.node.leader != 0

    def persisted(self, write: Write, restored: Restored | None = None) -> None:
        """The write is durable; a snapshot in it becomes this member's state: `restored`, when it was read already."""
        if write.snapshot is not None:
            self.machine.adopt(restored or image.restore(write.snapshot.data))
            self.prover.forget(write.snapshot.index)
            self.applied, self.applied_term = write.snapshot.index, write.snapshot.term
            self.is_removed = self.node.id in write.snapshot.membership.removed
            # What was in flight may be inside the image: its outcome cannot be told from here.
            for request in [r for r, p in self._proposals.items() if p.term != UNBOUND]:
                del self._proposals[request]
        self.node.persisted(write)

    def _apply(self, entries: list[Entry], answers: list[tuple[int, Any]]) -> None:
        for entry in entries:
            if entry.index != self.applied + 1:
                raise AssertionError(f"entry {entry.index} came after {self.applied}")
            self.applied = entry.index
            if entry.kind == EntryKind.NORMAL and entry.data:
                self._apply_commands(entry, answers)
            elif entry.kind == EntryKind.CONFIG:
                self._on_membership(entry, answers)
            if entry.term != self.applied_term:
                self.applied_term = entry.term
                self._unbind_lost()

    def _apply_commands(self, entry: Entry, answers: list[tuple[int, Any]]) -> None:
        """All of an entry. No other loop costs a write as much: every member runs it."""
        index = entry.index
        proposals, machine, prover = self._proposals, self.machine, self.prover
        is_leader = self.node.is_leader
        for request, command, body in commands(entry.data):
            is_awaited = request in proposals
            answer = machine.apply(command, body, is_awaited, index)
            if is_awaited:
                del proposals[request]
                answers.append((request, answer))
            if command in _PROOFS:
                prover.on_applied(command, answer, index)
            else:
                prover.has_news = True
            if is_leader and command in _OF_LEASES:
                self._follow_leases(command, body, answer)

    def _on_membership(self, entry: Entry, answers: list[tuple[int, Any]]) -> None:
        membership = self.node.membership_at(entry.index)
        self.is_removed = self.node.id in membership.removed
        for member in membership.removed:
            self.machine.attributes.pop(member, None)
        request, term, member = self._changes.pop(entry.index, (0, 0, 0))
        if request:
            answer = Changed(member, entry.index, membership) if term == entry.term else _change_lost()
            answers.append((request, answer))

    def _follow_leases(self, command: int, body: bytes, answer: Any) -> None:
        if command == Command.LEASE_GRANT and isinstance(answer, etcd_pb2.LeaseGrantResponse):
            # Only a tick brings the time: a lease starts with the next one, a little late and never early.
            self._granted.append((answer.ID, answer.TTL))
        elif command == Command.LEASE_REVOKE:
            self.lease_clock.forget(etcd_pb2.LeaseRevokeRequest.FromString(body).ID)

    # ---- reads

    def _start_round(self) -> None:
        """One round at a time; all who come while it runs share the next."""
        if self._new_readers and not self._asked and self.node.leader:
            self._ask()

    def _ask(self) -> None:
        context = self._new_id()
        self._asked.append((context, self._new_readers))
        self._new_readers, self._asked_ticks = [], 0
        self.node.read_index(context)

    def _ask_again(self) -> None:
        """The question or its answer may be lost. Or both are still on a long way: an answer counts when it comes."""
        first = next((n for n, (_, readers) in enumerate(self._asked) if readers), len(self._asked))
        del self._asked[:first]  # whose readers have gone
        if self.node.leader and (self._asked or self._new_readers):
            self._ask()

    def _on_read_states(self, states: list[ReadState]) -> None:
        for context, index in states:
            place = next((n for n, (asked, _) in enumerate(self._asked) if asked == context), None)
            if place is not None:
                # It was asked after those came who asked before.
                self._at_index += [(index, readers) for _, readers in self._asked[: place + 1]]
                del self._asked[: place + 1]

    def _release_readers(self) -> list[int]:
        released: list[int] = []
        kept = []
        for index, readers in self._at_index:
            if index <= self.applied:
                released += readers
            else:
                kept.append((index, readers))
        self._at_index = kept
        return released

    # ---- snapshots

    def capture(self) -> tuple[Snapshot, Image]:
        """A snapshot of what is applied, without its data, and the picture that becomes its data.

        Call it right after entries were applied: while a leader's snapshot waits for the disk, the log begins behind
        what is applied.
        """
        snapshot = Snapshot(self.applied, self.applied_term, self.node.membership_at(self.applied))
        return snapshot, self.machine.capture()

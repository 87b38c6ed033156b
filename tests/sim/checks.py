"""What must hold at every step, whatever fails: the invariants of Raft, of the log, and of what clients were told.

The first member that commits an entry writes the one true history: it is applied to the `Model`, and every member,
every answer, every read and every watch is compared with that. Linearizability: the log's order is the witness. Each
answer is the one that the model gives at the entry's place; each operation's place is behind the places of all that had
been answered before it was asked; no request is there twice, and none of which its client was told "never".
"""

from typing import TYPE_CHECKING, Any
from zlib import crc32

from raykube.kv.core.member_changes import Changed
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Machine, commands
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, Kind
from raykube.kv.core.replica import Applied, Output, Replica
from tests.sim.model import Model

if TYPE_CHECKING:
    from tests.sim.world import World

WHOLE_EVERY = 16  # indexes: whole states are compared now and then, what changed is always


class Checks:
    """The one true history, and everybody's agreement with it."""

    def __init__(self) -> None:
        self.model = Model()
        self.leaders: dict[int, int] = {}  # term → member
        self.entries: list[tuple[int, int]] = [(0, 0)]  # term, checksum of each committed entry
        self.membership = Membership()  # the committed one
        self.memberships: dict[int, Membership] = {}  # index → membership
        self.place: dict[int, int] = {}  # request → index
        self.answers: dict[int, Any] = {}  # request → what the model says
        self.floor = 0  # the highest index of anything answered
        self._asked: dict[int, int] = {}  # request → the floor when it was asked
        self._never: set[int] = set()
        self._committed: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}  # voter, term → candidate
        self._digests: dict[int, int] = {}
        self._committed_in: list[int] = [0]  # index → term of the first member that committed it

    # ---- members

    def on_member(self, replica: Replica) -> None:
        """After each step of a member."""
        node = replica.node
        log = node.log
        if node.is_leader and self.leaders.setdefault(node.term, node.id) != node.id:
            raise AssertionError(f"two leaders in term {node.term}: {self.leaders[node.term]} and {node.id}")
        first = self._committed.get(node.id, 0)
        if log.committed > first:
            for entry in log.entries[max(first - log.base, 0) : log.committed - log.base]:
                self._check_entry(entry, node.id, node.term)
            self._committed[node.id] = log.committed

    @staticmethod
    def on_nothing_due(output: Output) -> None:
        """A replica said that it has nothing that should not wait; this is what it has."""
        if output.messages or output.write is not None or output.hold or output.has_left:
            raise AssertionError(f"a member would have waited with {output}")

    @staticmethod
    def on_news(output: Output, *, has_news: bool) -> None:
        """A replica said whether it has news, and nothing else; this is what it has."""
        if has_news != bool(output.messages) or any(message.kind is not Kind.COMMIT for message in output.messages):
            raise AssertionError(f"nobody would have been told: {output.messages}, or nobody need be")

    @staticmethod
    def on_nothing_applied(applied: Applied) -> None:
        """As `on_nothing_due`, of what it applied."""
        if applied.has_applied or applied.answers or applied.readers or applied.may_have_more:
            raise AssertionError(f"a member would have waited with {applied}")

    def on_vote(self, voter: int, term: int, candidate: int) -> None:
        """A vote is on its way, or a candidate asks for others' after its own."""
        first = self._votes.setdefault((voter, term), candidate)
        assert first == candidate, f"member {voter} votes for {candidate} and for {first} in term {term}"

    def on_new_leader(self, replica: Replica) -> None:
        """Leader completeness: whoever begins to lead has all that was ever committed."""
        log = replica.node.log
        for index in range(max(log.base, log.committed) + 1, len(self.entries)):
            term = log.term(index)
            # What a later leader committed meanwhile, this one of an earlier term need not have: it will hear of that.
            assert term == self.entries[index][0] or self._committed_in[index] >= replica.node.term, (
                f"member {replica.node.id} leads term {replica.node.term} without the committed entry {index} "
                f"of term {self.entries[index][0]}: it has {term}"
            )

    def forget(self, member: int) -> None:
        """The member starts again: it may commit again what it had."""
        self._committed.pop(member, None)

    def _check_entry(self, entry: Entry, member: int, term: int) -> None:
        seen = (entry.term, crc32(entry.data))
        if entry.index < len(self.entries):
            first = self.entries[entry.index]
            assert first == seen, f"member {member} committed another entry at {entry.index}: {seen}, not {first}"
            return
        assert entry.index == len(self.entries), (
            f"member {member} committed {entry.index} after {len(self.entries) - 1}"
        )
        assert entry.term >= self.entries[-1][0], f"entry {entry.index}: the term went back"
        self.entries.append(seen)
        self._committed_in.append(term)
        if entry.kind == EntryKind.NORMAL and entry.data:
            for request, command, body in commands(entry.data):
                self._happened(request, entry.index, self.model.apply(command, body))
        elif entry.kind == EntryKind.CONFIG:
            self.membership = self.memberships[entry.index] = Membership.decode(entry.data)
        self.model.mark()

    def _happened(self, request: int, index: int, answer: Any) -> None:
        assert request not in self.place, f"request {request} is in the log twice: {self.place[request]}, {index}"
        assert request not in self._never, f"request {request} happened, its client was told that it never will"
        self.place[request] = index
        if request in self._asked:
            self.answers[request] = answer

    def on_applied(self, index: int, machine: Machine, seen_revision: int, member: int) -> None:
        """After each batch a member applied, up to `index`: the model's state and events, the same digest for all."""
        store, digest = machine.store, machine.digest()
        assert self._digests.setdefault(index, digest) == digest, f"member {member} has another digest at entry {index}"
        mark = self.model.marks[index]
        assert (store.revision, store.compact_revision) == (mark.revision, mark.compacted), (
            f"member {member} is at {store.revision} after entry {index}, it must be at {mark}"
        )
        assert store.leases.keys() == mark.leases.keys(), f"member {member} has other leases after entry {index}"
        if store.revision > seen_revision and store.events:
            first = max(seen_revision + 1, store.events[0].mod)
            events = self.model.events
            wanted = events[self.model.position(first) : self.model.position(store.revision + 1)]
            fresh = store.events[store.position(first) :]
            assert fresh == wanted, f"member {member} made other versions up to entry {index}: {fresh}, not {wanted}"
        if index % WHOLE_EVERY == 0:
            self.check_whole(index, store, member)

    def check_whole(self, index: int, store: Store, member: int) -> None:
        """Everything that a member holds after entry `index` is what the model holds."""
        mark = self.model.marks[index]
        held = list(store.versions())
        assert held == self.model.versions(mark), f"member {member} holds other versions after entry {index}"
        leases = {lease.id: lease.keys for lease in store.leases.values()}
        attached = self.model.attached(mark)
        assert leases == attached, f"member {member} has leases {leases} after entry {index}, not {attached}"
        assert {lease.id: lease.ttl_s for lease in store.leases.values()} == mark.leases

    # ---- clients

    def on_asked(self, request: int) -> None:
        self._asked[request] = self.floor

    def on_never(self, request: int) -> None:
        """Its client was told that it surely did not and will not happen."""
        assert request not in self.place, f"request {request} happened, and its client was told that it never will"
        self._never.add(request)

    def on_answered(self, request: int, answer: Any, world: "World") -> None:
        """A client was told what became of its request."""
        index = self.place.get(request)
        assert index is not None, f"request {request} was answered and is not committed"
        floor = self._asked.pop(request)
        assert index > floor, (
            f"request {request} took effect at {index}, though {floor} was answered before it was asked"
        )
        self.floor = max(self.floor, index)
        wanted = self.answers.pop(request)
        told = answer.code if isinstance(answer, StoreError) else answer
        for operation in getattr(told, "responses", ()):
            getattr(operation, operation.WhichOneof("response")).ClearField("header")  # of no meaning in there
        assert wanted is None or told == wanted, f"request {request} was told {told}, not {wanted}"
        self._check_durable(index, world)

    def on_changed(self, changed: Changed) -> None:
        """A change of the membership was answered."""
        assert self.memberships.get(changed.index) == changed.membership, f"{changed} is not what was committed"
        self.floor = max(self.floor, changed.index)

    def _check_durable(self, index: int, world: "World") -> None:
        """An answered entry is on the disks of a quorum: of the members then, or of those in a newer membership.

        A disk that rotted between the commit and the answer counts: its member knows that it lacks something.
        """
        term = self.entries[index][0]
        first = max(at for at in self.memberships if at <= index)
        deciding = [membership for at, membership in self.memberships.items() if at >= first]
        deciding += [host.replica.node.membership for host in world.up() if host.replica is not None]
        for membership in deciding:
            voters = [member.id for member in membership.members if not member.learner]
            disks = [world.hosts[member].disk for member in voters if member in world.hosts]
            if sum(1 for disk in disks if disk.kept(index, term)) > len(voters) // 2:
                return
        raise AssertionError(f"entry {index} of term {term} was acknowledged, and is on the disks of no quorum")

    def on_read(self, floor: int, replica: Replica) -> None:
        """A linearizable read happens at this member; `floor` is of when it was asked for."""
        assert replica.applied >= floor, f"a read at entry {replica.applied} missed {floor}, which was answered before"
        self.floor = max(self.floor, replica.applied)

    def on_state_read(self, store: Store, key: bytes, revision: int) -> None:
        """A read of any kind, at a revision (0: now): what it sees is a state that was, and not compacted."""
        try:
            found, _ = store.range(key, b"", revision)
        except StoreError as error:
            assert revision < store.compact_revision or revision > store.revision, f"{error} at {revision}"
            return
        assert not 0 < revision < store.compact_revision, f"a read at {revision}, compacted at {store.compact_revision}"
        wanted = self.model.value_at(key, revision or store.revision)
        assert found == ([wanted] if wanted else []), f"a read of {key!r} at {revision} saw {found}, not {wanted}"

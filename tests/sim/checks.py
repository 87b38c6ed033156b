"""What must hold at every step, whatever fails: the invariants of Raft, of the log, and of what clients were told."""

from zlib import crc32

from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version
from raykube.kv.core.raft.messages import Entry
from raykube.kv.core.replica import Replica
from tests.sim.disk import SimDisk


class Checks:
    """The one true history, as the first member to get there wrote it, and everybody's agreement with it."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}  # term → member
        self.entries: dict[int, tuple[int, int]] = {}  # index → term, checksum of a committed entry
        self.states: dict[int, tuple[int, int]] = {}  # index → revision, compact revision after it
        self.history: list[Version] = []  # every version ever applied, in order
        self.revision_acknowledged = 1
        self._committed: dict[int, int] = {}

    def on_member(self, replica: Replica) -> None:
        """After each step of a member."""
        node = replica.node
        if node.is_leader:
            holder = self.leaders.setdefault(node.term, node.id)
            assert holder == node.id, f"two leaders in term {node.term}: {holder} and {node.id}"
        log = node.log
        for index in range(max(self._committed.get(node.id, 0), log.base) + 1, log.committed + 1):
            entry = log.entries[index - log.base - 1]
            self._check_entry(entry, node.id)
        self._committed[node.id] = log.committed

    def forget(self, member: int) -> None:
        """The member starts again: it may commit again what it had."""
        self._committed.pop(member, None)

    def _check_entry(self, entry: Entry, member: int) -> None:
        seen = (entry.term, crc32(entry.data))
        first = self.entries.setdefault(entry.index, seen)
        assert first == seen, f"member {member} committed another entry at {entry.index}: {seen}, not {first}"

    def on_applied(self, index: int, store: Store, fresh: list[Version], member: int) -> None:
        """After each batch a member applied: same state, same history."""
        state = (store.revision, store.compact_revision)
        first = self.states.setdefault(index, state)
        assert first == state, f"member {member} is at {state} after entry {index}, others were at {first}"
        for version in fresh:
            if not self.history or (version.mod, version.sub) > (self.history[-1].mod, self.history[-1].sub):
                self.history.append(version)

    def on_acknowledged(self, revision: int, index: int, term: int, disks: list[SimDisk], quorum: int) -> None:
        """A client was told that its write at `index` is done: a quorum of disks must have it."""
        holders = sum(1 for disk in disks if disk.terms.get(index) in (term, 0))
        assert holders >= quorum, f"entry {index} of term {term} was acknowledged with {holders} disks having it"
        self.revision_acknowledged = max(self.revision_acknowledged, revision)

    def value_at(self, key: bytes, revision: int) -> Version | None:
        """What the history says of a key at a revision."""
        found = None
        for version in self.history:
            if version.mod > revision:
                break
            if version.key == key:
                found = version
        return found if found is not None and found.value is not None else None

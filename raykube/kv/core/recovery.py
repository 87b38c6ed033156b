"""A member out of what its disk holds: the newest snapshot, and the log behind it."""

from collections.abc import Callable
from dataclasses import dataclass

from raykube.kv.core.compactor import Compactor
from raykube.kv.core.mvcc.machine import Machine
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Snapshot, Write
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import Replica
from raykube.kv.core.wal_codec import Corrupt, Replay, entries_after


def founding_write(membership: Membership) -> Write:
    """A founding member's first write: the membership. All founders write the same, so it is in all logs, committed."""
    return Write(HardState(1, 0, 1), [Entry(1, 1, EntryKind.CONFIG, membership.encode())], None, [])


def is_blank(replay: Replay) -> bool:
    """Whether the log says nothing yet: its member was never founded, or died while it was."""
    return not replay.entries and replay.base is None and replay.hard_state == HardState()


def add(replay: Replay, write: Write) -> None:
    """Adds a write to what was read before it."""
    if write.hard_state is not None:
        replay.hard_state = write.hard_state
    replay.entries += write.entries


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a member remembers."""

    hard_state: HardState
    entries: list[Entry]
    snapshot: Snapshot | None
    marker: Write | None = None  # to be made durable first: tells the log that the snapshot replaced what it holds

    def build(
        self,
        member: int,
        limits: Limits,
        draw: Callable[[int], int],
        new_id: Callable[[], int],
        compactor: Compactor | None = None,
    ) -> Replica:
        """The replica that goes on from here. Raises ValueError when the snapshot's body is damaged."""
        machine = Machine()
        index = term = 0
        membership = Membership()
        if self.snapshot is not None:
            machine.restore(self.snapshot.data)
            index, term, membership = self.snapshot.index, self.snapshot.term, self.snapshot.membership
        log = Log(index, term, self.entries, self.hard_state.commit)
        return Replica(Node(member, membership, draw, log, self.hard_state, limits), machine, new_id, compactor)


def recover(replay: Replay, snapshot: Snapshot | None) -> Recovered:
    """Puts a log and the newest whole snapshot together. Raises Corrupt when something between them is missing."""
    index, term = (snapshot.index, snapshot.term) if snapshot is not None else (0, 0)
    if replay.base is not None and replay.base[0] > index:
        raise Corrupt(f"the snapshot at {replay.base[0]}, on which the log builds, is missing or damaged")
    entries = entries_after(replay, index, term)
    hard_state = replay.hard_state
    if snapshot is None or entries or replay.base == (index, term):
        return Recovered(hard_state, entries, snapshot)
    # The member may have died between saving a leader's snapshot and noting it in the log: note it now, or the next
    # entries would not follow the last ones that the log holds.
    if term > hard_state.term:
        hard_state = HardState(term, 0, index)
    return Recovered(hard_state, [], snapshot, Write(hard_state, [], Snapshot(index, term, snapshot.membership), []))

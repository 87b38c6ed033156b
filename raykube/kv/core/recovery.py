"""A member out of what its disk holds: the newest snapshot, and the log behind it.

When parts of that are damaged or missing, the member is *lacking*: it begins at its newest whole snapshot, or at
nothing, and gets the rest from a leader. That is safe because its last frame says all that it promised: term and vote,
and the place of the last entry that it acknowledged (`wal_codec.Place`). It goes on to answer for that place: it votes
for no log that is older, and for itself not at all, until its own log is as new again. A member that is the only voter
has nobody to get it from: it does not start.
"""

from collections.abc import Callable
from dataclasses import dataclass

from raykube.kv.core.compactor import Compactor
from raykube.kv.core.mvcc.machine import Machine
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Snapshot, Write
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import Replica
from raykube.kv.core.wal_codec import Corrupt, Place
from raykube.kv.core.wal_replay import Replay, entries_after


def founding_write(membership: Membership) -> Write:
    """A founding member's first write: the membership. All founders write the same, so it is in all logs, committed."""
    return Write(HardState(1, 0, 1), [Entry(1, 1, EntryKind.CONFIG, membership.encode())], None, [])


def is_blank(replay: Replay) -> bool:
    """Whether the log says nothing yet: its member was never founded, or died while it was."""
    return not (replay.entries or replay.base or replay.damage) and replay.hard_state == HardState()


def add(replay: Replay, write: Write) -> None:
    """Adds a write to what was read before it."""
    if write.hard_state is not None:
        replay.hard_state = write.hard_state
    replay.entries += write.entries
    replay.tail = Place(write.entries[-1].term, write.entries[-1].index)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a member remembers."""

    hard_state: HardState
    entries: list[Entry]
    snapshot: Snapshot | None
    marker: Write | None = None  # to be made durable first: tells the log that the snapshot replaced what it holds
    lacking: Place | None = None  # the end of the log that this member answers for, when it has less
    missing: str = ""  # why
    founders: Membership | None = None  # the members, as long as neither log nor snapshot says who they are

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
        membership = self.founders or Membership()
        if self.snapshot is not None:
            machine.restore(self.snapshot.data)
            index, term, membership = self.snapshot.index, self.snapshot.term, self.snapshot.membership
        log = Log(index, term, self.entries, self.hard_state.commit)
        log.answers_for = self.lacking or Place()
        return Replica(Node(member, membership, draw, log, self.hard_state, limits), machine, new_id, compactor)


def recover(replay: Replay, snapshot: Snapshot | None, founders: Membership | None = None) -> Recovered:
    """Puts a log and the newest whole snapshot together; `founders` are the members when neither says who they are.

    Raises Corrupt when something is missing that no other member has.
    """
    index, term = (snapshot.index, snapshot.term) if snapshot is not None else (0, 0)
    entries: list[Entry] = []
    missing = ""
    if replay.base is not None and replay.base[0] > index:
        missing = f"the snapshot at {replay.base[0]}, on which the log builds, is missing or damaged"
    else:
        try:
            entries = entries_after(replay, index, term)
        except Corrupt as error:
            missing = str(error)
    end = Place(entries[-1].term, entries[-1].index) if entries else Place(term, index)
    if not missing and end >= replay.tail:
        marker = None
        if snapshot is not None and not entries and replay.base != (index, term):
            # The member may have died between saving a leader's snapshot and noting it in the log: note it now, or the
            # next entries would not follow the last ones that the log holds.
            marker = _marker(replay.hard_state, snapshot)
        hard_state = replay.hard_state if marker is None or marker.hard_state is None else marker.hard_state
        return Recovered(hard_state, entries, snapshot, marker)
    missing = missing or f"the log ends at {end.index}, and this member has acknowledged {replay.tail.index}"
    return _lacking(replay, snapshot, entries, founders, "; ".join([*replay.damage, missing]))


def _lacking(
    replay: Replay, snapshot: Snapshot | None, entries: list[Entry], founders: Membership | None, missing: str
) -> Recovered:
    known = replay.membership or (snapshot.membership if snapshot is not None else founders) or Membership()
    if replay.meta is not None and known.voters == {replay.meta.member_id}:
        raise Corrupt(
            f"{missing}: this member is the only one, so nobody has what is lost: begin again with a backup "
            "(raykube kv snapshot restore)"
        )
    start = snapshot or Snapshot(0, 0, Membership())
    # With entries it has begun again before, and was stopped before it had everything.
    marker = None if entries or replay.base == (start.index, start.term) else _marker(replay.hard_state, start)
    hard_state = replay.hard_state if marker is None or marker.hard_state is None else marker.hard_state
    return Recovered(hard_state, entries, snapshot, marker, replay.tail, missing, founders)


def _marker(hard_state: HardState, start: Snapshot) -> Write:
    """Tells the log that it begins again behind `start`."""
    vote = hard_state.vote if hard_state.term >= start.term else 0
    renewed = HardState(max(hard_state.term, start.term), vote, start.index)
    return Write(renewed, [], Snapshot(start.index, start.term, start.membership), [])

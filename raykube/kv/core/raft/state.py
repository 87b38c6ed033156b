"""What every role of a member works on: its log, its term and vote, the memberships, and the ways out.

`Node` is put together from this and from one class a concern, each knowing only those below it:

    Node: inputs and outputs
    Elections: who leads            Following: what a leader's messages do
    Leading: replication, commit, reads
    State
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from raykube.kv.core.raft.gathering import Gathering
from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, ReadState, Snapshot
from raykube.kv.core.raft.progress import Progress
from raykube.kv.core.raft.reads import Reads


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds. Beyond `uncommitted_bytes_max` a leader refuses proposals: its log must not grow without a quorum."""

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    message_bytes_max: int = 1 << 20
    window_messages_max: int = 64
    gathered_bytes_max: int = 64 << 10  # of entries that wait for those on their way to a quorum
    window_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 128 << 20
    apply_bytes_max: int = 8 << 20
    kept_bytes_max: int = 64 << 20  # of entries that a snapshot stands for already, for members that lag a little


_NO_PROMISE = frozenset({Kind.HEARTBEAT_ANSWER, Kind.PROPOSE, Kind.READ_INDEX})


class State:
    """The fields of a node, and what all its roles do with them."""

    def __init__(
        self,
        member: int,
        membership: Membership,
        draw: Callable[[int], int],
        log: Log | None = None,
        hard_state: HardState | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.id = member
        self.log = log or Log()
        self.limits = limits or Limits()
        hard_state = hard_state or HardState()
        self.term, self.vote = hard_state.term, hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = 0
        self.progress: dict[int, Progress] = {}
        self.transferee = 0
        self.snapshot = Snapshot(self.log.base, self.log.base_term, membership)
        # Memberships in the log, oldest first; the last one holds.
        self._memberships = [(self.log.base, membership)]
        self._note_memberships(self.log.entries)
        self._draw = draw
        self._elapsed = 0
        self._is_excused = False  # this member's standing still, since the leader was heard of
        self._heartbeat_elapsed = 0
        self._unsure_ticks = 0  # until this leader, which stood still, knows again who answers
        self._timeout = 0
        self._transfer_elapsed = 0
        self._votes: dict[int, bool] = {}
        self._reads = Reads()
        self._uncommitted_bytes = 0
        self._postponed: deque[Message] = deque()  # a leader's: proposals of others that it cannot take yet
        self._postponed_bytes = 0
        self._released = 0  # a leader's entries up to here may leave
        self._has_left = False  # since the last `ready`, something did
        self._gathering = Gathering(self.limits.gathered_bytes_max)  # of those behind them
        self._saved = HardState(self.term, self.vote, self.log.committed)
        self.is_disk_full = False  # this member's own; told to the leader
        self._full_member = 0  # another one; as leader by the answers to heartbeats, else by the leader's word
        self._is_writing = False
        self._pending_snapshot: Snapshot | None = None
        self._now: list[Message] = []  # may leave before the next write
        self._after: list[Message] = []  # must not
        self._read_states: list[ReadState] = []
        self._reset_timeout()

    # ---- facts

    @property
    def membership(self) -> Membership:
        return self._memberships[-1][1]

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def has_committed_in_term(self) -> bool:
        """Whether an entry of this term is committed: until then a leader does not know what is."""
        return self.log.term(self.log.committed) == self.term

    @property
    def full_member(self) -> int:
        """A member of the group whose disk is full, as far as this one knows; 0: none."""
        if self.is_disk_full:
            return self.id
        return self._full_member if self.leader else 0

    @property
    def is_installing(self) -> bool:
        """Whether a leader's snapshot waits for the disk: until then the log begins behind what is applied."""
        return self._pending_snapshot is not None

    def installs(self, snapshot: Snapshot) -> bool:
        """Whether this very snapshot waits for the disk."""
        return self._pending_snapshot is snapshot

    @property
    def settled(self) -> Membership:
        """The membership as of what is committed: it is never taken back."""
        at, newest = self._memberships[-1]
        return newest if at <= self.log.committed else self.membership_at(max(self.log.base, self.log.committed))

    def membership_at(self, index: int) -> Membership:
        """The membership as of the entry at `index`, which must not be before the log's base."""
        return next(membership for at, membership in reversed(self._memberships) if at <= index)

    # ---- roles

    def _may_campaign(self) -> bool:
        """A voter may. So may one whose removal is in its log and not committed: only its log may have that entry, and
        the others cannot elect anybody behind it (Ongaro §4.2.2). It counts for nothing in its own election."""
        is_voter = self.id in self.membership.voters or (
            self._memberships[-1][0] > self.log.committed and self.id in self._memberships[-2][1].voters
        )
        is_able = self._pending_snapshot is None and not self.log.is_lacking
        return is_able and is_voter and self.role is not Role.LEADER

    def _reset_timeout(self) -> None:
        self._timeout = self.limits.election_ticks + self._draw(self.limits.election_ticks)

    def _become_follower(self, term: int, leader: int) -> None:
        if term > self.term:
            self.term, self.vote = term, 0
        self.role, self.leader = Role.FOLLOWER, leader
        self._leave_role()

    def _leave_role(self) -> None:
        self.progress = {}
        self.transferee = 0
        self._elapsed = self._unsure_ticks = 0
        self._votes = {}
        self._reads.clear()
        self._postponed.clear()
        self._postponed_bytes = self._uncommitted_bytes = self._released = self._full_member = 0
        self._gathering.clear()
        self._reset_timeout()

    def _note_memberships(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind == EntryKind.CONFIG:
                self._memberships.append((entry.index, Membership.decode(entry.data)))
        if self.role is Role.LEADER:
            for member in self.membership.ids:
                if member not in self.progress:
                    self.progress[member] = Progress(
                        next=self.log.last, is_active=True, silent_ticks=self.limits.election_ticks
                    )
            for member in [member for member in self.progress if member not in self.membership.ids]:
                del self.progress[member]
            self._look_for_full_disks()

    def _look_for_full_disks(self) -> None:
        """As leader: whose disk is full, of the voters that answer. Nothing is missed where a learner has no room."""
        full = [member for member, progress in self.progress.items() if progress.is_disk_full]
        alive = (m for m in full if self.progress[m].silent_ticks < self.limits.election_ticks)
        self._full_member = min(self.membership.voters.intersection(alive), default=0)

    # ---- the ways out

    def _send(self, kind: Kind, to: int, *, index: int = 0, reject: bool = False, hint: int = 0, log_term: int = 0,
              context: int = 0, commit: int = 0, lost_behind: int | None = None) -> None:  # fmt: skip
        message = Message(
            kind, to, self.id, self.term,
            index=index, reject=reject, hint=hint, log_term=log_term, context=context,
            commit=commit if lost_behind is None else lost_behind, force=lost_behind is not None,
        )  # fmt: skip
        self._outbox(kind).append(message)

    def _outbox(self, kind: Kind) -> list[Message]:
        """Where a message goes: what promises nothing that the disk must remember may leave, once the term is durable.

        So a slow disk makes writes slow, and nobody look dead.
        """
        is_free = self.role is Role.LEADER or kind in _NO_PROMISE
        return self._now if is_free and self._saved.term == self.term else self._after

"""One Raft member: terms, elections, replication, reads. `step` and `tick` it, then take what it wants done: `ready`.

Roles: a *follower* hears a leader or waits; a *pre-candidate* asks whether it could win, without touching its term; a
*candidate* asks for votes; a *leader* replicates. A node whose loop stood still must be ticked once, not for all the
time lost: it has not listened either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Kind,
    Message,
    ReadState,
    Ready,
    Snapshot,
    Write,
)
from raykube.kv.core.raft.progress import Progress, Sending
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
    uncommitted_bytes_max: int = 128 << 20
    apply_bytes_max: int = 8 << 20


_FROM_LEADER = frozenset({Kind.APPEND, Kind.HEARTBEAT, Kind.SNAPSHOT})
_VOTES = frozenset({Kind.VOTE, Kind.PRE_VOTE})
_NO_PROMISE = frozenset({Kind.HEARTBEAT_ANSWER, Kind.PROPOSE, Kind.READ_INDEX})


class Node:
    """The state of one member. `draw(n)` draws a number in 0..n-1, for the election time-out."""

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
        self._heartbeat_elapsed = 0
        self._timeout = 0
        self._transfer_elapsed = 0
        self._votes: dict[int, bool] = {}
        self._reads = Reads()
        self._uncommitted_bytes = 0
        self._saved = HardState(self.term, self.vote, self.log.committed)
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

    def membership_at(self, index: int) -> Membership:
        """The membership as of the entry at `index`, which must not be before the log's base."""
        return next(membership for at, membership in reversed(self._memberships) if at <= index)

    # ---- inputs

    def tick(self) -> None:
        """A tick of time went by."""
        self._elapsed += 1
        if self.role is not Role.LEADER:
            if self._elapsed >= self._timeout and self._may_campaign():
                self.campaign()
            return
        self._heartbeat_elapsed += 1
        if self._elapsed >= self.limits.election_ticks:
            self._elapsed = 0
            if not self._check_quorum():
                self._become_follower(self.term, 0)
                return
        if self.transferee:
            self._transfer_elapsed += 1
            if self._transfer_elapsed >= self.limits.election_ticks:
                self.transferee = 0  # it did not take over: go on as the leader
        if self._heartbeat_elapsed >= self.limits.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()

    def campaign(self, force: bool = False) -> None:
        """Starts an election: with a pre-vote, unless the leader itself told this member to take over."""
        if not self._may_campaign():
            return
        self._elapsed = 0
        self._reset_timeout()
        if force:
            self._become_candidate(force=True)
        else:
            self._become_pre_candidate()

    def on_peer_lost(self, member: int) -> None:
        """The connection to `member` closed. If it led, its successor need not wait for the time-out."""
        if member == self.leader and self.role is Role.FOLLOWER:
            self.leader = 0
            self._elapsed = 0
            self._timeout = 1 + self._draw(max(2, self.limits.election_ticks // 3))

    def propose(self, payloads: Sequence[bytes], kind: EntryKind = EntryKind.NORMAL) -> bool:
        """Appends entries to the log of this leader; False: not now (no leader, handing over, too much uncommitted)."""
        if not self.is_leader or self.transferee or self.id not in self.membership.voters:
            return False
        size = sum(map(len, payloads))
        if self._uncommitted_bytes and self._uncommitted_bytes + size > self.limits.uncommitted_bytes_max:
            return False
        self._append(payloads, kind)
        return True

    def forward(self, entries: Sequence[Entry]) -> None:
        """Passes proposals to the leader of this term. They may be lost, and are never appended in another term."""
        self._outbox(Kind.PROPOSE).append(Message(Kind.PROPOSE, self.leader, self.id, self.term, entries=entries))

    def propose_membership(self, membership: Membership) -> bool:
        """Appends a new membership; False when it is not this node's turn, or the step is too large.

        One change at a time, and none before this term has a commit (the 2015 correction to single-server changes).
        """
        is_settled = self._memberships[-1][0] <= self.log.committed and self.has_committed_in_term
        if not is_settled or not membership.voters or not membership.follows(self.membership):
            return False
        return self.propose([membership.encode()], EntryKind.CONFIG)

    def read_index(self, context: int) -> None:
        """Asks for an index at which a linearizable read may happen. Nothing comes when no leader answers: ask again,
        with a new context."""
        if self.is_leader:
            self._on_read(context, self.id)
        elif self.leader:
            self._send(Kind.READ_INDEX, self.leader, context=context)

    def transfer(self, member: int) -> None:
        """Hands leadership to `member`: proposals wait until it has taken over or a time-out's ticks went by."""
        progress = self.progress.get(member)
        if not self.is_leader or progress is None or member not in self.membership.voters or member == self.id:
            return
        self.transferee, self._transfer_elapsed = member, 0
        if progress.match == self.log.last:
            self._send(Kind.TIMEOUT_NOW, member)
        else:
            self._send_append(member)

    def on_unreachable(self, member: int) -> None:
        """A message to `member` may be lost."""
        progress = self.progress.get(member)
        if progress is not None and progress.sending is Sending.REPLICATE:
            progress.become_probe()

    def on_snapshot_sent(self, member: int, arrived: bool) -> None:
        """The snapshot for `member` was delivered, or not."""
        progress = self.progress.get(member)
        if progress is None or progress.sending is not Sending.SNAPSHOT:
            return
        if not arrived:
            progress.snapshot_index = 0
        progress.become_probe()
        # Wait for its answer or the next heartbeat: the snapshot is not yet installed.
        progress.is_probe_sent = True

    def on_snapshot_saved(self, snapshot: Snapshot, entries_kept: int) -> None:
        """A snapshot of this member's own is durable: drops the entries it stands for, but for the last few."""
        if snapshot.index <= self.snapshot.index:
            return
        self.snapshot = snapshot
        base = min(snapshot.index, max(self.log.base, snapshot.index - entries_kept))
        holding = self.membership_at(base)
        self.log.compact(base)
        later = [item for item in self._memberships if item[0] > base]
        self._memberships = [(base, holding), *later]

    def step(self, message: Message) -> None:
        """Takes a message from another member."""
        kind = message.kind
        if message.term > self.term:
            if kind in _VOTES and not message.force and self.leader and self._elapsed < self.limits.election_ticks:
                return  # stickiness: there is a leader, whatever the other one thinks
            if kind is not Kind.PRE_VOTE and not (kind is Kind.PRE_VOTE_ANSWER and not message.reject):
                self._become_follower(message.term, message.sender if kind in _FROM_LEADER else 0)
        elif message.term < self.term:
            if kind in _FROM_LEADER:
                self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)  # shows it the new term
            elif kind is Kind.PRE_VOTE:
                self._send(Kind.PRE_VOTE_ANSWER, message.sender, reject=True)
            return
        if kind in _VOTES:
            self._on_vote_request(message)
        elif kind in _FROM_LEADER:
            if self.role is Role.LEADER:
                raise AssertionError(f"two leaders in term {self.term}: {self.id} and {message.sender}")
            if self.role is not Role.FOLLOWER or self.leader != message.sender:
                self._become_follower(self.term, message.sender)
            self._elapsed = 0
            self._FOLLOWER[kind](self, message)
        elif kind is Kind.TIMEOUT_NOW:
            if self.role is not Role.LEADER:
                self.campaign(force=True)
        elif kind in (Kind.VOTE_ANSWER, Kind.PRE_VOTE_ANSWER):
            self._on_vote_answer(message)
        elif kind is Kind.READ_INDEX_ANSWER:
            self._read_states.append(ReadState(message.context, message.index))
        elif self.role is Role.LEADER:
            if kind is Kind.PROPOSE:
                self.propose([entry.data for entry in message.entries])
            elif kind is Kind.READ_INDEX:
                self._on_read(message.context, message.sender)
            elif message.sender in self.progress:
                self._LEADER[kind](self, message, self.progress[message.sender])

    # ---- output

    def ready(self) -> Ready:
        """Takes what is to be done now."""
        ready = Ready(self._now, None, self.log.take_committed(self.limits.apply_bytes_max), self._read_states)
        self._now, self._read_states = [], []
        if not self._is_writing:
            entries = self.log.unstable()
            hard_state = HardState(self.term, self.vote, self.log.committed)
            is_changed = (self.term, self.vote) != (self._saved.term, self._saved.vote)
            snapshot = self._pending_snapshot
            # The commit index alone is not worth a write: it is learned again.
            write = Write(
                hard_state if is_changed or entries or snapshot is not None else None, entries, snapshot, self._after
            )
            if write.touches_disk or write.messages:
                self._after = []
                self._is_writing = True
                ready.write = write
        return ready

    def persisted(self, write: Write) -> None:
        """`write` is durable and its messages are on their way."""
        self._is_writing = False
        if write.hard_state is not None:
            self._saved = write.hard_state
        if write.snapshot is not None and write.snapshot is self._pending_snapshot:
            self._pending_snapshot = None
        self.log.mark_stable(write.entries)
        if self.is_leader and self.id in self.progress:
            self.progress[self.id].on_accepted(self.log.stable)
            self._maybe_commit()

    # ---- roles

    def _may_campaign(self) -> bool:
        return self.id in self.membership.voters and self._pending_snapshot is None and self.role is not Role.LEADER

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
        self._elapsed = 0
        self._votes = {}
        self._reads.clear()
        self._uncommitted_bytes = 0
        self._reset_timeout()

    def _become_pre_candidate(self) -> None:
        self.role, self.leader = Role.PRE_CANDIDATE, 0
        self._ask_for_votes(Kind.PRE_VOTE, self.term + 1, force=False)

    def _become_candidate(self, force: bool) -> None:
        self.term += 1
        self.vote = self.id
        self.role, self.leader = Role.CANDIDATE, 0
        self._ask_for_votes(Kind.VOTE, self.term, force)

    def _ask_for_votes(self, kind: Kind, term: int, force: bool) -> None:
        self._votes = {self.id: True}
        for member in sorted(self.membership.voters):
            if member != self.id:
                self._after.append(
                    Message(kind, member, self.id, term, log_term=self.log.last_term, index=self.log.last, force=force)
                )
        self._count_votes()

    def _become_leader(self) -> None:
        self.role, self.leader = Role.LEADER, self.id
        self._leave_role()
        self._heartbeat_elapsed = 0
        for member in self.membership.ids:
            self.progress[member] = Progress(next=self.log.last + 1)
        own = self.progress[self.id]
        own.sending, own.match = Sending.REPLICATE, self.log.stable
        self._append([b""], EntryKind.NORMAL)

    # ---- elections

    def _on_vote_request(self, message: Message) -> None:
        is_pre = message.kind is Kind.PRE_VOTE
        may_vote = (
            self.vote == message.sender or (not self.vote and not self.leader) or (is_pre and message.term > self.term)
        )
        granted = may_vote and self.log.is_up_to_date(message.index, message.log_term)
        if granted and not is_pre:
            self._elapsed = 0
            self.vote = message.sender
        self._after.append(
            Message(
                Kind.PRE_VOTE_ANSWER if is_pre else Kind.VOTE_ANSWER,
                message.sender,
                self.id,
                message.term if granted else self.term,
                reject=not granted,
            )
        )

    def _on_vote_answer(self, message: Message) -> None:
        wanted = Role.PRE_CANDIDATE if message.kind is Kind.PRE_VOTE_ANSWER else Role.CANDIDATE
        if self.role is wanted:
            self._votes.setdefault(message.sender, not message.reject)
            self._count_votes()

    def _count_votes(self) -> None:
        voters = self.membership.voters
        for_it = sum(1 for member, granted in self._votes.items() if granted and member in voters)
        against = sum(1 for member, granted in self._votes.items() if not granted and member in voters)
        if for_it >= self.membership.quorum:
            if self.role is Role.PRE_CANDIDATE:
                self._become_candidate(force=False)
            else:
                self._become_leader()
        elif against > len(voters) - self.membership.quorum:
            self._become_follower(self.term, 0)

    def _check_quorum(self) -> bool:
        active = {member for member, progress in self.progress.items() if progress.is_active or member == self.id}
        for progress in self.progress.values():
            progress.is_active = False
        return len(active & self.membership.voters) >= self.membership.quorum

    # ---- leader

    def _append(self, payloads: Sequence[bytes], kind: EntryKind) -> None:
        first = self.log.last + 1
        entries = [Entry(self.term, first + offset, kind, payload) for offset, payload in enumerate(payloads)]
        self.log.append(entries)
        self._uncommitted_bytes += sum(map(len, payloads))
        self._note_memberships(entries)
        self._broadcast_append()

    def _note_memberships(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind == EntryKind.CONFIG:
                self._memberships.append((entry.index, Membership.decode(entry.data)))
        if self.role is Role.LEADER:
            for member in self.membership.ids:
                if member not in self.progress:
                    self.progress[member] = Progress(next=self.log.last, is_active=True)
            for member in [member for member in self.progress if member not in self.membership.ids]:
                del self.progress[member]

    def _send(self, kind: Kind, to: int, *, index: int = 0, reject: bool = False, hint: int = 0, log_term: int = 0,
              context: int = 0, commit: int = 0) -> None:  # fmt: skip
        message = Message(
            kind, to, self.id, self.term,
            index=index, reject=reject, hint=hint, log_term=log_term, context=context, commit=commit,
        )  # fmt: skip
        self._outbox(kind).append(message)

    def _outbox(self, kind: Kind) -> list[Message]:
        """Where a message goes: what promises nothing that the disk must remember may leave, once the term is durable.

        So a slow disk makes writes slow, and nobody look dead.
        """
        is_free = self.role is Role.LEADER or kind in _NO_PROMISE
        return self._now if is_free and self._saved.term == self.term else self._after

    def _broadcast_append(self) -> None:
        for member in self.progress:
            if member != self.id:
                self._send_appends(member)

    def _send_appends(self, member: int) -> None:
        """Sends entries until the window is full or all are sent."""
        progress = self.progress[member]
        while progress.next <= self.log.last and progress.may_send(self.limits.window_messages_max):
            self._send_append(member)

    def _send_append(self, member: int) -> None:
        """Sends one message with the next entries; with none, it still carries the commit index."""
        progress = self.progress[member]
        if not progress.may_send(self.limits.window_messages_max):
            return
        previous = progress.next - 1
        previous_term = self.log.term(previous)
        if previous_term is None:
            self._send_snapshot(member, progress)
            return
        entries = self.log.slice(progress.next, self.limits.message_bytes_max)
        self._outbox(Kind.APPEND).append(
            Message(
                Kind.APPEND, member, self.id, self.term,
                log_term=previous_term, index=previous, entries=entries, commit=self.log.committed,
            )
        )  # fmt: skip
        progress.on_sent(previous + len(entries), len(entries))

    def _send_snapshot(self, member: int, progress: Progress) -> None:
        if not progress.is_active:
            return  # it would go to nobody; its next heartbeat answer starts it
        progress.become_snapshot(self.snapshot.index)
        self._outbox(Kind.SNAPSHOT).append(Message(Kind.SNAPSHOT, member, self.id, self.term, snapshot=self.snapshot))

    def _broadcast_heartbeat(self) -> None:
        for member, progress in self.progress.items():
            if member != self.id:
                # Never beyond what the follower is known to have: its log may hold something else there.
                commit = min(progress.match, self.log.committed)
                self._send(Kind.HEARTBEAT, member, commit=commit, context=self._reads.round)

    def _on_append_answer(self, message: Message, progress: Progress) -> None:
        progress.is_active = True
        if message.reject:
            if (
                progress.sending is Sending.SNAPSHOT
                or message.index <= progress.match
                or (progress.sending is Sending.PROBE and message.index != progress.next - 1)
            ):
                return  # an old answer
            progress.become_probe(self.log.backtrack(message.hint, message.log_term))
            self._send_append(message.sender)
            return
        if not progress.on_accepted(message.index) and progress.sending is not Sending.PROBE:
            if progress.sending is Sending.REPLICATE:
                self._send_appends(message.sender)
            return
        is_found = progress.sending is Sending.PROBE or (
            progress.sending is Sending.SNAPSHOT and progress.match >= max(progress.snapshot_index, self.log.base)
        )
        if is_found:
            progress.become_replicate()
        if not self._maybe_commit():
            if is_found:
                self._send_append(message.sender)  # what was committed while it was looked for
            self._send_appends(message.sender)
        if message.sender == self.transferee and progress.match == self.log.last:
            self._send(Kind.TIMEOUT_NOW, message.sender)

    def _on_heartbeat_answer(self, message: Message, progress: Progress) -> None:
        progress.is_active = True
        progress.is_probe_sent = False
        progress.round_confirmed = max(progress.round_confirmed, message.context)
        if progress.sending is Sending.REPLICATE and len(progress.in_flight) >= self.limits.window_messages_max:
            progress.in_flight.popleft()  # its answer may be lost: the window must not stay shut for ever
        if progress.match < self.log.last:
            self._send_append(message.sender)
        self._confirm_reads()

    def _maybe_commit(self) -> bool:
        matches = sorted((self.progress[member].match for member in self.membership.voters), reverse=True)
        index = matches[self.membership.quorum - 1]
        # Only an entry of its own term is committed by counting; older ones with it (Raft §5.4.2).
        if self.log.term(index) != self.term or index <= self.log.committed:
            return False
        first = self.log.committed + 1
        self.log.commit_to(index)
        newly = self.log.entries[first - self.log.base - 1 : index - self.log.base]
        self._uncommitted_bytes = max(0, self._uncommitted_bytes - sum(len(entry.data) for entry in newly))
        for member in self.progress:
            if member != self.id:
                self._send_append(member)
                self._send_appends(member)
        self._start_reads()
        if self._memberships[-1][0] <= index and self.id not in self.membership.voters:
            self._become_follower(self.term, 0)  # it has removed itself, and that is committed
        return True

    # ---- reads

    def _on_read(self, context: int, sender: int) -> None:
        self._reads.add(context, sender)
        self._start_reads()

    def _start_reads(self) -> None:
        """Starts a round for the waiting readers; before a commit in this term the leader knows no safe index."""
        if self.is_leader and self.has_committed_in_term and self._reads.start_round(self.log.committed):
            self._broadcast_heartbeat()
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        confirmed = sorted(
            (
                self._reads.round if member == self.id else self.progress[member].round_confirmed
                for member in self.membership.voters
            ),
            reverse=True,
        )
        for context, sender, index in self._reads.confirm(confirmed[self.membership.quorum - 1]):
            if sender == self.id:
                self._read_states.append(ReadState(context, index))
            else:
                self._send(Kind.READ_INDEX_ANSWER, sender, index=index, context=context)

    # ---- follower

    def _on_append(self, message: Message) -> None:
        if message.index < self.log.committed:
            self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)
            return
        if self.log.term(message.index) != message.log_term:
            hint = self.log.backtrack(message.index, message.log_term)
            self._send(
                Kind.APPEND_ANSWER, message.sender,
                index=message.index, reject=True, hint=hint, log_term=self.log.term(hint) or 0,
            )  # fmt: skip
            return
        # Cut only at a real conflict: a late message must not cut what a newer one appended.
        position = self.log.first_conflict(message.entries)
        if position is not None:
            fresh = message.entries[position:]
            self._memberships = [item for item in self._memberships if item[0] < fresh[0].index]
            self.log.replace(fresh)
            self._note_memberships(fresh)
        last = message.index + len(message.entries)
        # Beyond `last` this log is not known to agree with the leader's.
        self.log.commit_to(min(message.commit, last))
        self._send(Kind.APPEND_ANSWER, message.sender, index=last)

    def _on_heartbeat(self, message: Message) -> None:
        if message.commit > self.log.last:
            # The leader never says more than this member acknowledged to it, on disk, in this very term.
            raise AssertionError(
                f"this member acknowledged entries up to {message.commit} and has them only up to {self.log.last}: "
                "its data directory was emptied or is an old copy"
            )
        self.log.commit_to(message.commit)
        self._send(Kind.HEARTBEAT_ANSWER, message.sender, context=message.context)

    def _on_snapshot(self, message: Message) -> None:
        snapshot = message.snapshot
        assert snapshot is not None
        if snapshot.index <= self.log.committed:
            pass  # older than what is known to be decided
        elif self.log.term(snapshot.index) == snapshot.term:
            self.log.commit_to(snapshot.index)  # the log has it all: no need for the image
        else:
            self.log.reset(snapshot.index, snapshot.term)
            self._memberships = [(snapshot.index, snapshot.membership)]
            self.snapshot = Snapshot(snapshot.index, snapshot.term, snapshot.membership)
            self._pending_snapshot = snapshot
        self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)

    _FOLLOWER = {Kind.APPEND: _on_append, Kind.HEARTBEAT: _on_heartbeat, Kind.SNAPSHOT: _on_snapshot}  # noqa: RUF012 - a constant
    _LEADER = {Kind.APPEND_ANSWER: _on_append_answer, Kind.HEARTBEAT_ANSWER: _on_heartbeat_answer}  # noqa: RUF012 - a constant

"""One Raft member: terms, elections, replication, reads. `step` and `tick` it, then take what it wants done: `ready`.

Roles: a *follower* hears a leader or waits; a *pre-candidate* asks whether it could win, without touching its term; a
*candidate* asks for votes; a *leader* replicates. A node whose loop stood still must be ticked once, not for all the
time lost: it has not listened either.
"""

from collections.abc import Sequence

from raykube.kv.core.raft.elections import Elections
from raykube.kv.core.raft.following import Following
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, ReadState, Ready, Snapshot, Write
from raykube.kv.core.raft.progress import Sending
from raykube.kv.core.raft.state import Limits, Role

__all__ = ["Limits", "Node", "Role"]

_FROM_LEADER = frozenset({Kind.APPEND, Kind.HEARTBEAT, Kind.COMMIT, Kind.SNAPSHOT})
_VOTES = frozenset({Kind.VOTE, Kind.PRE_VOTE})
MESSAGE_BYTES = 256  # of a message beside its data


def _size(message: Message) -> int:
    """About what a message with proposals takes in memory, in bytes."""
    return MESSAGE_BYTES + sum(len(entry.data) for entry in message.entries)


class Node(Elections, Following):
    """One member: what goes in, and what comes out."""

    # ---- inputs

    def tick(self) -> None:
        """A tick of time went by."""
        self._elapsed += 1
        if self.role is not Role.LEADER:
            if self._elapsed >= self._timeout:
                if self._may_campaign():
                    self.campaign()
                else:
                    self.leader = 0  # who cannot be elected must not believe for ever in who is silent
            return
        self._heartbeat_elapsed += 1
        self._unsure_ticks = max(0, self._unsure_ticks - 1)
        for progress in self.progress.values():
            progress.silent_ticks += 1
        self._look_for_full_disks()
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
        self._take_postponed()

    def on_stalled(self, missed_ticks: int) -> None:
        """This member stood still, and heard nobody meanwhile. Its leader may have stood still as well, with the same
        large entry: it gets a whole time-out to be heard of. Once: a member that is always slow must not wait for ever.
        A leader that missed a time-out's ticks knows who answers only when it has listened for so long again.
        """
        if self.is_leader and missed_ticks >= self.limits.election_ticks:
            self._unsure_ticks = self.limits.election_ticks
        if self.role is Role.FOLLOWER and self.leader and not self._is_excused:
            self._is_excused = True
            self._elapsed = 0

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

    def let_go(self, hold: int) -> bool:
        """Ends the hold of that number by the clock; False: it was over, and there is nothing new to do."""
        return self._gathering.let_go(hold)

    def forward(self, entries: Sequence[Entry]) -> None:
        """Passes proposals to the leader of this term. They may be lost, and are never appended in another term."""
        self._outbox(Kind.PROPOSE).append(Message(Kind.PROPOSE, self.leader, self.id, self.term, entries=entries))

    @property
    def may_change_members(self) -> bool:
        """Whether this leader may propose a new membership: one change at a time, none before this term has a commit
        (the 2015 correction to single-server changes), and none while it does not know who answers: it would promote a
        learner that died while it stood still."""
        is_sure = self.is_leader and not self._unsure_ticks
        return is_sure and self._memberships[-1][0] <= self.log.committed and self.has_committed_in_term

    def propose_membership(self, membership: Membership) -> bool:
        """Appends a new membership; False when it is not this node's turn, or the step is too large."""
        if not self.may_change_members or not membership.voters or not membership.follows(self.membership):
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
        self._release(at_once=True)  # a commit that this leader waits for may never come: perhaps that is why it goes
        if progress.match == self.log.last:
            self._send(Kind.TIMEOUT_NOW, member)
        else:
            self._send_append(member)

    def on_unreachable(self, member: int) -> None:
        """A message to `member` may be lost."""
        progress = self.progress.get(member)
        if progress is not None and progress.sending is Sending.REPLICATE:
            progress.become_probe()

    def on_snapshot_sent(self, member: int, arrived: bool, lacks_room: bool = False) -> None:
        """The snapshot for `member` was delivered, or not; `lacks_room`: it said that it has no room for it."""
        progress = self.progress.get(member)
        if progress is None or progress.sending is not Sending.SNAPSHOT:
            return
        if arrived or lacks_room:  # a connection that broke says nothing about its disk
            progress.lacks_room = lacks_room
        if not arrived:
            progress.snapshot_index = 0
        progress.become_probe()
        # Wait for its answer or the next heartbeat: the snapshot is not yet installed.
        progress.is_probe_sent = True

    def on_snapshot_saved(self, snapshot: Snapshot, entries_kept: int) -> None:
        """A snapshot of this member's own is durable: drops the entries it stands for, but for the last `entries_kept`,
        or as many as `kept_bytes_max` holds."""
        if snapshot.index <= self.snapshot.index:
            return
        self.snapshot = snapshot
        base = self.log.tail(snapshot.index, entries_kept, self.limits.kept_bytes_max)
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
            self._is_excused = False
            self._on_leader_message(message)
        elif kind is Kind.TIMEOUT_NOW:
            if self.role is not Role.LEADER:
                self.campaign(force=True)
        elif kind in (Kind.VOTE_ANSWER, Kind.PRE_VOTE_ANSWER):
            self._on_vote_answer(message)
        elif kind is Kind.READ_INDEX_ANSWER:
            self._read_states.append(ReadState(message.context, message.index))
        elif self.role is Role.LEADER:
            if kind is Kind.PROPOSE:
                self._postpone(message)
                self._take_postponed()
            elif kind is Kind.READ_INDEX:
                self._on_read(message.context, message.sender)
            elif message.sender in self.progress:
                if kind is Kind.APPEND_ANSWER:
                    self._on_append_answer(message, self.progress[message.sender])
                elif kind is Kind.HEARTBEAT_ANSWER:
                    self._on_heartbeat_answer(message, self.progress[message.sender])

    def _postpone(self, message: Message) -> None:
        """Keeps proposals of another member until they can be appended: it will not ask again in this term. They wait
        for the end of a transfer that fails, or for room; what is too much is lost."""
        size = _size(message)
        if self._postponed_bytes + size <= self.limits.uncommitted_bytes_max or not self._postponed:
            self._postponed.append(message)
            self._postponed_bytes += size

    def _take_postponed(self) -> None:
        """Appends what was postponed, in its order, as far as that goes now."""
        postponed = self._postponed
        while postponed and self.propose([entry.data for entry in postponed[0].entries]):
            message = postponed.popleft()
            self._postponed_bytes -= _size(message)
            self._await(message.sender, self.log.last)

    # ---- output

    @property
    def has_work(self) -> bool:
        """Whether `ready` has anything that should not wait; `has_news` is for what may."""
        if self._now or self._read_states or self._has_left or self.log.has_to_hand:
            return True
        end = self.log.last
        if self.role is Role.LEADER:
            if self._gathering.has_begun or self._may_release() or self._untold(with_news=False):
                return True
            end = self._released
        if self._is_writing:
            return False
        is_saved = self.term == self._saved.term and self.vote == self._saved.vote
        # A snapshot needs no look: its answer is in `_after`.
        return not is_saved or self.log.stable < end or bool(self._after)

    @property
    def has_news(self) -> bool:
        """Whether followers are to be told of commits for which nobody is known to wait."""
        return self.role is Role.LEADER and bool(self._untold(with_news=True))

    def ready(self, *, with_news: bool = True) -> Ready:
        """Takes what is to be done now; without news, what `has_work` speaks of."""
        hold, hold_rounds = 0, 0.0
        if self.role is Role.LEADER:
            self._release()
            self._tell_commits(with_news=with_news)
            hold, hold_rounds = self._gathering.begun()
        committed = self.log.take_committed(self.limits.apply_bytes_max)
        ready = Ready(self._now, None, committed, self._read_states, hold, hold_rounds, self._has_left)
        self._now, self._read_states, self._has_left = [], [], False
        if not self._is_writing:
            entries = self.log.unstable(self._released if self.role is Role.LEADER else self.log.last)
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
        self._on_own_vote_durable()
        if self.is_leader and self.id in self.progress:
            self.progress[self.id].on_accepted(self.log.stable)
            self._maybe_commit()

"""A leader's work: entries to the followers, their answers, what is committed, and when readers may read."""

from collections.abc import Sequence

from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, Kind, Message, ReadState
from raykube.kv.core.raft.progress import Progress, Sending
from raykube.kv.core.raft.state import State


class Leading(State):
    """What a node does as the leader of its term."""

    def _append(self, payloads: Sequence[bytes], kind: EntryKind) -> None:
        first = self.log.last + 1
        entries = [Entry(self.term, first + offset, kind, payload) for offset, payload in enumerate(payloads)]
        self.log.append(entries)
        size = sum(map(len, payloads))
        self._uncommitted_bytes += size
        self._gathering.add(size)
        self._note_memberships(entries)

    def _release(self, *, at_once: bool = False) -> None:
        """Lets new entries leave for the disks, all that arrived since the last `ready` together, when `Gathering` says
        so. A change of the members never waits: its quorum may be another one than that which the entries before it
        wait for.
        """
        if at_once or self._may_release():
            self._has_left |= self.log.last > self._released
            self._released = self.log.last
            self._gathering.leave()
            self._broadcast_append()

    def _may_release(self) -> bool:
        """Whether there are new entries, and they should leave now."""
        released = self._released
        if self.log.last == released:
            return False
        is_idle = self.log.committed >= released
        return self._memberships[-1][0] > released or self._gathering.may_leave(is_idle=is_idle)

    def _broadcast_append(self) -> None:
        for member in self.progress:
            if member != self.id:
                self._send_appends(member)

    def _send_appends(self, member: int) -> None:
        """Sends entries until the window is full or all that may leave are sent."""
        progress = self.progress[member]
        while progress.next <= self._released and self._may_send(progress):
            self._send_append(member)

    def _may_send(self, progress: Progress) -> bool:
        return progress.may_send(self.limits.window_messages_max, self.limits.window_bytes_max)

    def _send_append(self, member: int) -> None:
        """Sends one message with the next entries; with none, it still carries the commit index."""
        progress = self.progress[member]
        if not self._may_send(progress):
            return
        previous = progress.next - 1
        previous_term = self.log.term(previous)
        if previous_term is None:
            self._send_snapshot(member, progress)
            return
        entries = self.log.slice(progress.next, self._released, self.limits.message_bytes_max)
        self._outbox(Kind.APPEND).append(
            Message(
                Kind.APPEND, member, self.id, self.term,
                log_term=previous_term, index=previous, entries=entries, commit=self.log.committed,
            )
        )  # fmt: skip
        progress.commit_told = min(self.log.committed, previous + len(entries))
        progress.on_sent(previous + len(entries), len(entries), sum(len(entry.data) for entry in entries))

    def _send_snapshot(self, member: int, progress: Progress) -> None:
        if not progress.is_active:
            progress.is_probe_sent = True  # it would go to nobody; its next heartbeat answer starts it
            return
        progress.become_snapshot(self.snapshot.index)
        self._outbox(Kind.SNAPSHOT).append(Message(Kind.SNAPSHOT, member, self.id, self.term, snapshot=self.snapshot))

    def _tell_commits(self, *, with_news: bool = True) -> None:
        """Once for all that was committed and that no entries told of."""
        for member, progress in self._untold(with_news=with_news):
            # Never beyond what the follower is known to have: its log may hold something else there.
            progress.commit_told = min(progress.match, self.log.committed)
            self._send(Kind.COMMIT, member, commit=progress.commit_told)

    def _untold(self, *, with_news: bool) -> list[tuple[int, Progress]]:
        """Who is to be told of a commit; without news, those where somebody waits for it."""
        committed = self.log.committed
        return [
            (member, progress)
            for member, progress in self.progress.items()
            if (told := progress.commit_told) < committed
            and told < progress.match
            and member != self.id
            and (with_news or told < progress.awaited)
        ]

    def _broadcast_heartbeat(self) -> None:
        full_member = self.full_member
        for member, progress in self.progress.items():
            if member != self.id:
                # Never beyond what the follower is known to have: its log may hold something else there.
                commit = min(progress.match, self.log.committed)
                self._send(Kind.HEARTBEAT, member, commit=commit, context=self._reads.round, hint=full_member)

    def alive(self) -> frozenset[int]:
        """Who answered this leader within an election time-out, itself included."""
        return frozenset(
            member
            for member, progress in self.progress.items()
            if member == self.id or progress.silent_ticks < self.limits.election_ticks
        )

    def heir(self) -> int:
        """The voter that should lead when this leader goes: of those that answer, the most advanced; 0: none does."""
        voters = sorted(self.alive() & self.membership.voters - {self.id})
        return max(voters, key=lambda member: self.progress[member].match, default=0)

    def _check_quorum(self) -> bool:
        active = {member for member, progress in self.progress.items() if progress.is_active or member == self.id}
        for progress in self.progress.values():
            progress.is_active = False
        return len(active & self.membership.voters) >= self.membership.quorum

    # ---- answers

    def _on_append_answer(self, message: Message, progress: Progress) -> None:
        progress.on_heard()
        if message.reject:
            if message.force and progress.match > message.commit:
                # It has lost entries that it acknowledged, and still answers for them: see recovery.py.
                progress.match = 0
                progress.become_probe(self.log.backtrack(message.hint, message.log_term))
                self._send_append(message.sender)
                return
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
        self._maybe_commit()
        if message.sender in self.progress:  # else that committed the removal of this leader
            self._send_appends(message.sender)
        if message.sender == self.transferee and progress.match == self.log.last:
            self._send(Kind.TIMEOUT_NOW, message.sender)

    def _on_heartbeat_answer(self, message: Message, progress: Progress) -> None:
        progress.on_heard()
        if progress.is_disk_full is not message.reject:
            progress.is_disk_full = message.reject
            self._look_for_full_disks()
        is_of_round = message.context > progress.round_confirmed
        progress.round_confirmed = max(progress.round_confirmed, message.context)
        self._confirm_reads()
        if is_of_round:
            return
        # It was sent because time went by, not for readers: those may be thousands a second, and so much is not lost.
        progress.is_probe_sent = False
        if progress.sending is Sending.REPLICATE and not self._may_send(progress):
            progress.forget_oldest()
        if progress.match < self._released:
            self._send_append(message.sender)

    def _held_by_quorum(self, membership: Membership) -> int:
        """The last index that a quorum of `membership` has on disk."""
        progress = self.progress
        matches = sorted((progress[m].match if m in progress else 0 for m in membership.voters), reverse=True)
        return matches[membership.quorum - 1] if matches else 0

    def _maybe_commit(self) -> None:
        index = self._held_by_quorum(self.membership)
        changed_at, _ = self._memberships[-1]
        if changed_at > self.log.committed and len(self._memberships) > 1:
            # Up to the entry that changes the members, a quorum of those before it is as good: a leader that lacks
            # the entry would need one of them, one that has it keeps it. So a second member can be added to a first
            # alone, before it runs.
            index = max(index, min(changed_at, self._held_by_quorum(self._memberships[-2][1])))
        # Only an entry of its own term is committed by counting; older ones with it (Raft §5.4.2).
        if self.log.term(index) != self.term or index <= self.log.committed:
            return
        first = self.log.committed + 1
        self.log.commit_to(index)
        newly = self.log.entries[first - self.log.base - 1 : index - self.log.base]
        size = sum(len(entry.data) for entry in newly)
        self._uncommitted_bytes = max(0, self._uncommitted_bytes - size)
        if index >= self._released:
            self._gathering.on_commit(size, self.log.last - first + 1)
        self._start_reads()
        if self._memberships[-1][0] <= index and self.id not in self.membership.voters:
            self._tell_commits()
            heir = self.heir()  # this member has removed itself, and that is committed: it leads no more
            if heir:
                self._send(Kind.TIMEOUT_NOW, heir)
            self._become_follower(self.term, 0)

    # ---- reads

    def _on_read(self, context: int, sender: int) -> None:
        """A reader here, or readers at the follower `sender`, whose question is of this term.

        The question itself says that its sender had not voted in a later term when it asked, which was after its
        readers came; and this leader has not yet. Where the two are a quorum, nobody else led when the readers came: a
        round of heartbeats would say no more. (A quorum of the newest membership, also before that is committed: any
        two memberships that follow each other have a member in common in all their quorums.)
        """
        if sender == self.id or not self.has_committed_in_term or not self._is_quorum_with(sender):
            self._reads.add(context, sender)
            self._start_reads()
            return
        self._answer_read(sender, context, self.log.committed)

    def _answer_read(self, sender: int, context: int, index: int) -> None:
        self._await(sender, index)
        self._send(Kind.READ_INDEX_ANSWER, sender, index=index, context=context)

    def _await(self, member: int, index: int) -> None:
        """Somebody waits at `member` until it has applied the entry at `index`."""
        progress = self.progress.get(member)
        if progress is not None:
            progress.awaited = max(progress.awaited, index)

    def _is_quorum_with(self, sender: int) -> bool:
        """Whether `sender` is a voter, and decides together with this leader."""
        voters = self.membership.voters
        return sender in voters and len({self.id, sender} & voters) >= self.membership.quorum

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
                self._answer_read(sender, context, index)

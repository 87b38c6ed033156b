"""Who leads: pre-votes, votes, and taking over."""

from raykube.kv.core.raft.leading import Leading
from raykube.kv.core.raft.messages import EntryKind, Kind, Message
from raykube.kv.core.raft.progress import Progress, Sending
from raykube.kv.core.raft.state import Role


class Elections(Leading):
    """How a node becomes the leader of a term, and how it votes for others."""

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

    def _become_pre_candidate(self) -> None:
        self.role, self.leader = Role.PRE_CANDIDATE, 0
        self._ask_for_votes(Kind.PRE_VOTE, self.term + 1, force=False)

    def _become_candidate(self, force: bool) -> None:
        self.term += 1
        self.vote = self.id
        self.role, self.leader = Role.CANDIDATE, 0
        self._ask_for_votes(Kind.VOTE, self.term, force)

    def _ask_for_votes(self, kind: Kind, term: int, force: bool) -> None:
        # Its own vote is a promise like the others': it counts once it is durable, which a pre-vote need not be.
        self._votes = {self.id: True} if kind is Kind.PRE_VOTE else {}
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
            self.progress[member] = Progress(next=self.log.last + 1, silent_ticks=self.limits.election_ticks)
        own = self.progress.get(self.id)
        if own is not None:  # not in its own removal's eyes
            own.sending, own.match = Sending.REPLICATE, self.log.stable
        self._append([b""], EntryKind.NORMAL)

    # ---- votes

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

    def _on_own_vote_durable(self) -> None:
        if self.role is Role.CANDIDATE and (self._saved.term, self._saved.vote) == (self.term, self.id):
            self._votes.setdefault(self.id, True)
            self._count_votes()

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

"""A follower's work: taking over the leader's log, by entries or by a snapshot."""

from collections.abc import Iterable

from raykube.kv.core.raft.messages import Kind, Message, Snapshot
from raykube.kv.core.raft.state import State


class Following(State):
    """What a leader's messages do to a node."""

    def _on_leader_message(self, message: Message) -> None:
        if message.kind is Kind.APPEND:
            self._on_append(message)
        elif message.kind is Kind.HEARTBEAT:
            self._on_commit(message)
            self._full_member = message.hint
            self._send(Kind.HEARTBEAT_ANSWER, message.sender, context=message.context, reject=self.is_disk_full)
        elif message.kind is Kind.COMMIT:
            self._on_commit(message)
        else:
            self._on_snapshot(message)

    def _on_append(self, message: Message) -> None:
        if message.index < self.log.committed:
            self._require_agreement(_places(message))
            self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)
            return
        if self.log.term(message.index) != message.log_term:
            self._require_agreement(_places(message))
            hint = self.log.backtrack(message.index, message.log_term)
            self._send(
                Kind.APPEND_ANSWER, message.sender,
                index=message.index, reject=True, hint=hint, log_term=self.log.term(hint) or 0,
                lost_behind=self.log.last if self.log.is_lacking else None,
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

    def _require_agreement(self, places: Iterable[tuple[int, int]]) -> None:
        """Stops this member where its leader's log, of which these are indexes and terms, differs from what is known
        here to be committed. To answer that it has that would count for entries that it has not, and it could never
        follow again."""
        for index, term in places:
            here = self.log.term(index) if index <= self.log.committed else term
            # Before the base the terms are not known any more, but that they do not fall along a log.
            if here is None and term > self.log.base_term:
                here = self.log.base_term
            if here is not None and here != term:
                raise AssertionError(
                    f"entry {index} is committed, of term {here} or before, and the leader has one of term {term}: "
                    "members' data directories were emptied or are old copies, or disks lost what they had"
                )

    def _on_commit(self, message: Message) -> None:
        if message.commit > self.log.last and self.log.is_lacking:
            last = self.log.last
            self._send(
                Kind.APPEND_ANSWER, message.sender,
                reject=True, hint=last, log_term=self.log.last_term, lost_behind=last,
            )  # fmt: skip
        elif message.commit > self.log.last:
            # The leader never says more than this member acknowledged to it, on disk, in this very term.
            raise AssertionError(
                f"this member acknowledged entries up to {message.commit} and has them only up to {self.log.last}: "
                "its data directory was emptied or is an old copy"
            )
        else:
            self.log.commit_to(message.commit)

    def _on_snapshot(self, message: Message) -> None:
        snapshot = message.snapshot
        assert snapshot is not None
        if snapshot.index <= self.log.committed:
            self._require_agreement([(snapshot.index, snapshot.term)])  # it is no news
        elif self.log.term(snapshot.index) == snapshot.term:
            self.log.commit_to(snapshot.index)  # the log has it all: no need for the image
        else:
            self.log.reset(snapshot.index, snapshot.term)
            self._memberships = [(snapshot.index, snapshot.membership)]
            self.snapshot = Snapshot(snapshot.index, snapshot.term, snapshot.membership)
            self._pending_snapshot = snapshot
        self._send(Kind.APPEND_ANSWER, message.sender, index=self.log.committed)


def _places(message: Message) -> list[tuple[int, int]]:
    """Indexes and terms of what an APPEND tells of its sender's log."""
    return [(message.index, message.log_term), *((entry.index, entry.term) for entry in message.entries)]

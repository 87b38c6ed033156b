"""What one member does so that all members prove their states to each other; the verdicts are `mvcc/vouching`'s.

The leader proposes a CHECK now and then; every member computes the digest of its state at that entry and vouches for
it through the log. A member that finds that a quorum vouched for another digest than its own stops (`Diverged`): by its
own computation, not by what the log says that it vouched for, so that one that was put right does not stop again when
it replays its past.
"""

from collections.abc import Callable

from raykube.kv.core.mvcc.machine import Command, Machine
from raykube.kv.core.mvcc.vouching import Check
from raykube.kv.core.raft.membership import Membership
from raykube.pb import raft_pb2

CHECK_S = 5.0  # between two checks of a group that writes
_DIGESTS_KEPT = 8


class Diverged(ValueError):
    """This member's state is not the one that a quorum has. Up to the entry `sound` it was."""

    def __init__(self, message: str, sound: int) -> None:
        super().__init__(message)
        self.sound = sound


class Prover:
    """One member's part; `start` is what it has applied. `propose` puts a command into the log, or loses it."""

    def __init__(self, member: int, start: int, propose: Callable[[Command, bytes], None]) -> None:
        self._member = member
        self._sound = start - 1  # nobody has judged the state with which this member starts
        self._propose = propose
        self._checked_at: float | None = None
        self.has_news = True  # something was applied since the last check
        self._digests: dict[int, int] = {}  # index of a CHECK → what this member computed there
        self._unvouched: int | None = None

    def forget(self, index: int) -> None:
        """The state was replaced by one of `index`: nothing that was computed before says anything about it."""
        self._sound = index - 1
        self._digests.clear()
        self._unvouched = None

    def tick(self, now: float, machine: Machine, membership: Membership) -> None:
        """As leader: proposes a check when it is time, and there is something to check."""
        if self._checked_at is None:
            self._checked_at = now
        if now - self._checked_at < CHECK_S:
            return
        vouching = machine.vouching
        is_open = bool(vouching.checks) and vouching.checks[-1].settled is None  # somebody's word may have got lost
        if not (self.has_news or is_open or vouching.fenced or vouching.disputed):
            return
        everybody = {record.id for record in membership.members}
        if not machine.is_known(Command.VOUCH, everybody):
            return
        self._checked_at = now
        check = raft_pb2.Check(voters=sorted(membership.voters), learners=sorted(everybody - set(membership.voters)))
        self._propose(Command.CHECK, check.SerializeToString())

    def on_applied(self, command: int, answer: object, index: int) -> None:
        """A CHECK or VOUCH of the entry at `index` was applied. Raises Diverged."""
        if command == Command.CHECK:
            assert isinstance(answer, int)
            self._digests[index] = answer
            if len(self._digests) > _DIGESTS_KEPT:
                del self._digests[min(self._digests)]
            self._unvouched = index
            self.has_news = False
        elif isinstance(answer, Check):
            self._compare(answer)

    def _compare(self, check: Check) -> None:
        own = self._digests.get(check.index)
        if own is None or check.settled is None:
            return
        if own != check.settled:
            raise Diverged(
                f"the state of this member at entry {check.index} has digest {own:016x}, and a quorum has "
                f"{check.settled:016x}: it is damaged, or was computed wrongly",
                self._sound,
            )
        self._sound = max(self._sound, check.index)

    @property
    def has_to_vouch(self) -> bool:
        """Whether `vouch` has something to say."""
        return self._unvouched is not None

    def vouch(self) -> None:
        """Once there is a leader: this member's word for the newest check."""
        if self._unvouched is not None:
            index, self._unvouched = self._unvouched, None
            body = raft_pb2.Vouch(member=self._member, index=index, digest=self._digests[index]).SerializeToString()
            self._propose(Command.VOUCH, body)

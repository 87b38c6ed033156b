"""Who vouched for which state: the part of the log by which members find out that one of them has another state.

    entry 90   CHECK, judged by members 1, 2, 3      each computes the digest of its state right there
    entry 91   VOUCH 1 for 90: aa…
    entry 93   VOUCH 3 for 90: bb…
    entry 94   VOUCH 2 for 90: aa…                   a quorum agrees: 90 is settled with aa…, member 3 is fenced

The table is a function of the log, so all members come to the same verdict even where their states differ. A fenced
member stays so until it vouches for a settled digest again, or leaves the group. When no digest can get a quorum, or a
check with two digests is still open at the next one, the group is in *dispute*: nobody can tell who is right.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from raykube.pb import raft_pb2

CHECKS_KEPT = 4


@dataclass(slots=True)
class Check:
    """A check at a log index, and what was vouched for there."""

    index: int
    voters: tuple[int, ...]
    vouches: dict[int, int] = field(default_factory=dict)  # member → digest
    settled: int | None = None

    def _votes(self) -> Counter[int]:
        return Counter(digest for member, digest in self.vouches.items() if member in self.voters)

    def has_two(self) -> bool:
        """Whether voters have vouched for different digests."""
        return len(self._votes()) > 1

    def settle(self) -> bool:
        """Notes the digest that a quorum vouched for; returns whether there is one."""
        for digest, count in self._votes().items():
            if count > len(self.voters) // 2:
                self.settled = digest
                return True
        return False

    def is_hopeless(self) -> bool:
        """Whether no digest can get a quorum, whatever the others will say."""
        votes = self._votes()
        return max(votes.values(), default=0) + len(self.voters) - votes.total() <= len(self.voters) // 2


@dataclass(frozen=True, slots=True)
class Fence:
    """A member whose state is not the others'."""

    index: int
    digest: int
    expected: int


class Vouching:
    """The newest checks, the fenced members, and the index of the check in dispute (0: none)."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.fenced: dict[int, Fence] = {}
        self.disputed = 0

    def on_check(self, index: int, voters: Sequence[int], learners: Sequence[int]) -> None:
        """A CHECK entry at `index`, with the membership of that time."""
        if self.checks:
            last = self.checks[-1]
            if last.settled is None and last.has_two():
                self.disputed = last.index
        self.fenced = {m: fence for m, fence in self.fenced.items() if m in voters or m in learners}
        self.checks = [*self.checks[1 - CHECKS_KEPT :], Check(index, tuple(voters))]

    def on_vouch(self, member: int, index: int, digest: int) -> Check | None:
        """A member's word for its state at `index`; returns the check if that settles it, or it was settled before."""
        check = next((check for check in self.checks if check.index == index), None)
        if check is None:
            return None
        check.vouches[member] = digest
        if check.settled is not None:
            self._judge(member, check)
            return check
        if check.settle():
            for each in sorted(check.vouches):
                self._judge(each, check)
            if check.index >= self.disputed:
                self.disputed = 0
            return check
        if check.is_hopeless():
            self.disputed = max(self.disputed, check.index)
        return None

    def _judge(self, member: int, check: Check) -> None:
        if any(member in later.vouches for later in self.checks if later.index > check.index):
            return  # its later word counts
        assert check.settled is not None
        if check.vouches[member] == check.settled:
            self.fenced.pop(member, None)
        else:
            self.fenced[member] = Fence(check.index, check.vouches[member], check.settled)

    # ---- in snapshots

    def encode(self) -> raft_pb2.Vouching:
        """The table as it goes into a snapshot."""
        return raft_pb2.Vouching(
            checks=[
                raft_pb2.CheckRecord(
                    index=check.index,
                    voters=check.voters,
                    vouches=[
                        raft_pb2.Vouch(member=member, index=check.index, digest=digest)
                        for member, digest in sorted(check.vouches.items())
                    ],
                    settled=check.settled,
                )
                for check in self.checks
            ],
            fences=[
                raft_pb2.Fence(member=member, index=fence.index, digest=fence.digest, expected=fence.expected)
                for member, fence in sorted(self.fenced.items())
            ],
            disputed=self.disputed,
        )

    @classmethod
    def decode(cls, record: raft_pb2.Vouching) -> "Vouching":
        """The table out of a snapshot."""
        table = cls()
        table.disputed = record.disputed
        for each in record.checks:
            vouches = {vouch.member: vouch.digest for vouch in each.vouches}
            settled = each.settled if each.HasField("settled") else None
            table.checks.append(Check(each.index, tuple(each.voters), vouches, settled))
        for fence in record.fences:
            table.fenced[fence.member] = Fence(fence.index, fence.digest, fence.expected)
        return table

"""Who the members are: a value, kept in the log as an entry of its own.

A member follows the newest membership in its log, committed or not (Ongaro §4.1); when the entry is cut off, the one
before it holds again.
"""

from dataclasses import dataclass
from functools import cached_property

from raykube.pb import raft_pb2


@dataclass(frozen=True)
class Member:
    """One member; a learner gets the log and does not vote."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    learner: bool = False


@dataclass(frozen=True)
class Membership:
    """All members, and the ids of those who were members once, both in order of id."""

    members: tuple[Member, ...] = ()
    removed: tuple[int, ...] = ()

    @classmethod
    def of(cls, *ids: int) -> "Membership":
        """Voters with these ids and nothing else known of them."""
        return cls(tuple(Member(member) for member in sorted(ids)))

    @cached_property
    def voters(self) -> frozenset[int]:
        return frozenset(member.id for member in self.members if not member.learner)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members)

    @property
    def quorum(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1

    def get(self, member: int) -> Member | None:
        """The member with this id."""
        return next((each for each in self.members if each.id == member), None)

    def put(self, member: Member) -> "Membership":
        """With `member` in the place of the one with its id, if there is one."""
        others = [each for each in self.members if each.id != member.id]
        return Membership(tuple(sorted([*others, member], key=lambda each: each.id)), self.removed)

    def without(self, member: int) -> "Membership":
        """With `member` removed, for good."""
        others = tuple(each for each in self.members if each.id != member)
        return Membership(others, tuple(sorted({*self.removed, member})))

    def follows(self, other: "Membership") -> bool:
        """Whether at most one voter differs from `other`, so that their quorums overlap, and nobody comes back."""
        returned = set(self.ids) & set(other.removed)
        return len(self.voters ^ other.voters) <= 1 and set(other.removed) <= set(self.removed) and not returned

    def encode(self) -> bytes:
        return raft_pb2.Membership(
            members=[
                raft_pb2.Member(id=m.id, name=m.name, peer_urls=m.peer_urls, learner=m.learner) for m in self.members
            ],
            removed=self.removed,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> "Membership":
        message = raft_pb2.Membership.FromString(data)
        members = tuple(Member(m.id, m.name, tuple(m.peer_urls), m.learner) for m in message.members)
        return cls(members, tuple(message.removed))

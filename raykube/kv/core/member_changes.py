"""Changes of the membership, and etcd's conditions for them: a change and what the leader knows → a membership.

etcd refuses what could cost the quorum ("strict reconfiguration"): no voter is added while one does not answer, no live
voter is removed when too few of the rest do, and a learner is promoted only when it has caught up. Here its disk must
have room, too: a voter's full disk is everybody's, and all writes would be refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raykube.kv.core.identity import check_url, member_id
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.raft.membership import Member, Membership

LEARNERS_MAX = 1
NO_ROOM = "etcdserver: no space: the learner's disk is full"  # the steward knows it by this
READY_SHARE = 0.9  # of the leader's log that a learner must have on disk to be promoted


@dataclass(frozen=True, slots=True)
class AddMember:
    """`salt` makes the new member's id differ from that of any earlier member at the same addresses."""

    peer_urls: tuple[str, ...]
    learner: bool
    salt: int


@dataclass(frozen=True, slots=True)
class RemoveMember:
    id: int


@dataclass(frozen=True, slots=True)
class UpdateMember:
    id: int
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromoteMember:
    id: int


Change = AddMember | RemoveMember | UpdateMember | PromoteMember


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a leader knows when it decides."""

    membership: Membership
    leader: int
    started: frozenset[int]  # members that published their name
    alive: frozenset[int]  # members that answered lately
    matches: Mapping[int, int]  # member → last index on its disk
    full: frozenset[int] = frozenset()  # members whose disk has no room, as they said last

    def are_most_started(self, added: int = 0, removed: int = 0) -> bool:
        """Whether a majority of the voters after the change has ever run, counting `added` voters that have not."""
        voters = self.membership.voters - {removed}
        return len(voters & self.started) >= (len(voters) + added) // 2 + 1


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that is in the log at `index`, and applied."""

    member: int
    index: int
    membership: Membership


def decide(change: Change, known: Circumstances) -> tuple[int, Membership]:
    """The id of the member that changes, and the membership after it. Raises StoreError with etcd's refusals."""
    match change:
        case AddMember():
            return _add(change, known)
        case RemoveMember():
            return change.id, _remove(change, known)
        case UpdateMember():
            return change.id, _update(change, known)
        case PromoteMember():
            return change.id, _promote(change, known)


def _add(change: AddMember, known: Circumstances) -> tuple[int, Membership]:
    membership = known.membership
    _check_urls(change.peer_urls)
    if not change.learner:
        is_alone = len(membership.voters) == 1 and membership.voters <= known.started
        if not is_alone and not known.are_most_started(added=1):
            raise not_enough_started()
        if not membership.voters <= known.alive:
            raise unhealthy()  # etcd refuses a learner, too; but that is how a lost member is replaced before it goes
    _check_free(change.peer_urls, membership.members)
    if change.learner and len(membership.members) - len(membership.voters) >= LEARNERS_MAX:
        raise StoreError("FAILED_PRECONDITION", "etcdserver: too many learner members in cluster")
    salt = change.salt
    while (number := member_id(change.peer_urls, str(salt))) in {*membership.ids, *membership.removed}:
        salt += 1
    return number, membership.put(Member(number, "", tuple(sorted(change.peer_urls)), change.learner))


def _remove(change: RemoveMember, known: Circumstances) -> Membership:
    membership = known.membership
    found = _find(change.id, membership)
    if not found.learner:
        if not known.are_most_started(removed=found.id):
            raise not_enough_started()
        alive = len(membership.voters & known.alive)
        # One that does not answer is no part of the quorum that is: it can go.
        if found.id in known.alive and alive - 1 < 1 + (len(membership.voters) - 1) // 2:
            raise unhealthy()
    return membership.without(found.id)


def _update(change: UpdateMember, known: Circumstances) -> Membership:
    _check_urls(change.peer_urls)
    found = _find(change.id, known.membership)
    _check_free(change.peer_urls, [member for member in known.membership.members if member.id != found.id])
    return known.membership.put(replace(found, peer_urls=change.peer_urls))


def _promote(change: PromoteMember, known: Circumstances) -> Membership:
    found = _find(change.id, known.membership)
    if found.id in known.full and found.id in known.alive:  # before it lags: without room it may never catch up
        raise StoreError("FAILED_PRECONDITION", NO_ROOM)
    has_caught_up = known.matches.get(found.id, 0) >= READY_SHARE * known.matches.get(known.leader, 0)
    if not has_caught_up or found.id not in known.alive:  # a dead one would be a voter too few
        raise StoreError(
            "FAILED_PRECONDITION", "etcdserver: can only promote a learner member which is in sync with leader"
        )
    voters = known.membership.voters
    if len(voters & known.started) + 1 < (len(voters) + 1) // 2 + 1:  # it runs: its log is here
        raise not_enough_started()
    if not found.learner:
        raise StoreError("FAILED_PRECONDITION", "etcdserver: can only promote a learner member")
    return known.membership.put(replace(found, learner=False))


def _find(member: int, membership: Membership) -> Member:
    found = membership.get(member)
    if found is None:
        raise StoreError("NOT_FOUND", "etcdserver: member not found")
    return found


def _check_urls(urls: Sequence[str]) -> None:
    try:
        for url in urls:
            check_url(url)
    except ValueError:
        urls = ()
    if not urls:
        raise StoreError("INVALID_ARGUMENT", "etcdserver: given member URLs are invalid")


def _check_free(urls: Sequence[str], others: Sequence[Member]) -> None:
    if any(set(urls) & set(other.peer_urls) for other in others):
        raise StoreError("FAILED_PRECONDITION", "etcdserver: Peer URLs already exists")


def not_enough_started() -> StoreError:
    return StoreError("FAILED_PRECONDITION", "etcdserver: re-configuration failed due to not enough started members")


def unhealthy() -> StoreError:
    return StoreError("UNAVAILABLE", "etcdserver: unhealthy cluster")

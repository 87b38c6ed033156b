"""The steward's next step for the store's members, from what it sees. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# A new member has as long to begin as its actor has: on a machine with much to do, each that is given up before it
# answers would only make room for another that is as slow.
START_S = 120.0
# In which the store's clients have heard of a member that was promoted: they ask every MEMBERS_PERIOD_S (client/kv.py).
LEARNED_S = 15.0


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the store. `machine`: where it lives, "" when its address belongs to none of the cluster."""

    id: int
    machine: str
    learner: bool = False
    has_started: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """What there is. `lost_s` has all machines of the cluster, in the order in which they are preferred for a new
    member, with the seconds for which nobody has heard of them, 0 while they live."""

    members: tuple[Member, ...]
    lost_s: Mapping[str, float]
    hosted: frozenset[str]  # machines with an actor for a member
    wanted: int  # voters that the operator asked for
    # Machines that may have no new member, and no old one once there are enough of the others.
    barred: frozenset[str] = frozenset()
    # For how long a member does not answer, by id, though its machine may live: it lost its disk, or cannot start.
    # 0: it answers, and was silent a moment ago.
    silent_s: Mapping[int, float] = field(default_factory=dict)
    # For how long the store has refused to promote a learner for want of room on its disk, by id.
    full_s: Mapping[int, float] = field(default_factory=dict)
    answering: frozenset[int] = frozenset()  # members that answer; one on a machine that leaves may, though given up
    settled_s: float = math.inf  # for how long no member was promoted, as far as is known


@dataclass(frozen=True, slots=True)
class Add:
    """Announce a new member, a learner, on `machine`."""

    machine: str


@dataclass(frozen=True, slots=True)
class Host:
    """Start the actor of an announced member."""

    member: int
    machine: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a learner a voter; the store refuses while it lags."""

    member: int
    machine: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a member out of the store."""

    member: int
    machine: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """End the actor on `machine`, which is no member's any more."""

    machine: str


Step = Add | Host | Promote | Remove | Dismiss


def next_step(view: View, patience_s: float) -> Step | None:
    """What to do now; None: nothing. A machine or a member is given up when it was lost for `patience_s`.

    One change at a time, each from a healthy quorum: the new member is a voter before the lost one goes, so that at no
    instant fewer failures are survived than before.
    """

    fit = [machine for machine, lost in view.lost_s.items() if lost < patience_s and machine not in view.barred]

    def is_lost(member: Member) -> bool:
        if member.machine in view.barred and len(fit) >= view.wanted:
            return True
        start_s = 0.0 if member.has_started else START_S
        return view.lost_s.get(member.machine, patience_s) >= patience_s or view.silent_s.get(member.id, 0.0) >= max(
            patience_s, start_s
        )

    def is_asked(member: Member) -> bool:
        """Whether clients may still know nobody else: taken out now, it would leave them with nobody to ask."""
        return member.id in view.answering and view.settled_s < LEARNED_S

    def is_away(member: Member) -> bool:
        return view.lost_s.get(member.machine, patience_s) > 0 or member.id in view.silent_s

    voters = [member for member in view.members if not member.learner]
    learners = [member for member in view.members if member.learner]
    lost = [member for member in voters if is_lost(member)]
    is_enough = len(voters) - len(lost) >= view.wanted
    # Perhaps for one of these another steward added a learner, and this one's patience only begins: it is kept.
    are_waited_for = any(is_away(member) and not is_lost(member) for member in voters)
    homes = {member.machine for member in view.members}
    spare = _spare(view.lost_s, homes | view.barred)
    for learner in learners:
        # One without room waits for it, unless there is another place: beginning anew on that disk makes none.
        is_stuck = bool(spare) and view.full_s.get(learner.id, 0.0) >= patience_s
        if (is_enough and not are_waited_for) or is_stuck or is_lost(learner):
            return Remove(learner.id, learner.machine)
    for member in view.members:
        if member.machine not in view.hosted and view.lost_s.get(member.machine, patience_s) == 0:
            return Host(member.id, member.machine)
    for machine in sorted(view.hosted - homes):
        return Dismiss(machine)
    # Of two voters neither may be lost: a second one waits until there is a place for a third, and is a copy till then.
    is_half_way = len(voters) == 1 and not lost and not spare and view.wanted > 2
    for learner in learners:
        is_due = learner.has_started and not is_enough and not is_half_way
        return Promote(learner.id, learner.machine) if is_due else None
    if len(voters) > view.wanted:
        # One on a machine that leaves votes until there is another place for it: who does not answer goes first.
        lost.sort(key=lambda each: each.id in view.answering)
        if lost and lost[0].id in view.answering and are_waited_for:
            return None
        # If nobody is lost, a machine came back in the middle: the least preferred place is given up. Or another
        # steward found it lost, and this one's patience begins only now: who does not answer goes before who does.
        places = list(view.lost_s)
        surplus = lost[0] if lost else max(voters, key=lambda each: (is_away(each), places.index(each.machine)))
        return None if is_asked(surplus) else Remove(surplus.id, surplus.machine)
    if not is_enough:
        if spare:
            return Add(spare)
        for member in lost:
            # An even number of voters survives no more than one less.
            if member.id in view.answering and len(voters) % 2 == 0 and not is_asked(member):
                return Remove(member.id, member.machine)
            # Its own machine is the spare one, once the store has forgotten it: no fewer failures are survived then.
            lives = view.lost_s.get(member.machine, patience_s) == 0 and member.machine not in view.barred
            if lives and len(voters) - len(lost) > (len(voters) - 1) // 2:
                return Remove(member.id, member.machine)
    return None


def _spare(lost_s: Mapping[str, float], homes: Iterable[str]) -> str:
    return next((machine for machine, lost in lost_s.items() if lost == 0 and machine not in homes), "")

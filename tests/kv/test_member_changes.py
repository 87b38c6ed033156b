"""Changes of the membership: etcd's conditions and words for each, and what a leader makes of them."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.kv.core.member_changes import (
    AddMember,
    Change,
    Changed,
    Circumstances,
    PromoteMember,
    RemoveMember,
    UpdateMember,
    decide,
)
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import Command, Machine
from raykube.kv.core.raft.membership import Member, Membership
from raykube.kv.core.raft.node import Limits, Node
from raykube.kv.core.replica import Replica
from raykube.pb import raft_pb2


def members(*ids: int, learners: tuple[int, ...] = ()) -> Membership:
    found = [Member(number, f"m{number}", (f"http://m{number}:2380",), number in learners) for number in ids]
    return Membership(tuple(found))


def known(
    membership: Membership,
    started: tuple[int, ...] | None = None,
    alive: tuple[int, ...] | None = None,
    **matches: int,
) -> Circumstances:
    everybody = membership.ids
    return Circumstances(
        membership,
        1,
        frozenset(everybody if started is None else started),
        frozenset(everybody if alive is None else alive),
        {number: matches.get(f"m{number}", 100) for number in everybody},
    )


def add(url: str = "http://new:2380", learner: bool = False, salt: int = 1) -> AddMember:
    return AddMember((url,), learner, salt)


NOT_STARTED = "FAILED_PRECONDITION: etcdserver: re-configuration failed due to not enough started members"
UNHEALTHY = "UNAVAILABLE: etcdserver: unhealthy cluster"
URL_EXISTS = "FAILED_PRECONDITION: etcdserver: Peer URLs already exists"
BAD_URLS = "INVALID_ARGUMENT: etcdserver: given member URLs are invalid"
NOT_FOUND = "NOT_FOUND: etcdserver: member not found"
NOT_READY = "FAILED_PRECONDITION: etcdserver: can only promote a learner member which is in sync with leader"
NO_LEARNER = "FAILED_PRECONDITION: etcdserver: can only promote a learner member"
NO_ROOM = "FAILED_PRECONDITION: etcdserver: no space: the learner's disk is full"
TOO_MANY = "FAILED_PRECONDITION: etcdserver: too many learner members in cluster"
GONE = Membership(members(1, 2).members, (7,))


@pytest.mark.parametrize(
    ("change", "circumstances", "refusal"),
    [
        (add("ftp://new:1"), known(members(1, 2, 3)), BAD_URLS),
        (AddMember((), False, 1), known(members(1, 2, 3)), BAD_URLS),
        (add("http://m2:2380"), known(members(1, 2, 3)), URL_EXISTS),
        (add(), known(members(1, 2, 3), started=(1,)), NOT_STARTED),
        (add(), known(members(1, 2, 3), alive=(1, 2)), UNHEALTHY),
        # The second member was added and did not start yet: a third would leave nobody to decide.
        (add(), known(members(1, 2), started=(1,), alive=(1,)), NOT_STARTED),
        (add(learner=True), known(members(1, 2, 3, 4, learners=(4,))), TOO_MANY),
        (RemoveMember(9), known(members(1, 2, 3)), NOT_FOUND),
        (RemoveMember(7), known(GONE), NOT_FOUND),
        (RemoveMember(1), known(members(1)), NOT_STARTED),
        (RemoveMember(2), known(members(1, 2, 3), alive=(1, 2)), UNHEALTHY),
        (RemoveMember(1), known(members(1, 2), alive=(1,)), UNHEALTHY),
        (RemoveMember(2), known(members(1, 2, 3), started=(2, 3)), NOT_STARTED),
        (UpdateMember(9, ("http://new:1",)), known(members(1, 2)), NOT_FOUND),
        (UpdateMember(1, ("http://m2:2380",)), known(members(1, 2)), URL_EXISTS),
        (UpdateMember(1, ("nonsense",)), known(members(1, 2)), BAD_URLS),
        (PromoteMember(9), known(members(1, 2)), NOT_FOUND),
        (PromoteMember(2), known(members(1, 2)), NO_LEARNER),
        (PromoteMember(2), known(members(1, 2, learners=(2,)), m2=89), NOT_READY),
        (PromoteMember(2), known(members(1, 2, learners=(2,)), alive=(1,)), NOT_READY),
        (PromoteMember(4), known(members(1, 2, 3, 4, learners=(4,)), started=(4, 1)), NOT_STARTED),
        (PromoteMember(2), replace(known(members(1, 2, learners=(2,))), full=frozenset({2})), NO_ROOM),
        # What it said last counts while it answers, and before that it lags: it may lag because it has no room.
        (PromoteMember(2), replace(known(members(1, 2, learners=(2,)), m2=1), full=frozenset({2})), NO_ROOM),
        (PromoteMember(2), replace(known(members(1, 2, learners=(2,)), alive=(1,)), full=frozenset({2})), NOT_READY),
    ],
)
def test_refused(change: Change, circumstances: Circumstances, refusal: str) -> None:
    with pytest.raises(StoreError) as error:
        decide(change, circumstances)
    assert str(error.value) == refusal


def test_granted() -> None:
    three = members(1, 2, 3)
    number, four = decide(add(), known(three))
    assert four.get(number) == Member(number, "", ("http://new:2380",), False)
    assert len(four.voters) == 4
    number, added = decide(add(learner=True), known(three))
    assert added.voters == three.voters
    assert number in added.ids
    # Where etcd refuses: a learner, before the dead member goes whom it will replace.
    assert number in decide(add(learner=True), known(three, alive=(1, 2)))[1].ids
    # A lone member may be joined by a second one, and a dead one may go.
    assert len(decide(add(), known(members(1)))[1].voters) == 2
    assert decide(RemoveMember(3), known(three, alive=(1, 2)))[1] == Membership(members(1, 2).members, (3,))
    assert decide(RemoveMember(2), known(members(1, 2), started=(1,), alive=(1,)))[1].ids == (1,)
    moved = decide(UpdateMember(2, ("http://new:1",)), known(three))[1].get(2)
    assert moved == Member(2, "m2", ("http://new:1",))
    learning = members(1, 2, learners=(2,))
    ready = known(learning, m2=90)
    assert decide(PromoteMember(2), ready)[1].voters == {1, 2}
    assert decide(PromoteMember(2), replace(ready, full=frozenset({1})))[1].voters == {1, 2}


def test_ids_are_never_given_out_again() -> None:
    membership = members(1, 2, 3)
    seen = set(membership.ids)
    for _ in range(20):
        number, membership = decide(add(), known(membership))
        assert number not in seen
        seen.add(number)
        _, membership = decide(RemoveMember(number), known(membership))
    assert Membership.decode(membership.encode()) == membership
    assert len(membership.removed) == 20


def test_a_membership_follows_when_quorums_overlap_and_nobody_returns() -> None:
    three = members(1, 2, 3)
    assert members(1, 2, 3, 4).follows(three)
    assert not members(1, 2, 3, 4, 5).follows(three)
    assert not members(1, 2, 4).follows(three)
    without = three.without(3)
    assert without.follows(three)
    assert not three.follows(without)
    assert not Membership(three.members, (3,)).follows(without)
    assert not members(1, 2).follows(without)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Change, Circumstances]:
    """A wish, and what a leader may meet: a quorum of the voters answers it, or it would not lead; often no more."""
    count = draw(st.integers(1, 5))
    ids = tuple(range(1, count + 1))
    learners = draw(st.sampled_from([(), (count,)])) if count > 1 else ()
    membership = members(*ids, learners=learners)
    voters = sorted(membership.voters)
    alive = {*voters[: draw(st.integers(membership.quorum, len(voters)))], *draw(st.sampled_from([(), learners]))}
    started = draw(st.sampled_from([ids, ids[:1], ids[:-1]]))
    matches = {f"m{number}": draw(st.sampled_from([100, 0])) for number in ids[1:]}
    number = draw(st.sampled_from(ids))
    wishes: list[Change] = [add(), add(learner=True), RemoveMember(number), PromoteMember(count)]
    wishes.append(UpdateMember(number, ("http://new:1",)))
    situation = known(membership, started=tuple(started), alive=tuple(alive), **matches)
    return draw(st.sampled_from(wishes)), situation


@settings(max_examples=500)
@given(situations())
def test_no_granted_change_costs_the_quorum(case: tuple[Change, Circumstances]) -> None:
    change, situation = case
    try:
        member, after = decide(change, situation)
    except StoreError:
        return
    assert after.follows(situation.membership)
    # A second member has to start before anything else can happen.
    is_second = isinstance(change, AddMember) and len(situation.membership.voters) == 1
    assert is_second or len(after.voters & situation.alive) >= after.quorum
    assert (member in after.ids) != isinstance(change, RemoveMember)


class Lone:
    """A replica that leads alone, with a disk that never fails."""

    def __init__(self) -> None:
        ids = itertools.count(100)
        self.replica = Replica(Node(1, members(1), lambda _: 0, limits=Limits()), Machine(), lambda: next(ids))
        self.replica.machine.attributes[1] = raft_pb2.Attributes(member_id=1, name="m1")
        self.replica.node.campaign()
        self.answers: list[tuple[int, object]] = []
        self.drain()

    def drain(self) -> None:
        while True:
            output = self.replica.ready()
            self.replica.let_go(output.hold)
            applied = self.replica.apply()
            self.answers += applied.answers
            if output.write is not None:
                self.replica.persisted(output.write)
            elif not applied.may_have_more:
                return


def test_a_replica_answers_when_the_change_is_applied() -> None:
    lone = Lone()
    assert lone.replica.change_members(5, add(learner=True))
    assert not lone.replica.change_members(6, add("http://other:1"))  # one at a time
    assert lone.answers == []
    lone.drain()
    ((request, changed),) = lone.answers
    assert request == 5
    assert isinstance(changed, Changed)
    assert changed.membership == lone.replica.node.membership
    assert changed.membership.get(changed.member) is not None
    lone.replica.machine.attributes[changed.member] = raft_pb2.Attributes(member_id=changed.member, name="gone")
    assert lone.replica.change_members(7, RemoveMember(changed.member))
    lone.drain()
    assert changed.member not in lone.replica.machine.attributes
    assert not lone.replica.is_removed
    with pytest.raises(StoreError, match="not enough started"):
        lone.replica.change_members(8, RemoveMember(1))


def test_a_leader_that_stood_still_changes_no_members_before_it_has_listened() -> None:
    """It would promote a learner that died meanwhile, and be left without a quorum: seed 97400."""
    lone = Lone()
    assert not lone.replica.change_members(5, add(learner=True), is_late=True)
    ticks = lone.replica.node.limits.election_ticks
    lone.replica.tick(10.0, stalled_s=4.0, missed_ticks=ticks)
    for number in range(1, ticks):
        assert not lone.replica.change_members(5, add(learner=True))
        lone.replica.tick(10.0 + number, stalled_s=0.2, missed_ticks=2)  # so little says little
    assert lone.replica.change_members(5, add(learner=True))


def test_the_first_data_directory_of_a_member_is_the_member() -> None:
    machine = Machine()

    def publish(incarnation: int, name: str) -> raft_pb2.Attributes:
        record = raft_pb2.Attributes(member_id=9, name=name, incarnation=incarnation)
        machine.apply(Command.ATTRIBUTES, record.SerializeToString(), False)
        return machine.attributes[9]

    assert publish(5, "m9").incarnation == 5
    assert publish(6, "other").name == "m9"
    assert publish(5, "renamed").name == "renamed"

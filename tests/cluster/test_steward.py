"""What the steward decides, step by step, until every machine that should have a member of the store has one."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.cluster import addresses
from raykube.cluster.plan import Placement
from raykube.cluster.ray_nodes import MACHINE_LABEL
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.decide import LEARNED_S, Add, Dismiss, Host, Member, Promote, Remove, Step, View, next_step
from raykube.cluster.steward.service import Service
from raykube.pb import etcd_pb2

PATIENCE_S = 60.0
LOST_S = 61.0


def view(lost: dict[str, float], *members: Member, hosted: str | None = None, wanted: int = 3) -> View:
    homes = "".join(member.machine for member in members) if hosted is None else hosted
    return View(tuple(members), {name: lost.get(name, 0.0) for name in "abcde"}, frozenset(homes), wanted)


A, B, C = Member(1, "a"), Member(2, "b"), Member(3, "c")


def test_nothing_is_done_while_all_is_well() -> None:
    assert next_step(view({}, A, B, C), PATIENCE_S) is None


def test_a_machine_that_is_gone_for_a_moment_is_waited_for() -> None:
    assert next_step(view({"b": 59.0}, A, B, C), PATIENCE_S) is None


def test_a_lost_member_is_replaced_before_it_is_removed() -> None:
    lost = {"b": LOST_S}
    new = Member(4, "d", learner=True, has_started=False)
    running = replace(new, has_started=True)
    voter = replace(running, learner=False)
    assert next_step(view(lost, A, B, C), PATIENCE_S) == Add("d")
    assert next_step(view(lost, A, B, C, new, hosted="abc"), PATIENCE_S) == Host(4, "d")
    assert next_step(view(lost, A, B, C, new), PATIENCE_S) is None
    assert next_step(view(lost, A, B, C, running), PATIENCE_S) == Promote(4, "d")
    assert next_step(view(lost, A, B, C, voter), PATIENCE_S) == Remove(2, "b")
    assert next_step(view(lost, A, C, voter, hosted="abcd"), PATIENCE_S) == Dismiss("b")
    assert next_step(view(lost, A, C, voter), PATIENCE_S) is None


def test_a_machine_that_comes_back_after_its_member_was_replaced_gets_none() -> None:
    assert next_step(view({}, A, C, Member(4, "d"), hosted="abcd"), PATIENCE_S) == Dismiss("b")


def test_without_a_spare_machine_nothing_is_removed() -> None:
    assert next_step(view({"b": LOST_S, "d": 1.0, "e": 1.0}, A, B, C), PATIENCE_S) is None


def test_a_machine_that_comes_back_in_the_middle_keeps_its_member() -> None:
    learner = Member(4, "d", learner=True)
    assert next_step(view({}, A, B, C, learner), PATIENCE_S) == Remove(4, "d")
    assert next_step(view({}, A, B, C, replace(learner, learner=False)), PATIENCE_S) == Remove(4, "d")


def test_a_learner_whose_machine_is_lost_makes_room_for_another() -> None:
    learner = Member(4, "d", learner=True)
    assert next_step(view({"b": LOST_S, "d": LOST_S}, A, B, C, learner), PATIENCE_S) == Remove(4, "d")


def test_a_member_that_was_taken_away_by_hand_is_made_again() -> None:
    assert next_step(view({}, A, B), PATIENCE_S) == Add("c")


def test_a_store_of_one_becomes_one_of_three_and_never_stays_one_of_two() -> None:
    """Which would end with either of its machines."""
    none = dict.fromkeys("cde", LOST_S)
    begin = view(none, A)
    *_, seen = steps(begin)
    assert [(member.machine, member.learner) for member in seen.members] == [("a", False), ("b", True)]
    *_, grown = steps(replace(seen, lost_s=view({"d": LOST_S, "e": LOST_S}).lost_s))
    assert [(member.machine, member.learner) for member in grown.members] == [(each, False) for each in "abc"]
    leaving = replace(seen, lost_s=seen.lost_s | {"a": math.inf}, answering=frozenset({1}))
    *_, moved = steps(leaving)
    assert {member.machine for member in moved.members} == {"b"}, "where the one leaves, the other is all there is"


def test_a_member_leaves_where_as_many_failures_are_survived_without_it() -> None:
    """There is no other place for it: four survive no more than three do, and two no more than one."""
    lost = {"d": math.inf, "e": LOST_S}
    seen = replace(view(lost, A, B, C, Member(4, "d"), wanted=5), answering=frozenset({1, 2, 3, 4}))
    assert next_step(seen, PATIENCE_S) == Remove(4, "d")
    seen = replace(view({"c": math.inf, "d": LOST_S, "e": LOST_S}, A, B, C), answering=frozenset({1, 2, 3}))
    assert next_step(seen, PATIENCE_S) is None
    seen = replace(view({"a": math.inf, "c": LOST_S, "d": LOST_S, "e": LOST_S}, A, B), answering=frozenset({1, 2}))
    assert next_step(seen, PATIENCE_S) == Remove(1, "a")


def test_a_member_on_no_machine_of_the_cluster_counts_as_lost() -> None:
    assert next_step(view({}, A, B, Member(9, "")), PATIENCE_S) == Add("c")


def test_a_machine_that_may_not_have_a_member_gets_none() -> None:
    seen = replace(view({"b": LOST_S}, A, B, C), barred=frozenset("d"))
    assert next_step(seen, PATIENCE_S) == Add("e")
    assert next_step(replace(seen, barred=frozenset("de")), PATIENCE_S) is None


def test_members_move_to_the_machines_that_may_have_one_once_there_are_enough() -> None:
    """The operator chose others; until there are as many as were asked for, what there is stays."""
    answering = frozenset(range(100))
    seen = replace(view({"e": LOST_S}, A, B, C), barred=frozenset("ab"), answering=answering)
    assert next_step(seen, PATIENCE_S) is None
    seen = replace(seen, lost_s=dict.fromkeys("abcde", 0.0))
    found = list(steps(seen))
    assert {member.machine for member in found[-1].members} == found[-1].hosted == set("cde")
    assert min(len([m for m in each.members if not m.learner]) for each in found) == 3, "one after the other"


def test_who_answers_is_not_removed_before_clients_can_know_who_came_in_its_place() -> None:
    """Of a store of one, the only member that they know would be gone."""
    new = Member(4, "d")
    seen = replace(view({"a": math.inf}, A, new, wanted=1), answering=frozenset({1, 4}))
    assert next_step(replace(seen, settled_s=LEARNED_S - 1), PATIENCE_S) is None
    assert next_step(replace(seen, settled_s=LEARNED_S), PATIENCE_S) == Remove(1, "a")
    silent = replace(seen, settled_s=0.0, answering=frozenset({4}))
    assert next_step(silent, PATIENCE_S) == Remove(1, "a"), "nobody can be asking that one"
    half = replace(view({"a": math.inf, "c": LOST_S, "d": LOST_S, "e": LOST_S}, A, B), answering=frozenset({1, 2}))
    assert next_step(replace(half, settled_s=0.0), PATIENCE_S) is None


def test_a_member_that_is_silent_on_a_live_machine_is_replaced_on_another() -> None:
    """Its machine lost its disk: the store lets nobody begin anew under an old name."""
    silent = replace(view({}, A, B, C), silent_s={1: 59.0})
    assert next_step(silent, PATIENCE_S) is None
    assert next_step(replace(silent, silent_s={1: LOST_S}), PATIENCE_S) == Add("d")


def test_a_new_member_has_its_time_to_begin_also_where_patience_is_short() -> None:
    new = Member(4, "d", learner=True, has_started=False)
    seen = replace(view({"b": LOST_S}, A, B, C, new), silent_s={4: 119.0})
    assert next_step(seen, 4.0) is None
    assert next_step(replace(seen, silent_s={4: 120.0}), 4.0) == Remove(4, "d")
    begun = replace(new, has_started=True)
    assert next_step(replace(seen, members=(A, B, C, begun)), 4.0) == Remove(4, "d")


def test_a_learner_without_room_makes_way_for_one_elsewhere() -> None:
    """It is not promoted, and beginning anew on the same disk would make no room there."""
    learner = Member(4, "d", learner=True)
    seen = replace(view({"b": LOST_S}, A, B, C, learner), full_s={4: 59.0})
    assert next_step(seen, PATIENCE_S) == Promote(4, "d")
    assert next_step(replace(seen, full_s={4: LOST_S}), PATIENCE_S) == Remove(4, "d")
    nowhere = replace(view({"b": LOST_S, "e": 1.0}, A, B, C, learner), full_s={4: LOST_S})
    assert next_step(nowhere, PATIENCE_S) == Promote(4, "d")


def test_a_new_steward_keeps_a_learner_for_as_long_as_it_waits_for_a_lost_member() -> None:
    """What was fetched so far is not thrown away, as would be with each change of the leader."""
    learner = Member(4, "d", learner=True)
    assert next_step(view({"b": 0.001}, A, B, C, learner), PATIENCE_S) is None
    assert next_step(view({"b": 0.001}, A, B, C, learner, hosted="abc"), PATIENCE_S) == Host(4, "d")
    assert next_step(view({"b": LOST_S}, A, B, C, learner), PATIENCE_S) == Promote(4, "d")
    assert next_step(replace(view({}, A, B, C, learner), silent_s={2: 0.0}), PATIENCE_S) is None
    assert next_step(view({}, A, B, C, learner), PATIENCE_S) == Remove(4, "d")
    surplus = Member(5, "e")
    assert next_step(view({"b": LOST_S}, A, B, C, surplus, learner), PATIENCE_S) == Remove(4, "d")


def test_a_new_steward_removes_who_is_away_and_not_who_has_just_replaced_it() -> None:
    """It leads since a moment, so that nobody is lost yet in its eyes."""
    voter = Member(4, "d")
    assert next_step(view({"b": 0.001}, A, B, C, voter), PATIENCE_S) == Remove(2, "b")
    silent = replace(view({}, A, B, C, voter), silent_s={2: 0.0})
    assert next_step(silent, PATIENCE_S) == Remove(2, "b")


@pytest.mark.parametrize("leaving", "bc")
def test_a_dead_member_goes_before_one_on_a_machine_that_leaves(leaving: str) -> None:
    """The latter votes as long as there is no other place for it: else a store of three would survive no loss."""
    lost = {"b": LOST_S, "c": LOST_S, "e": 1.0} | {leaving: math.inf}
    dead, other = (B, C) if leaving == "c" else (C, B)
    seen = replace(view(lost, A, B, C, Member(4, "d")), answering=frozenset({1, other.id, 4}))
    anew = replace(seen, lost_s={**seen.lost_s, dead.machine: 0.001})
    assert next_step(anew, PATIENCE_S) is None, "a new leader's steward does not know yet which of them is dead"
    assert next_step(seen, PATIENCE_S) == Remove(dead.id, dead.machine)
    seen = after(Remove(dead.id, dead.machine), seen)
    assert next_step(seen, PATIENCE_S) == Dismiss(dead.machine)
    seen = after(Dismiss(dead.machine), seen)
    assert next_step(seen, PATIENCE_S) is None
    seen = replace(seen, lost_s={**seen.lost_s, "e": 0.0})
    assert next_step(seen, PATIENCE_S) == Add("e")


def test_without_a_spare_machine_it_is_made_anew_where_it_was() -> None:
    silent = replace(view({"d": LOST_S, "e": LOST_S}, A, B, C), silent_s={1: LOST_S})
    assert next_step(silent, PATIENCE_S) == Remove(1, "a")
    assert next_step(replace(silent, members=(B, C)), PATIENCE_S) == Dismiss("a")
    assert next_step(replace(silent, members=(B, C), hosted=frozenset("bc")), PATIENCE_S) == Add("a")
    assert next_step(replace(silent, barred=frozenset("a")), PATIENCE_S) is None
    two = replace(silent, silent_s={1: LOST_S, 2: LOST_S})
    assert next_step(two, PATIENCE_S) is None, "the quorum is gone: who of them has which data, nobody knows"


def test_a_machine_on_which_a_member_was_given_up_is_the_last_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one with a broken disk would be tried for ever, while another machine is free."""
    machines = [Machine(name=name, address=f"127.9.9.{n}", index=n) for n, name in enumerate("abcde", 1)]
    machines[:3] = [machine.model_copy(update={"control_plane": True}) for machine in machines[:3]]
    state = ClusterState(name="c", id="0" * 32, subnet=9, local=True, machines=machines, control_plane_size=3)
    service = Service(Config(state=state, machine="a", data_dir=tmp_path))

    async def change(_method: str, _request: Any) -> None:
        pass

    monkeypatch.setattr(service, "_change", change)
    nodes = [{"Labels": {MACHINE_LABEL: machine.name}} | {"Alive": True} for machine in machines if machine.name != "b"]
    listed = [
        etcd_pb2.Member(ID=machine.index, name=machine.name, peerURLs=[addresses.kv_peer_url(machine)])
        for machine in state.control_plane
    ]

    def step() -> Step | None:
        return next_step(service._view(listed, nodes, {"kv-a", "kv-b", "kv-c"}, set(), {}), 1e-6)

    assert step() == Add("d")
    asyncio.run(service._take(Remove(4, "d"), listed))
    assert step() == Add("e")
    asyncio.run(service._take(Remove(5, "e"), listed))
    assert step() == Add("d")


def test_a_member_elsewhere_with_the_machine_s_name_keeps_no_new_one_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`etcdctl member update` gave it an address that is no machine's: the new one is not at that address, too."""
    machine = Machine(name="a", address="127.9.9.1", index=1)
    state = ClusterState(name="c", id="0" * 32, subnet=9, local=True, machines=[machine])
    service = Service(Config(state=state, machine="a", data_dir=tmp_path))
    started: list[Placement] = []
    monkeypatch.setattr("raykube.cluster.placement.start", lambda item, *_: started.append(item))
    monkeypatch.setattr(service._tending, "certify", lambda _: None)
    own = addresses.kv_peer_url(machine)
    listed = [
        etcd_pb2.Member(ID=0xD, name="a", peerURLs=["https://127.9.9.99:2380"]),
        etcd_pb2.Member(ID=0xB, peerURLs=[own], isLearner=True),
    ]
    service._host(0xB, machine, listed)
    flags = dict(started[0].services)["raykube.kv"]
    assert flags["initial_cluster"] == ["d=https://127.9.9.99:2380", f"a={own}"]


def after(step: Step, seen: View) -> View:
    """What there is once `step` was taken."""
    members, hosted = list(seen.members), set(seen.hosted)
    match step:
        case Add(machine):
            members.append(Member(max((m.id for m in members), default=0) + 10, machine, True, False))
        case Host(_, machine):
            hosted.add(machine)
            members = [replace(m, has_started=True) if m.machine == machine else m for m in members]
        case Promote(member, _):
            members = [replace(m, learner=False) if m.id == member else m for m in members]
        case Remove(member, _):
            members = [m for m in members if m.id != member]
        case Dismiss(machine):
            hosted.discard(machine)
    return replace(seen, members=tuple(members), hosted=frozenset(hosted))


def steps(seen: View) -> Iterator[View]:
    for _ in range(40):
        step = next_step(seen, PATIENCE_S)
        if step is None:
            return
        seen = after(step, seen)
        yield seen
    raise AssertionError(f"it does not come to rest: {seen}")


@given(
    st.sets(st.sampled_from("abcdefg"), min_size=3, max_size=5),
    st.sets(st.sampled_from("abcdefg")),
    st.sets(st.sampled_from("abcdefg")),
    st.sets(st.sampled_from("abcdefg")),
)
def test_whatever_is_lost_it_comes_to_rest_with_as_many_live_members_as_can_be(
    homes: set[str], dead: set[str], silent: set[str], hosted: set[str]
) -> None:
    """A quorum lives; the rest may be dead, or silent on machines that live, and actors may be where they do not belong
    or missing where they do."""
    voters = sorted(homes)
    dead -= (alive := set(voters[: len(voters) // 2 + 1]))
    wanted = len(voters)
    lost_s = {name: LOST_S if name in dead else 0.0 for name in "abcdefg"}
    members = tuple(Member(n, name) for n, name in enumerate(voters, 1))
    silent_s = {member.id: LOST_S for member in members if member.machine in silent - alive}
    seen = begin = View(members, lost_s, frozenset(hosted), wanted, silent_s=silent_s)
    for seen in steps(begin):
        live = [m for m in seen.members if not m.learner and m.machine not in dead and m.id not in silent_s]
        assert 2 * len(live) > len([m for m in seen.members if not m.learner]), "a step took the quorum"
    live_homes = {m.machine for m in seen.members if m.machine not in dead and m.id not in silent_s}
    assert len(live_homes) == min(wanted, 7 - len(dead))
    assert live_homes <= seen.hosted
    if len(live_homes) == wanted:
        assert len(seen.members) == wanted
        assert seen.hosted == live_homes

"""What the steward decides about machines and actors."""

import math
from dataclasses import replace

import pytest

from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.fleet import Admit, Change, Drain, Forget, Seat, View, amiss, changes, endings

DEFAULTS = Config.model_fields


def cluster(**phases: str) -> ClusterState:
    machines = [
        Machine(
            name=name, address=f"10.0.0.{index}", index=index, control_plane=name in "abc", phase=phases.get(name, "")
        )  # type: ignore[arg-type]
        for index, name in enumerate("abcde", 1)
    ]
    return ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=machines)


def view(homes: str = "abc", gone: dict[str, float] | None = None, left: str = "", newcomers: str = "") -> View:
    return View(
        voters=frozenset(homes),
        homes=frozenset(homes),
        gone_s=dict.fromkeys("abcde", 0.0) | (gone or {}),
        left=frozenset(left),
        newcomers=tuple(newcomers),
        actors=frozenset(),
    )


def change(state: ClusterState, seen: View) -> object:
    return next(iter(every_change(state, seen)), None)


def every_change(state: ClusterState, seen: View) -> list[Change]:
    return changes(state, seen, leave_after_s=DEFAULTS["leave_after"].default, forget_after_s=3600.0)


def test_nothing_changes_while_all_is_well() -> None:
    assert change(cluster(), view()) is None


def test_the_control_plane_is_where_the_store_is() -> None:
    assert change(cluster(), view("abd")) == Seat(frozenset("abd"))


def test_a_machine_whose_member_is_made_anew_there_keeps_the_rest_of_its_part() -> None:
    """It would be ended, and begun again as soon as the learner is promoted."""
    learning = replace(view(), voters=frozenset("ab"), homes=frozenset("abcd"))
    assert change(cluster(), learning) is None
    assert change(cluster(), replace(learning, homes=frozenset("abd"))) == Seat(frozenset("ab"))


def test_machines_that_ray_has_and_we_do_not_are_taken() -> None:
    assert change(cluster(), view(newcomers="xy")) == Admit(("x", "y"))


@pytest.mark.parametrize(
    ("gone_s", "left", "expected"),
    [
        (300.0, "e", None),  # a reboot
        (599.0, "e", None),
        (600.0, "e", Forget("e")),
        (3599.0, "", None),
        (3600.0, "", Forget("e")),
    ],
)
def test_a_machine_that_is_gone_is_forgotten_in_time(gone_s: float, left: str, expected: object) -> None:
    assert change(cluster(), view(gone={"e": gone_s}, left=left)) == expected


def test_lost_machines_may_be_waited_for_for_ever() -> None:
    assert changes(cluster(), view(gone={"e": 1e9}), 60.0, 0.0) == []


def test_a_machine_whose_member_the_store_counts_on_is_not_forgotten() -> None:
    assert change(cluster(), view(gone={"b": math.inf}, left="b")) is None


def test_a_machine_that_leaves_is_drained_and_goes_with_its_ray() -> None:
    assert change(cluster(e="draining"), view()) == Drain("e")
    assert change(cluster(e="drained"), view()) is None
    assert change(cluster(e="drained"), view(gone={"e": 0.1})) == Forget("e")
    # Its member of the store moves first.
    assert change(cluster(b="draining"), view()) is None


def test_what_cannot_be_done_now_keeps_nothing_else_from_it() -> None:
    """A machine may be refused, one's budgets may take their time, the Node of another may be kept by a webhook."""
    seen = view("abc", newcomers="x", gone={"d": math.inf})
    state = cluster(b="draining", d="drained", e="draining")
    assert every_change(state, seen) == [Admit(("x",)), Forget("d"), Drain("e")]


def test_a_machine_that_dies_while_it_leaves_is_waited_for_no_longer_than_one_that_left() -> None:
    """The operator said that it goes: by default that would be an hour, and without forget-after for ever."""
    for forget_after_s in (3600.0, 0.0):
        assert changes(cluster(e="draining"), view(gone={"e": 599.0}), 600.0, forget_after_s) == []
        assert changes(cluster(e="draining"), view(gone={"e": 600.0}), 600.0, forget_after_s) == [Forget("e")]


def test_actors_are_fitted_to_the_plan() -> None:
    wanted = ["kv-a", "apiserver-a", "kubelet-a", "kubelet-b"]
    assert amiss(wanted, {"kubelet-a", "kv-c", "scheduler-b"}, "kv-") == (["apiserver-a", "kubelet-b"], ["scheduler-b"])
    assert amiss(wanted, set(wanted), "kv-") == ([], [])


def test_a_machine_that_leaves_is_cleared_pods_before_their_network() -> None:
    surplus = ["pod-network-e", "kubelet-e", "router-e", "scheduler-b", "kubelet-ee"]
    assert endings(surplus, ["e"]) == [
        (["kubelet-e"], True),
        (["pod-network-e"], True),
        (["router-e"], True),
        (["kubelet-ee", "scheduler-b"], False),
    ]

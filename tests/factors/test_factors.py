"""Each factor is worth what the table says, and costs nobody a place to run."""

import pytest

from tests.factors import deadlines, gangs, interference, locality, needs
from tests.factors.table import FACTORS, main


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_node_has_more_than_it_can_give(seed: int) -> None:
    objects = needs.hungry(seed)
    assert needs.overcommitted(objects, needs.place(objects)) == 0
    assert needs.overcommitted(objects, needs.place(objects, (needs.NodeResourcesFit,))) >= 12


@pytest.mark.parametrize("seed", range(1, 9))
def test_no_place_is_held_by_a_job_that_cannot_begin(seed: int) -> None:
    """Whatever fits as a whole begins, too: what is left free is less than the smallest job that waits."""
    places, sizes = gangs.held(True, seed), gangs.jobs(seed)
    assert gangs.in_vain(places, seed) == 0
    waiting = [size for job, size in sizes.items() if not places[job]]
    assert gangs.NODES - places.total() < min(waiting, default=gangs.NODES + 1)


def test_without_gangs_most_places_are_held_in_vain() -> None:
    assert gangs.in_vain(gangs.held(False)) > gangs.NODES / 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_pod_is_where_it_must_not_be(seed: int) -> None:
    objects = needs.constrained(seed)
    places = needs.place(objects)
    assert needs.misplaced(objects, places) == 0
    assert len(places) == needs.PODS, "there is a machine for each"
    assert needs.misplaced(objects, needs.place(objects, (needs.NodeAffinity, needs.TaintToleration))) >= 10


def test_pods_are_apart_spread_and_together_as_they_ask() -> None:
    objects = needs.replicated()
    assert needs.broken(needs.place(objects)) == 0
    assert needs.broken(needs.place(objects, (needs.InterPodAffinity, needs.PodTopologySpread))) > 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_locality_saves_most_of_the_bytes(seed: int) -> None:
    assert locality.moved(True, seed) < locality.moved(False, seed) / 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_services_are_kept_from_what_slows_them(seed: int) -> None:
    without, with_it = interference.mean_slowdown(False, seed), interference.mean_slowdown(True, seed)
    assert with_it - 1.0 < 0.5 * (without - 1.0)


def test_reports_of_nonsense_do_no_harm() -> None:
    """Everything is placed, and services fare about as if there were no reports."""
    assert interference.mean_slowdown(True, 1, lies=True) < 1.2 * interference.mean_slowdown(False, 1)


def test_no_deadline_is_missed_and_nobody_waits_much_longer() -> None:
    tasks = deadlines.workload()
    without, ours = deadlines.run(tasks, told=False), deadlines.run(tasks, told=True)
    assert len(deadlines.missed(tasks, without)) >= 5
    assert deadlines.missed(tasks, ours) == []
    assert deadlines.longest_wait(tasks, ours) <= deadlines.longest_wait(tasks, without) + 60


def test_the_table_is_printed_with_a_test_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["FACTOR", "FIGURE", "WITHOUT", "WITH", "TEST"]
    assert [line.split()[-1] for line in lines] == list(FACTORS.values())
    assert all(test in globals() for test in FACTORS.values())

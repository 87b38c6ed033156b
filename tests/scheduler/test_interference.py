"""Who slows whom down: what is learnt, what it costs, and what never matters."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.scheduler.core.interference import NOTICEABLE, PAIRS_MAX, TTL_S, Report, SlowdownModel, class_of_work

TRUTH = {("web", "hog"): 1.5, ("hog", "web"): 0.2, ("hog", "hog"): 0.5}
NAMES = ("web", "hog", "idle")


def slowdown(name: str, here: Counter[str]) -> float:
    return 1.0 + sum(TRUTH.get((name, other), 0.0) * (n - (other == name)) for other, n in here.items())


def learnt(rounds: int, seed: int = 1) -> SlowdownModel:
    """What a cluster teaches whose pods come and go at random."""
    chance, table = random.Random(seed), SlowdownModel()
    rows = [Counter({name: chance.randrange(3) for name in NAMES}) for _ in range(8)]
    for row, here in enumerate(rows):
        for name, count in here.items():
            table.place(name, row, count)
    for turn in range(rounds):
        row = chance.randrange(len(rows))
        here, name = rows[row], chance.choice(NAMES)
        count = -1 if here[name] and chance.random() < 0.5 else 1 if here[name] < 3 else 0
        here[name] += count
        table.place(name, row, count)
        reports = [Report(one, slowdown(one, here) * chance.uniform(0.97, 1.03)) for one in NAMES if here[one]]
        table.observe(row, reports, float(turn))
    return table


def test_the_pairs_that_hurt_are_told_from_those_that_do_not() -> None:
    table = learnt(2000)
    for pair in [(a, b) for a in NAMES for b in NAMES]:
        assert table.weight(*pair) == pytest.approx(TRUTH.get(pair, 0.0), abs=0.15), pair
    assert not table.matters("idle")


def test_a_placement_costs_both_sides() -> None:
    table = SlowdownModel()
    table.place("web", 0, 1)
    table.place("hog", 0, 1)
    for turn in range(50):
        table.observe(0, [Report("web", 2.5), Report("hog", 1.2)], float(turn))
    table.place("hog", 3, 2)
    assert table.costs("web", 5) == pytest.approx([1.7, 0, 0, 3.4, 0], abs=2 * NOTICEABLE)
    assert table.costs("hog", 5) == pytest.approx([1.7, 0, 0, 0, 0], abs=2 * NOTICEABLE)


def test_what_nobody_reports_any_more_is_forgotten() -> None:
    table = learnt(2000)
    table.expire(1999.0)
    assert table.matters("web")
    table.expire(1999.0 + TTL_S)
    assert not table.matters("web")
    assert not table.costs("web", 8).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0, 0.0, 0.99])
def test_nonsense_teaches_nothing(value: float) -> None:
    table = SlowdownModel()
    table.place("web", 0, 1)
    table.place("hog", 0, 1)
    table.observe(0, [Report("web", value), Report("nobody", 5.0)], 0.0)
    table.observe(7, [Report("web", 5.0)], 0.0)  # a row with nothing on it
    assert not table.matters("web")


def test_a_wild_report_is_bounded_and_unlearnt() -> None:
    table = SlowdownModel()
    table.place("web", 0, 1)
    table.place("hog", 0, 1)
    table.observe(0, [Report("web", 1e300)], 0.0)
    assert table.weight("web", "hog") <= 9.0
    for turn in range(30):
        table.observe(0, [Report("web", 1.0)], float(turn))
    assert not table.matters("web")


def test_pairs_are_bounded() -> None:
    table = SlowdownModel()
    for n in range(PAIRS_MAX):
        row = n % 64
        table.place(f"a{n}", row, 1)
        table.place(f"b{n}", row, 1)
        table.observe(row, [Report(f"a{n}", 10.0)], float(n))
        table.place(f"a{n}", row, -1)
        table.place(f"b{n}", row, -1)
    table.place("late", 0, 1)
    table.place("hog", 0, 1)
    table.observe(0, [Report("late", 5.0)], float(PAIRS_MAX))
    assert table.matters("late") and not table.matters("a0")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.sampled_from(NAMES), st.integers(0, 20), st.sampled_from([1, 1, -1])),
        st.tuples(st.just("observe"), st.sampled_from(NAMES), st.integers(0, 20), st.floats(1, 20)),
        st.tuples(st.just("expire"), st.just(""), st.integers(0, 4000), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_all_rows_at_once_cost_what_they_cost_one_by_one(history: list[tuple[str, str, int, float]]) -> None:
    table, there, now = SlowdownModel(), Counter[tuple[str, int]](), 0.0
    for what, name, number, value in history:
        now += 1.0
        if what == "place":
            count = int(value) if there[name, number] + value >= 0 else 0
            there[name, number] += count
            table.place(name, number, count)
        elif what == "observe":
            table.observe(number, [Report(name, value)], now)
        else:
            now += number
            table.expire(now)
        for one in NAMES:
            assert np.allclose(table.costs(one, 21), [table.cost(one, row) for row in range(21)])


def test_workloads_by_label_or_by_controller() -> None:
    owner = {"controller": True, "kind": "ReplicaSet", "name": "web-5d4f8", "uid": "u"}
    metadata = {"namespace": "a", "name": "web-5d4f8-x", "labels": {"pod-template-hash": "5d4f8"}}
    assert class_of_work(metadata | {"ownerReferences": [owner]}) == "a/web"
    assert class_of_work(metadata) == ""
    labelled = metadata | {"labels": {"raykube.io/workload-class": "batch"}, "ownerReferences": [owner]}
    assert class_of_work(labelled) == "a/batch"
    stateful = {"controller": True, "kind": "StatefulSet", "name": "db", "uid": "u"}
    assert class_of_work({"namespace": "a", "name": "db-0", "ownerReferences": [stateful]}) == "a/db"

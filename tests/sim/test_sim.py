"""The store in the simulator: many seeds, and that a seed is a replay. `SEED=123 make sim` runs that one."""

import os

import pytest

from tests.sim.run import run

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else range(100)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_survives(seed: int) -> None:
    assert run(seed).events_run > 300


def test_a_seed_is_a_replay() -> None:
    assert len({run(12345).trace for _ in range(2)}) == 1
    assert run(1).trace != run(2).trace

"""The store in the simulator: many seeds, and that a seed is a replay.

`SEED=123 make sim` runs that one; `SEEDS=1000:5000 make sim` runs many. A storm without end is a failure too
(`world.EVENTS_MAX`), so no seed can hang.
"""

import os

import pytest

from tests.sim.run import run


def _seeds() -> range:
    if "SEED" in os.environ:
        return range(int(os.environ["SEED"]), int(os.environ["SEED"]) + 1)
    first, _, end = os.environ.get("SEEDS", "0:100").partition(":")
    return range(int(first), int(end))


SEEDS = _seeds()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_survives(seed: int) -> None:
    assert run(seed).events_run > 300


def test_a_seed_is_a_replay() -> None:
    assert len({run(12345).trace for _ in range(2)}) == 1
    assert run(1).trace != run(2).trace

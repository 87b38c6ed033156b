"""Lives with one disturbance: each scenario under some seeds."""

from collections.abc import Callable

import pytest

from tests.sim.scenarios import SCENARIOS


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_disturbed_group_stays_calm(scenario: Callable[[int], None], seed: int) -> None:
    scenario(seed)

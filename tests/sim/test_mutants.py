"""Every known mistake, planted one at a time: the simulator, a scenario, a transcript or a test must notice it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.mutants.planted import Mutant
from tests.sim.report import MUTANT

CASES = 40


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.case}-{mutant.name}")
def test_a_mistake_is_noticed(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, Any], None]
) -> None:
    mutant.plant(monkeypatch)
    caught_by, seeds = mutant.catch()
    assert seeds, f"{mutant.name} went unnoticed by the {caught_by}"
    record_property(MUTANT, [str(mutant.case), mutant.story, caught_by, str(seeds)])


def test_every_case_is_planted() -> None:
    assert {mutant.case for mutant in MUTANTS} >= set(range(1, CASES + 1))

"""Scheduler shells that crash, with stale caches, lost answers and conflicts; and planted faults that must be found."""

from typing import Any

import pytest

from raykube.scheduler.binder import Binder, Decision
from raykube.scheduler.core.queue import PodQueue
from tests.scheduler.shell_sim import live


@pytest.mark.parametrize("seed", range(10))
def test_a_life_of_schedulers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = live(seed, monkeypatch.setattr)
    told = f"{world.binds} bound, {world.conflicts} conflicts, {world.lost} lost, {world.crashes} crashes"
    print(f"\nseed {seed}: {told}")  # noqa: T201
    assert world.binds
    assert not world.broken


async def _guess(self: Any, decision: Decision) -> bool:
    """A binding of unknown outcome is taken for refused."""
    return False


async def _apart(self: Any, decisions: list[Decision], *_: Any) -> None:
    """A gang is bound pod by pod."""
    for decision in decisions:
        await self.bind([decision])


def _lose(self: Any, pending: Any, now: float) -> None:
    """A pod that was refused stays in work."""


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "what"),
    [
        (Binder, "_ask", _guess, "overcommitted"),
        (Binder, "bind_together", _apart, " of "),
        (PodQueue, "on_error", _lose, "forgotten"),
    ],
)
def test_a_planted_fault_is_found(
    owner: Any, name: str, mutant: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    for seed in range(60):
        if any(what in problem for problem in live(seed, monkeypatch.setattr).broken):
            return
    pytest.fail(f"nobody noticed that {name} is wrong")

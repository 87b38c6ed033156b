"""What a planted mistake is, and those who can notice one: the simulator, a scenario, a transcript, a single test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raykube.kv.core.mvcc.scrub import Rotten
from raykube.kv.core.prover import Diverged
from tests.kit.transcript import play
from tests.kv.raft_group import RaftGroup
from tests.sim.checks import Checks
from tests.sim.run import Failed, run

SEEDS_MAX = 150
SCENARIO_SEEDS_MAX = 10
TRANSCRIPTS = Path(__file__).parent.parent.parent / "kv" / "testdata" / "raft"
# A patch that does not fit what it patches proves nothing.
MISFITS = (AttributeError, TypeError, NameError, ImportError)

Plant = Callable[[pytest.MonkeyPatch], None]
Catcher = Callable[[], tuple[str, int]]  # who caught it after how many seeds; 0: nobody


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: the number of its case, and who must notice it."""

    case: int
    plant: Plant
    catch: Catcher

    @property
    def name(self) -> str:
        return self.plant.__name__

    @property
    def story(self) -> str:
        return (self.plant.__doc__ or "").strip().rstrip(".").replace("\n    ", " ")


MUTANTS: list[Mutant] = []


def mutant(case: int, catch: Catcher) -> Callable[[Plant], Plant]:
    """Registers a function that plants a mistake."""

    def register(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(case, plant, catch))
        return plant

    return register


def simulator() -> tuple[str, int]:
    """Lives of groups, until one fails."""
    return "simulator", _live(None)


def changing() -> tuple[str, int]:
    """Lives of groups whose members change all the time, until one fails."""
    return "simulator, changing members", _live(True)


def members_themselves() -> tuple[str, int]:
    """Lives whose judge looks away: a member must find out by itself that its state is not the others'."""
    with pytest.MonkeyPatch.context() as patch:
        for judgement in ("on_applied", "check_whole", "on_state_read", "on_answered"):
            patch.setattr(Checks, judgement, lambda *_: None)
        for seed in range(SEEDS_MAX):
            try:
                run(seed)
            except Failed as failure:
                if isinstance(failure.__cause__, Diverged | Rotten):
                    return "members themselves", seed + 1
    return "members themselves", 0


def _live(is_changing: bool | None) -> int:
    for seed in range(SEEDS_MAX):
        try:
            run(seed, is_changing)
        except Failed as failure:
            if isinstance(failure.__cause__, MISFITS):
                raise
            return seed + 1
    return 0


def scenario(live: Callable[[int], None]) -> Catcher:
    """Lives with one disturbance."""

    def catch() -> tuple[str, int]:
        for seed in range(SCENARIO_SEEDS_MAX):
            try:
                live(seed)
            except (AssertionError, ValueError):  # what it checks, or a file that cannot be made sense of
                return f"scenario {live.__name__}", seed + 1
        return f"scenario {live.__name__}", 0

    return catch


def transcript(name: str) -> Catcher:
    """A schedule too rare for few seeds, told move by move."""

    def catch() -> tuple[str, int]:
        try:
            play(TRANSCRIPTS / f"{name}.txt", RaftGroup().handle, rewrite=False)
        except AssertionError:
            return f"transcript {name}", 1
        return f"transcript {name}", 0

    return catch


def test(check: Callable[[], None]) -> Catcher:
    """One thing that must hold, or raise as it says."""

    def catch() -> tuple[str, int]:
        try:
            check()
        except (AssertionError, pytest.fail.Exception):
            return f"test {check.__name__}", 1
        return f"test {check.__name__}", 0

    return catch

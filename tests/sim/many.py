"""The seeds of the test suite: a thousand, in four files, a chunk a test."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.sim.report import PROPERTY
from tests.sim.run import run

SEEDS = 1000
FILES = 4
CHUNK = 25
CHUNKS = [range(number * SEEDS // FILES, (number + 1) * SEEDS // FILES, CHUNK) for number in range(FILES)]
EVENTS_MIN = 300  # fewer: nothing was simulated


def live(first: int, record_property: Callable[[str, Any], None]) -> None:
    """Runs a chunk of seeds; the terminal's table gets what they did."""
    counts: Counter[str] = Counter()
    events = 0
    for seed in range(first, first + CHUNK):
        world = run(seed)
        assert world.events_run > EVENTS_MIN
        events += world.events_run
        counts.update(world.counts)
    record_property(PROPERTY, {"seeds": CHUNK, "events": events, "counts": dict(counts)})

# ruff: noqa: T201 - a command prints
"""`python -m tests.sim 123` runs one seed twice and shows its trace; `… 0:5000` runs many on all cores."""

import os
import sys
import time
from collections import Counter
from multiprocessing import get_context

from tests.sim.report import seeds_table
from tests.sim.run import Failed, run

CHUNK = 10
FAILURES_MAX = 5


def _replay(seed: int) -> int:
    traces = set()
    has_failed = False
    for _ in range(2):
        try:
            world = run(seed)
        except Failed as failure:
            print(failure)
            traces.add(failure.trace)
            has_failed = True
        else:
            print(f"seed {seed}: trace {world.trace:08x} after {world.events_run} events")
            traces.add(world.trace)
    if len(traces) > 1:
        print("the second run went another way than the first")
    return int(has_failed or len(traces) > 1)


def _one(seed: int) -> tuple[int, str, int, Counter[str]]:
    try:
        world = run(seed)
    except Failed as failure:
        return seed, str(failure), 0, Counter()
    return seed, "", world.events_run, world.counts


def _many(seeds: range) -> int:
    counts: Counter[str] = Counter()
    failures = events = done = 0
    began = shown = time.monotonic()
    with get_context("fork").Pool(os.cpu_count()) as pool:
        for _, failure, events_run, more in pool.imap_unordered(_one, seeds, CHUNK):
            done += 1
            events += events_run
            counts.update(more)
            if failure:
                failures += 1
                print(failure)
                if failures == FAILURES_MAX:
                    break
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                print(f"{done}/{len(seeds)} seeds, {done / (shown - began):.1f}/s, {failures} failed", flush=True)
    print(seeds_table(done, events, counts, time.monotonic() - began))
    print(f"{done - failures} passed, {failures} failed")
    return int(failures > 0)


def main(argument: str) -> int:
    first, colon, end = argument.partition(":")
    return _many(range(int(first), int(end))) if colon else _replay(int(first))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

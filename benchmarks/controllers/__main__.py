"""CPU of the controller-manager for each pod, without a network: the API is in this process and is not counted.

    python -m benchmarks.controllers [--pods 1000 5000] [--only deployment] [--step 50] [--profile]

All controllers run on real informers and runners. Pods live as hollow machines have them: created by their controller,
bound, running and ready (Jobs': succeeded), `--step` of them at a time, as a cluster moves so many in a few
hundredths of a second. What is printed: microseconds for each pod, by controller (observe + reconcile) and by what
all share. A figure that grows with `--pods` says that something is not incremental. The clock is this program's own.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Iterable, Sequence

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.controllers.manager import Manager, Meter
from benchmarks.controllers.scenarios import SCENARIOS, add_node
from benchmarks.controllers.world import World
from raykube.base import collector
from raykube.base.clock import FakeClock
from raykube.client import api, informer
from raykube.client.core import eventlog
from raykube.controllers import runner as runners


async def measure(name: str, pods: int, step: int, profile: cProfile.Profile | None) -> tuple[dict[str, float], World]:
    """CPU seconds by part; and the world, with what was written."""
    clock, meter = FakeClock(), Meter()
    world = World(clock)
    world.carry_out = meter.wrap("(world)", world.carry_out)  # type: ignore[method-assign]
    for each in ("bind", "start", "end", "flush", "create", "remove"):
        setattr(world, each, meter.wrap("(world)", getattr(world, each)))
    genuine = (api.decode_events, runners.operation_of, informer.Informer._dispatch, eventlog.EventLog.flush)
    eventlog.EventLog.flush = meter.wrap("events", eventlog.EventLog.flush)  # type: ignore[method-assign]
    api.decode_events = meter.wrap("decode", api.decode_events)
    runners.operation_of = meter.wrap("encode", runners.operation_of)
    informer.Informer._dispatch = meter.wrap("index", informer.Informer._dispatch)  # type: ignore[method-assign]
    manager = Manager(world, clock, meter)
    try:
        for resource in ({"name": "default"},):
            world.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": resource})
        for number in range(100):
            add_node(world, number)
        world.pending.clear()
        await manager.start()
        await manager.step()
        meter.reset()
        world.writes.clear()
        if profile:
            profile.enable()
        await SCENARIOS[name](manager, pods, step)
        await manager.step()
        if profile:
            profile.disable()
        return meter.read(), world
    finally:
        api.decode_events, runners.operation_of = genuine[:2]
        informer.Informer._dispatch, eventlog.EventLog.flush = genuine[2:]  # type: ignore[method-assign]
        await manager.stop()


def show(console: Console, name: str, sizes: Sequence[int], results: list[tuple[dict[str, float], World]]) -> None:
    table = Table(title=f"{name}: CPU of the controller-manager, µs for each pod", title_justify="left")
    table.add_column("part")
    for size in sizes:
        table.add_column(f"{size:,} pods", justify="right")
    parts = sorted(
        {part for seconds, _ in results for part in seconds if not part.startswith("(")},
        key=lambda part: -results[-1][0].get(part, 0.0),
    )

    def row(title: str, values: Iterable[float]) -> None:
        cells = [value / size * 1e6 for value, size in zip(values, sizes, strict=True)]
        if any(cell >= 0.5 for cell in cells):
            table.add_row(title, *(f"{cell:.1f}" for cell in cells))

    row("all", [sum(value for part, value in seconds.items() if not part.startswith("(")) for seconds, _ in results])
    for part in parts:
        row(part, [seconds.get(part, 0.0) for seconds, _ in results])
    console.print(table)
    for size, (_, world) in zip(sizes, results, strict=True):
        told = sorted(world.writes.items(), key=lambda pair: -pair[1])[:8]
        console.print(f"  writes at {size:,}: " + ", ".join(f"{count:,} {what}" for what, count in told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--step", type=int, default=50, help="pods that move at a time")
    parser.add_argument("--profile", action="store_true", help="prints where the time goes, with the profiler's cost")
    args = parser.parse_args()
    console = Console(width=140)
    collector.settle()  # as the controller-manager's process does
    for name in args.only:
        results = []
        for pods in args.pods:
            profile = cProfile.Profile(time.process_time) if args.profile else None
            results.append(uvloop.run(measure(name, pods, args.step, profile)))
            if profile:
                pstats.Stats(profile).sort_stats("tottime").print_stats(35)
        show(console, name, args.pods, results)


if __name__ == "__main__":
    main()

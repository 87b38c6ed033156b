"""What simulations did, as tables for a person: seeds, faults, and the mistakes that were planted."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

PROPERTY = "simulated"  # test reports carry it from the workers to the terminal
MUTANT = "mutant"


def seeds_table(seeds: int, events: int, counts: Counter[str], seconds: float) -> str:
    """Seeds, what was injected and what came of it."""
    lines = [f"{seeds:>10}  seeds, {seeds / max(seconds, 0.001):.1f}/s", f"{events:>10}  events"]
    faults = {name: count for name, count in counts.items() if name.startswith("fault: ")}
    for group in (faults, {name: count for name, count in counts.items() if name not in faults}):
        lines += [f"{count:>10}  {name}" for name, count in sorted(group.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def mutants_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """case, what was planted, caught by, after how many seeds."""
    titled = [("case", "planted", "caught by", "seeds"), *rows]
    widths = [max(len(row[column]) for row in titled) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in titled)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the tables of the whole run, also of workers'."""
    counts: Counter[str] = Counter()
    seeds = events = 0
    seconds = 0.0
    rows = []
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == PROPERTY:
                seeds += value["seeds"]
                events += value["events"]
                seconds += report.duration
                counts.update(value["counts"])
            elif name == MUTANT:
                rows.append(tuple(value))
    if seeds:
        terminalreporter.section("the store in the simulator")
        terminalreporter.line(seeds_table(seeds, events, counts, seconds))
    if rows:
        terminalreporter.section("planted mistakes")
        terminalreporter.line(mutants_table(sorted(rows, key=lambda row: int(row[0]))))
        terminalreporter.line(f"{len({row[0] for row in rows})} cases, {len(rows)} mistakes, all of them noticed")

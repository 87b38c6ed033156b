"""Reports: as tables, as files, and beside an earlier one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from raykube.bench.core import comparison
from raykube.bench.core.table import Line

Object = dict[str, Any]


def show(console: Console, report: Object) -> None:
    """The tables of one run."""
    scale = report["scale"]
    console.print(
        f"[bold]{report['scenario']}[/]: {report['about']}\n"
        f"{scale['nodes']:,} machines, {scale['pods']:,} pods, {scale['apiservers']} apiserver(s), "
        f"{report['machine']['cpus']} CPUs\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("STEP", "PODS", "SECONDS", "CREATED/S", "BOUND/S", "RUNNING/S", "GONE/S"):
        table.add_column(column, justify="left" if column == "STEP" else "right")
    for column in ("BOUND P50", "P99", "RUNNING P50", "P99 MS"):
        table.add_column(column, justify="right")
    for step in report["steps"]:
        rates = [_number(step["per_s"][kind]) for kind in ("created", "bound", "running", "gone")]
        waits = [
            _number(step["latency_ms"][kind].get(name, 0)) for kind in ("bound", "running") for name in ("p50", "p99")
        ]
        table.add_row(step["name"], f"{step['pods']:,}", f"{step['seconds']:.1f}", *rates, *waits)
    console.print(table)
    components = list(report["steps"][0]["cpu_us_per_pod"]) if report["steps"] else []
    if len(components) > 1:
        console.print()
        console.print(_components(report, components))


def _components(report: Object, components: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("COMPONENT")
    for step in report["steps"]:
        table.add_column(f"CPU µS/POD {step['name']}", justify="right")
    table.add_column("RSS MIB", justify="right")
    rss = report["steps"][-1]["rss_mib"]
    for name in components:
        cpu = [_number(step["cpu_us_per_pod"].get(name, 0)) for step in report["steps"]]
        table.add_row(name, *cpu, _number(rss.get(name, 0)))
    sums = [_number(sum(step["cpu_us_per_pod"].values())) for step in report["steps"]]
    table.add_row("all", *sums, _number(sum(rss.values())))
    return table


def compare(console: Console, before: Object, after: Object) -> None:
    """What changed since an earlier run: figures that differ by 3 % or more."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("STEP", "FIGURE", "BEFORE", "NOW", "RATIO"):
        table.add_column(column, justify="left" if column in ("STEP", "FIGURE") else "right")
    found = [row for row in comparison.rows(before, after) if row.before and abs(row.ratio - 1) >= 0.03]
    for row in found:
        better = (row.ratio > 1) == row.more_is_better
        ratio = f"[{'green' if better else 'red'}]{row.ratio:.2f}[/]"
        table.add_row(row.step, row.figure, _number(row.before), _number(row.after), ratio)
    console.print(f"\nBeside the run of {before['at']} (raykube {before['version']}):")
    console.print(table if found else "no figure differs by 3 % or more")


SHORT = {"controller-manager": "CTL", "scheduler": "SCHED", "apiserver": "API"}  # names of components in a column
ORDER = ("kv", "apiserver", "controller-manager", "scheduler", "hollow", "client")
SIZES = ("NODES", "PODS", "S", "PODS/S", "P50 MS", "P99 MS", "API P99")
TABLE_WIDTH_MIN = 190  # a line of it is never folded


def show_table(console: Console, lines: Sequence[Line]) -> None:
    """The lines of a table of measurements."""
    found = dict.fromkeys(name for line in lines for name in line.cpu_us)
    components = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("SCENARIO", no_wrap=True)
    for column in (*SIZES, *(SHORT.get(name, name.upper()) for name in components), "CPU µS/POD", "PEAK GIB"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("AIM", "UPSTREAM"):
        table.add_column(column, no_wrap=True)
    for line in lines:
        size = (f"{line.nodes:,}", f"{line.pods:,}")
        if line.words:
            table.add_row(line.title, *size, *[""] * (len(SIZES) + len(components)), line.words)
            continue
        waits = (line.latency_ms.get("p50", 0), line.latency_ms.get("p99", 0), line.api_ms.get("p99", 0))
        cpu = [line.cpu_us.get(name, 0) for name in components]
        figures = map(_number, (line.seconds, line.per_s, *waits, *cpu, sum(line.cpu_us.values()), line.peak_gib))
        table.add_row(line.title, *size, *figures, line.aim, line.upstream)
    wide = Console(file=console.file, width=max(console.width, TABLE_WIDTH_MIN), highlight=False)
    wide.print(table)


def write_table(lines: Sequence[Line], path: Path) -> None:
    """The same as text. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        show_table(Console(file=file, width=TABLE_WIDTH_MIN), lines)


def _number(value: float) -> str:
    if not value:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def write(report: Object, folder: Path) -> Path:
    """Writes the report's JSON; returns its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = report["at"].replace("-", "").replace(":", "")
    path = folder / f"{report['scenario']}-{stamp}.json"
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return path


def read(path: Path) -> Object:
    """A report. Raises ValueError with a line for the user."""
    try:
        found = orjson.loads(path.read_bytes())
        if found["format"] == 1:
            return dict(found)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is no report of 'raykube bench'")


def latest(report: Object, folder: Path) -> Path | None:
    """The last report in `folder` that can be compared with this one."""
    for path in sorted(folder.glob(f"{report['scenario']}-*.json"), reverse=True):
        try:
            if comparison.is_comparable(read(path), report):
                return path
        except ValueError:
            continue
    return None

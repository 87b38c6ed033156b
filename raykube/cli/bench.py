"""`raykube bench`: named measurements."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A bar for each part of a measurement. Where nobody looks at a terminal, a line when it has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int) -> None:
        self._title = title
        self._task = self._progress.add_task(title, total=max(total, 1), words="")

    def at(self, done: int, words: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, words=words)

    def end(self, words: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._console.print(f" [green]✓[/] {self._title}  [dim]{words}[/]")


class Rows:
    """A line before each row of a table."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def row(self, number: int, of: int, planned: Any) -> None:
        scenario = planned.scenario
        self._console.print(
            f"[bold]{planned.row.name}[/] ({number} of {of}): {scenario.name}, "
            f"{scenario.nodes:,} machines, {scenario.pods:,} pods"
        )

    def kept(self, planned: Any) -> None:
        self._console.print(f"[bold]{planned.row.name}[/]: measured before [dim]({planned.path})[/]")

    def failed(self, planned: Any, words: str) -> None:
        self._console.print(f" [red]✗[/] {planned.row.name}: {escape(words)}", soft_wrap=True)


@click.command()
@click.argument("scenario", required=False)
@click.option("--nodes", type=click.IntRange(1), help="machines [default: the scenario's]")
@click.option("--pods", type=click.IntRange(1), help="pods [default: the scenario's]")
@click.option("--apiservers", type=click.IntRange(1, 5), default=1, show_default=True, help="apiservers")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="runs; each is a report")
@click.option("--pod-events", is_flag=True, help="hollow machines write the Events that kubelets write about pods")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="bench-results",
    show_default=True,
    help="folder for reports (JSON) and pictures (PNG)",
)
@click.option(
    "--compare", type=click.Path(path_type=Path), help="an earlier report [default: the last of the same scale there]"
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="measure this cluster and its hollow machines, not a control plane made for it",
)
@click.option(
    "--namespace",
    "-n",
    default="",
    help="with --kubeconfig: the pods' namespace, which is made if need be, and stays [default: a new one, which goes]",
)
@click.option("--table", help="measure the rows of a table in place of a scenario: quick, full, or a file of that form")
@click.option("--row", "rows", multiple=True, help="with --table: this row alone (may be given several times)")
@click.option("--again", is_flag=True, help="with --table: also rows that an earlier run measured")
def bench(
    scenario: str | None,
    nodes: int | None,
    pods: int | None,
    apiservers: int,
    repeat: int,
    pod_events: bool,
    output: Path,
    compare: Path | None,
    kubeconfig: Path | None,
    namespace: str,
    table: str | None,
    rows: tuple[str, ...],
    again: bool,
) -> None:
    """Measure a cluster: SCENARIO is a name, or a file of that form. Without one, the names are listed.

    Store, apiserver, controllers, scheduler and hollow machines are started as processes of this computer, and are
    gone afterwards.

    A table is measured row by row, each in a control plane of its own. What is interrupted goes on there when it is
    run again.
    """
    from raykube.bench import catalog, report

    # A pipe has no width: what reads it wants whole lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if namespace and kubeconfig is None:
        raise click.UsageError("--namespace goes with --kubeconfig: a control plane made for a run has nobody else")
    if table is not None:
        if scenario is not None or kubeconfig is not None or nodes or pods:
            raise click.UsageError("--table has scenarios and scales of its own, in control planes made for them")
        _table(console, table, output, rows, again, pod_events)
        return
    if scenario is None:
        for name in catalog.names():
            console.print(f"{name:<16} {catalog.load(name).about}")
        for name in catalog.names(catalog.TABLES):
            console.print(f"--table {name:<8} {catalog.load_table(name).about}")
        return
    try:
        wanted = catalog.load(scenario).scaled(nodes or 0, pods or 0)
        earlier = report.read(compare) if compare is not None else None
        for _ in range(repeat):
            found = _measure(console, wanted, apiservers, pod_events, kubeconfig, namespace)
            report.show(console, found)
            before = earlier or _latest(found, output)
            path = report.write(found, output)
            if before is not None:
                report.compare(console, before, found)
            _draw(console, found, path)
    except click.exceptions.Exit:  # a RuntimeError too
        raise
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None


def _table(console: Console, name: str, output: Path, rows: tuple[str, ...], again: bool, pod_events: bool) -> None:
    from raykube.bench import catalog, report
    from raykube.bench.tables import RowError, TableRun

    def measure(scenario: Any, apiservers: int) -> Any:
        try:
            return _measure(console, scenario, apiservers, pod_events, None)
        except click.exceptions.Exit:  # it was ended; a RuntimeError too
            raise
        except (OSError, RuntimeError) as error:
            raise RowError(str(error)) from error

    try:
        table = catalog.load_table(name)
        folder = output / f"table-{table.name}"
        run = TableRun(table, folder, rows)
        try:
            well = run.run(measure, Rows(console), again=again)
        finally:
            lines = list(run.lines())
            console.print()
            report.show_table(console, lines)
            report.write_table(lines, folder / "table.txt")
        console.print(f"\n{folder}", soft_wrap=True, markup=False)
    except (click.exceptions.Exit, click.Abort):
        raise
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    if not well:
        raise click.ClickException("not every row could be measured")


def _measure(
    console: Console, wanted: Any, apiservers: int, pod_events: bool, kubeconfig: Path | None, namespace: str = ""
) -> Any:
    import uvloop

    from raykube.base import collector
    from raykube.bench.runner import Runner
    from raykube.client.kubeconfig import connect

    collector.settle()
    connection = connect([kubeconfig]) if kubeconfig is not None else None
    try:
        with Bars(console) as bars:
            runner = Runner(
                wanted,
                bars,
                apiservers=apiservers,
                pod_events=pod_events,
                connection=connection,
                namespace=namespace,
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                return loop.run(_until_ended(runner.run()))
    except asyncio.CancelledError:
        raise click.exceptions.Exit(128 + signal.SIGTERM) from None
    finally:
        if connection is not None:
            connection.close()


async def _until_ended(run: Coroutine[Any, Any, Any]) -> Any:
    """The run's report. SIGTERM ends it as Ctrl-C does: its processes and files go."""
    task = asyncio.ensure_future(run)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _latest(found: Any, output: Path) -> Any:
    from raykube.bench import report

    path = report.latest(found, output)
    return report.read(path) if path is not None else None


def _draw(console: Console, found: Any, path: Path) -> None:
    from raykube.bench import plot

    picture = path.with_suffix(".png")
    try:
        plot.draw(found, picture)
        console.print(f"\n{path}, {picture.name}", soft_wrap=True, markup=False)
    except plot.NoMatplotlib as error:
        console.print(f"\n{path}; {error}", soft_wrap=True, markup=False)

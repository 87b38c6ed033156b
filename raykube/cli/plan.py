"""`raykube plan` and `raykube drain --plan`: what the scheduler would do, asked of the scheduler itself."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raykube.api.errors import ApiError
from raykube.base import collector
from raykube.client import manifests, operations
from raykube.client.api import ApiClient
from raykube.client.environment import kubeconfig_paths
from raykube.client.kubeconfig import Connection, connect
from raykube.scheduler.core.configuration import BadConfiguration, Settings, parse
from raykube.scheduler.core.explanation import Explanation
from raykube.scheduler.core.plan import Moved, Planned
from raykube.scheduler.planner import Planner

Object = dict[str, Any]

ROWS_MAX = 100  # more pods are shown by workload and node
UNSCHEDULABLE = 3  # exit code: some pod fits nowhere


def _options(function: Any) -> Any:
    for option in reversed(
        [
            click.option("--kubeconfig", type=click.Path(path_type=Path), help="file [default: as kubectl finds it]"),
            click.option("--context", help="context of the kubeconfig [default: its current one]"),
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                help="a KubeSchedulerConfiguration to plan with [default: the defaults of raykube scheduler]",
            ),
            click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True),
        ]
    ):
        function = option(function)
    return function


def settings_of(path: Path | None, option: str = "--config") -> Settings:
    """What a configuration says; without one the defaults. Raises UsageError."""
    if path is None:
        return Settings()
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{option}: cannot read {path}: {error.strerror}") from None
    except BadConfiguration as error:
        raise click.UsageError(f"{option} {path}: {error}") from None


def connected(kubeconfig: Path | None, context: str | None) -> Connection:
    """To be closed. Raises ClickException."""
    try:
        return connect(kubeconfig_paths() if kubeconfig is None else [kubeconfig.expanduser()], context)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _ask(connection: Connection, settings: Settings, question: Callable[[Planner], Awaitable[Any]]) -> Any:
    """The answer to a question about a fresh copy of the cluster."""

    async def ask() -> Any:
        async with ApiClient(connection.endpoints, connection.tls) as client:
            planner = Planner(client, settings)
            await planner.read()
            return await question(planner)

    collector.settle()
    try:
        return asyncio.run(ask())
    except (ApiError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        connection.close()


@click.command()
@click.option("-f", "--filename", "files", multiple=True, help="manifest: a file, a folder, or - for the input")
@click.option("-n", "--namespace", help="for objects that name none [default: the context's]")
@click.option(
    "--explain", metavar="POD", help="show each node's filters and scores for one pod, of FILE or of the cluster"
)
@_options
def plan(
    files: tuple[str, ...],
    namespace: str | None,
    explain: str | None,
    kubeconfig: Path | None,
    context: str | None,
    config: Path | None,
    output: str,
) -> None:
    """Show where the pods of a manifest would run, and why not elsewhere. Nothing is written.

    The real scheduler places them on a copy of the cluster as it is now. Pods that its workloads have already leave
    first: what is shown is the state after a rollout. Exit code 3: some pod fits nowhere; 1: nothing can become of some
    object.
    """
    if not files and not explain:
        raise click.UsageError("name a manifest (-f FILE), or a pod (--explain POD)")
    settings, connection = settings_of(config), connected(kubeconfig, context)
    try:
        objects = _load(files, namespace or connection.namespace)
    except (OSError, ValueError) as error:
        connection.close()
        raise click.ClickException(str(error)) from None
    if explain:
        place = namespace or connection.namespace
        pod, found = _ask(connection, settings, lambda planner: planner.explain(explain, place, objects))
        _show_explanation(pod, found, output)
        return
    planned = _ask(connection, settings, lambda planner: planner.plan(objects))
    refused = [one for one in planned if one.refused]
    if output == "json":
        click.echo(json.dumps([asdict(one) for one in planned], indent=2))
    elif len(refused) < len(planned):
        _show_plan([one for one in planned if not one.refused])
    if refused:
        raise click.ClickException("; ".join(one.why for one in refused))
    if not all(one.node for one in planned):
        sys.exit(UNSCHEDULABLE)


def _load(files: tuple[str, ...], namespace: str) -> list[Object]:
    """The objects of manifests, with their namespaces. Raises OSError, and ValueError for what is none."""
    objects: list[Object] = []
    for name in files:
        if name != "-" and not Path(name).exists():
            raise ValueError(f'the path "{name}" does not exist')
        objects += manifests.load(sys.stdin.read() + "\n") if name == "-" else manifests.load(Path(name))
    if files and not objects:
        raise ValueError("no objects passed to plan")
    for obj in objects:
        resource = operations.resource_of(obj)
        metadata = obj.setdefault("metadata", {})
        if resource.namespaced:
            metadata.setdefault("namespace", namespace)
    return objects


def _show_plan(planned: list[Planned]) -> None:
    table = Table("NAMESPACE", "POD", "NODE", "SCORE", "WHY NOT ELSEWHERE", box=None, pad_edge=False)
    for name, one in _rows(planned):
        node = escape(one.node) if one.node else "[red]none[/]"
        score = f"{one.score:.1f}" if one.node else ""
        table.add_row(escape(one.namespace), escape(name), node, score, escape(_why(one)))
    printed(table)
    nowhere = sum(not one.node for one in planned)
    nodes = len({one.node for one in planned if one.node})
    tail = f", {nowhere} fit nowhere" if nowhere else ""
    click.echo(f"{len(planned) - nowhere} of {len(planned)} pods on {nodes} nodes{tail}")


def _why(one: Planned) -> str:
    """With the pods that leave for it in front."""
    if not one.evicts:
        return one.why
    return "; ".join(filter(None, (f"evicts {', '.join(one.evicts)}", one.why)))


def _rows(planned: list[Planned]) -> list[tuple[str, Planned]]:
    """A row for each pod, or for many pods one for each workload and node."""
    if len(planned) <= ROWS_MAX:
        return [(one.name, one) for one in planned]
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for one in planned:
        groups.setdefault((one.namespace, one.workload, one.node), []).append(one)
    return [(f"{workload} ({len(group)} pods)", group[0]) for (_, workload, _), group in groups.items()]


def _show_explanation(pod: Object, found: Explanation, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(asdict(found), indent=2))
        return
    if found.prevented:
        click.echo(f"No node is asked: {found.prevented}")
        return
    names = [name for name in found.weights if any(name in one.scores for one in found.verdicts)]
    heads = [f"{name}\nx {found.weights[name]:g}" for name in names]
    table = Table("NODE", "TOTAL", *heads, "REJECTED BY", box=None, pad_edge=False)
    for one in found.verdicts:
        scores = [f"{one.scores[name]:.1f}" if name in one.scores else "-" for name in names]
        why = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in one.rejected_by.items())
        total = f"{one.total:.1f}" if one.fits else "-"
        table.add_row(escape(one.node), total, *scores, escape(why))
    printed(table)
    fitting = [one for one in found.verdicts if one.fits]
    metadata = pod["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    runs = pod["spec"].get("nodeName")
    now = f" (it runs on {runs})" if runs else ""
    if fitting:
        click.echo(f"{name} would go to {fitting[0].node}{now}: {len(fitting)} of {len(found.verdicts)} nodes fit")
    else:
        click.echo(f"{name} fits nowhere{now}")


@click.command()
@click.argument("node")
@click.option("--plan", "planning", is_flag=True, help="only show what would happen (all that this command does)")
@_options
def drain(
    node: str, planning: bool, kubeconfig: Path | None, context: str | None, config: Path | None, output: str
) -> None:
    """Show where the pods of NODE would go if it were drained. `kubectl drain NODE` drains it.

    The real scheduler places what controllers would make anew on a copy of the cluster. Exit code 3: some fit nowhere.
    """
    if not planning:
        raise click.UsageError(f"add --plan to see what would happen; 'kubectl drain {node}' does it")
    settings, connection = settings_of(config), connected(kubeconfig, context)
    moved = _ask(connection, settings, lambda planner: planner.drain(node))
    if output == "json":
        click.echo(json.dumps([asdict(one) for one in moved], indent=2))
    else:
        _show_drain(node, moved)
    if any(_is_lost(one) for one in moved):
        sys.exit(UNSCHEDULABLE)


def _is_lost(one: Moved) -> bool:
    return one.evicted and one.comes_back and not one.planned.node


def _show_drain(node: str, moved: list[Moved]) -> None:
    table = Table("NAMESPACE", "POD", "TO", "NOTE", "WHY NOT ELSEWHERE", box=None, pad_edge=False)
    for one in moved:
        planned = one.planned
        to = escape(planned.node) or ("[red]none[/]" if _is_lost(one) else "-")
        table.add_row(escape(planned.namespace), escape(planned.name), to, escape(one.note), escape(_why(planned)))
    printed(table)
    evicted = [one for one in moved if one.evicted]
    lost = sum(map(_is_lost, evicted))
    tail = f", {lost} fit nowhere" if lost else ""
    click.echo(f"{len(evicted)} of {len(moved)} pods leave {node}{tail}")


def printed(table: Table) -> None:
    """On a screen as wide as it is."""
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:
        # A pipe is no screen: lines are as long as they need to be.
        Console(width=100_000, file=sys.stdout).print(table, soft_wrap=True)

"""`raykube record` and `raykube replay`: what came to a cluster's scheduler, and what another would have made of it."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from raykube.api.errors import ApiError
from raykube.base import collector
from raykube.base.duration import parse_duration
from raykube.cli.plan import connected, printed, settings_of
from raykube.client.api import ApiClient
from raykube.rpc.clock import SystemClock
from raykube.scheduler.core.outcomes import Difference, Outcome, Summary, differences
from raykube.scheduler.recording import Recorder, Recording, parse
from raykube.scheduler.replay import Replay, as_recorded

ROWS_MAX = 100
DIFFERENT = 3  # exit code: some pod is treated differently


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--for", "length", metavar="DURATION", help="as in 10m [default: until Ctrl-C]")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="file [default: as kubectl finds it]")
@click.option("--context", help="context of the kubeconfig [default: its current one]")
def record(file: Path, length: str | None, kubeconfig: Path | None, context: str | None) -> None:
    """Record in FILE what schedulers see of a cluster: what is there, then every change with its time.

    `raykube replay FILE` schedules it anew. Commands and environments of containers are left out.
    """
    try:
        seconds = None if length is None else parse_duration(length)
    except ValueError as error:
        raise click.UsageError(f"--for: {error}") from None
    connection = connected(kubeconfig, context)
    count = 0

    async def follow() -> None:
        nonlocal count
        with file.open("wb") as out:
            async with ApiClient(connection.endpoints, connection.tls) as client:
                recorder = Recorder(client, SystemClock(), out)
                try:
                    await recorder.run(seconds)
                finally:
                    count = recorder.count

    collector.settle()
    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        pass
    except ApiError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    finally:
        connection.close()
    click.echo(f"{count} objects and changes in {file}")


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="a KubeSchedulerConfiguration to schedule with [default: the defaults of raykube scheduler]",
)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="what to compare with: another KubeSchedulerConfiguration, or what `-o json` printed, perhaps by another "
    "version [default: what the recording says was done]",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def replay(recording: Path, config: Path | None, against: Path | None, output: str) -> None:
    """Schedule a recording anew, and show where pods go otherwise. No cluster is asked.

    With `-o json` the outcome of each pod is printed, for `--against` of another version. Exit code 3: some pod is
    treated differently.
    """
    try:
        with recording.open("rb") as lines:
            found = parse(lines)
    except OSError as error:
        raise click.ClickException(f"cannot read {recording}: {error.strerror}") from None
    except ValueError as error:
        raise click.ClickException(f"{recording}: {error}") from None
    ours = Replay(settings_of(config, "--config")).run(found)
    if output == "json":
        click.echo(json.dumps({"outcomes": [asdict(one) for one in ours]}, indent=1))
        return
    theirs = _others(against, found)
    names = config.name if config else "defaults", against.name if against else "recorded"
    different = differences(ours, theirs)
    _show(names, different, (Summary.of(ours), Summary.of(theirs)))
    if different:
        sys.exit(DIFFERENT)


def _others(against: Path | None, recording: Recording) -> list[Outcome]:
    """The outcomes to compare with."""
    if against is None:
        return as_recorded(recording)
    try:
        document = json.loads(against.read_text())
    except OSError as error:
        raise click.UsageError(f"--against: cannot read {against}: {error.strerror}") from None
    except ValueError:  # no JSON: a configuration, or nothing
        document = None
    if not isinstance(document, dict) or "outcomes" not in document:
        return Replay(settings_of(against, "--against")).run(recording)
    try:
        return [Outcome(**one) for one in document["outcomes"]]
    except TypeError as error:
        raise click.UsageError(f"--against {against}: {error}") from None


def _show(names: tuple[str, str], different: list[Difference], summaries: tuple[Summary, Summary]) -> None:
    if different:
        table = Table("POD", *(escape(name.upper()) for name in names), "WHY", box=None, pad_edge=False)
        for pod, *places, why in different[:ROWS_MAX]:
            table.add_row(escape(pod), *map(escape, places), escape(why))
        printed(table)
        if len(different) > ROWS_MAX:
            click.echo(f"and {len(different) - ROWS_MAX} more")
        click.echo()
    heads = ("PLACED", "WITHOUT A NODE", "NODES", "EVICTED", "MEAN WAIT", "LONGEST WAIT")
    table = Table("", *heads, box=None, pad_edge=False)
    for name, one in zip(names, summaries, strict=True):
        counts: list[Any] = [one.placed, one.left, one.nodes, one.evicted]
        table.add_row(escape(name), *map(str, counts), f"{one.wait_mean_s:.3f} s", f"{one.wait_max_s:.3f} s")
    printed(table)
    click.echo(f"{len(different)} pods differ" if different else "no pod differs")

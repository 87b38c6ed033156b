"""`raykube doctor`."""

import dataclasses
import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from raykube.cluster.doctor import ask, checks
from raykube.cluster.doctor.checks import CHECKS, Answers, Finding, Level

SIGNS = {Level.OK: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.ERROR: "[red]✗[/]"}


@click.command()
@click.argument("hosts", nargs=-1)
@click.option("--cluster", type=click.Path(path_type=Path), help="cluster file of `ray up` that names the machines")
@click.option("--ssh-user", default="", help="user to log in as [default: the cluster file's, or ssh's]")
@click.option("--ssh-key", default="", help="private key to log in with [default: the cluster file's, or ssh's]")
@click.option("--containers/--processes", default=True, help="whether machines are to run images [default: containers]")
@click.option("--data-dir", default="/var/lib/raykube", show_default=True, help="where a cluster would keep its data")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="output format")
def doctor(
    hosts: tuple[str, ...],
    cluster: Path | None,
    ssh_user: str,
    ssh_key: str,
    containers: bool,
    data_dir: str,
    output: str,
) -> None:
    """Look for what goes wrong on machines: HOSTS over ssh, those of a cluster file, or this one.

    Exit code 1 when something must be changed for a cluster to work.
    """
    login = ask.Login()
    names = list(hosts)
    if cluster is not None:
        try:
            listed, login = ask.cluster_file(cluster)
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        names += listed
    login = ask.Login(ssh_user or login.user, ssh_key or login.key)
    names = names or [ask.HERE]
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("Asking machines", total=len(names))
        found = ask.ask_all(names, login, data_dir, lambda _: progress.advance(task))
    answers = {name: said for name, said in found.items() if isinstance(said, Answers)}
    judged = checks.judge(answers, containers)
    judged |= {name: checks.unreachable(said, login.at(name)) for name, said in found.items() if isinstance(said, str)}
    findings = {name: checks.worst(judged[name]) for name in names}
    if output == "json":
        document = {name: [dataclasses.asdict(one) for one in rows.values()] for name, rows in findings.items()}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(findings)
    if any(one.level is Level.ERROR for rows in findings.values() for one in rows.values()):
        sys.exit(1)


def _print(findings: dict[str, dict[str, Finding]]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 250)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("CHECK", no_wrap=True)
    for name in findings:
        table.add_column(name, no_wrap=True)
    for check in CHECKS:
        rows = [findings[name].get(check) for name in findings]
        if any(rows):
            table.add_row(check, *(f"{SIGNS[one.level]} {escape(one.detail)}" if one else "-" for one in rows))
    console.print(table)
    wrong = [(name, one) for name, rows in findings.items() for one in rows.values() if one.level is not Level.OK]
    if not wrong:
        console.print("\nNothing is wrong")
        return
    console.print("\nWhat to do:")
    for name, one in sorted(wrong, key=lambda row: row[1].level is not Level.ERROR):
        line = f"{one.check}: {one.detail}: {one.advice}" if one.advice else f"{one.check}: {one.detail}"
        console.print(f" {SIGNS[one.level]} [bold]{escape(name)}[/] {escape(line)}", soft_wrap=True)

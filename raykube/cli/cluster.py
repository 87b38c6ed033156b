"""`raykube up`, `down` and `status`."""

import dataclasses
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.table import Table

from raykube.cli import flags
from raykube.cluster import settings

HEALTH = {True: "[green]healthy[/]", False: "[red]unhealthy[/]", None: "[yellow]unknown[/]"}
WIDTH_MAX = 100_000
DETAIL_WIDTH_MIN = 24  # characters of a line of DETAIL on a terminal that is too narrow for the rest


class Shown:
    """A line per step: a tick and its time, or a cross."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner: Any = None

    def begin(self, title: str) -> None:
        if self._console.is_terminal:
            self._spinner = self._console.status(f"{title} …")
            self._spinner.start()

    def _clear(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def end(self, title: str, seconds: float, detail: str) -> None:
        self._clear()
        self._console.print(f" [green]✓[/] {title:<20} [dim]{seconds:5.1f} s[/]  {escape(detail)}", soft_wrap=True)

    def fail(self, title: str) -> None:
        self._clear()
        self._console.print(f" [red]✗[/] {title}")


def _name_option(function: Any) -> Any:
    return click.option("--name", default="raykube", show_default=True, help="name of the cluster")(function)


def _data_dir_option(function: Any) -> Any:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="where the cluster keeps its data [default: ~/.local/share/raykube/NAME]",
    )(function)


def _kubeconfig_option(function: Any) -> Any:
    return click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path),
        help="kubeconfig to write to [default: $KUBECONFIG or ~/.kube/config]",
    )(function)


def parse_extra_config(given: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`apiserver.event-ttl=30m` → {"apiserver": {"event-ttl": "30m"}}. Raises click.UsageError."""
    parsed: dict[str, dict[str, str]] = {}
    for item in given:
        target, equals, value = item.partition("=")
        component, dot, flag = target.partition(".")
        if not (equals and dot and component and flag):
            raise click.UsageError(f"--extra-config {item!r}: must be COMPONENT.FLAG=VALUE")
        parsed.setdefault(component, {})[flag] = value
    from raykube.cluster.plan import PACKAGES

    for component in parsed:
        if component not in PACKAGES:
            known = ", ".join(PACKAGES)
            raise click.UsageError(f"--extra-config: there is no component {component!r}; there are {known}")
    return parsed


def parse_selector(given: str) -> dict[str, str]:
    """`zone=a,disk=ssd` → {"zone": "a", "disk": "ssd"}. Raises click.UsageError."""
    pairs = [item.partition("=") for item in given.split(",") if item]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise click.UsageError(f"--control-plane-selector {given!r}: must be KEY=VALUE,…")
    return {key: value for key, _, value in pairs}


@click.command()
@_name_option
@click.option("--machines", type=int, default=None, help="machines (Ray nodes) to start on this computer [default: 1]")
@click.option("--control-plane", type=int, default=None, help="machines that run the control plane: 1, 3 or 5")
@_data_dir_option
@_kubeconfig_option
@click.option("--address", default="", help="GCS address (host:port) of a running Ray cluster to use")
@click.option("--ray-timeout", default=30.0, show_default=True, help="seconds to wait for Ray at --address")
@click.option(
    "--existing", is_flag=True, help="the cluster exists: wait for machines that know it, and never make a new one"
)
@click.option(
    "--control-plane-selector",
    default="",
    metavar="KEY=VALUE,…",
    help="Ray labels of the machines that may run the control plane [default: any machine]",
)
@click.option(
    "--container-runtime-endpoint",
    default="",
    help="container runtime of all machines: unix:///… (CRI), 'docker', or 'process' for the embedded one"
    " [default: what is found on each: containerd, CRI-O, Docker, else 'process']",
)
@click.option("--insecure-ray", is_flag=True, help=settings.INSECURE_RAY)
@click.option(
    "--hollow", type=int, default=None, metavar="N", help="simulated machines; 0 ends them [default: as it is, or 0]"
)
@click.option(
    "--extra-config", multiple=True, metavar="COMPONENT.FLAG=VALUE", help="a flag for a component (repeatable)"
)
def up(
    name: str,
    machines: int | None,
    control_plane: int | None,
    data_dir: Path | None,
    kubeconfig: Path | None,
    address: str,
    ray_timeout: float,
    existing: bool,
    control_plane_selector: str,
    container_runtime_endpoint: str,
    insecure_ray: bool,
    hollow: int | None,
    extra_config: tuple[str, ...],
) -> None:
    """Start a cluster, or bring an existing one to what is asked.

    With no options: this computer, one machine, one of each component.
    """
    data_dir = (data_dir or settings.default_data_dir(name)).expanduser().absolute()
    kubeconfig = (kubeconfig or settings.default_kubeconfig()).expanduser().absolute()
    extra = parse_extra_config(extra_config)
    from raykube.cluster import state as cluster_state

    console = Console(highlight=False)
    try:
        known = cluster_state.load(data_dir)
        wish = settings.Settings(
            name=name,
            machines=machines if machines is not None else (len(known.machines) if known and known.local else 1),
            control_plane=_size(control_plane, known, address),
            data_dir=data_dir,
            kubeconfig=kubeconfig,
            address=address,
            ray_timeout_s=ray_timeout,
            existing=existing,
            control_plane_selector=parse_selector(control_plane_selector),
            container_runtime_endpoint=container_runtime_endpoint,
            hollow=hollow,
            extra_config=extra,
            insecure_ray=insecure_ray,
        )
    except ValidationError as error:
        raise click.UsageError(flags.describe(error)) from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    supervisor = _supervisor()
    console.print(f"Cluster [bold]{name}[/]  [dim]{escape(str(data_dir))}[/]", soft_wrap=True)
    _interrupt_once()
    try:
        state = supervisor.up(wish, Shown(console))
    except KeyboardInterrupt:
        console.print(
            "Interrupted: a new cluster is down again; one that there was is as it is, and 'raykube up' goes on"
        )
        raise click.exceptions.Exit(130) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    console.print(f"\nSet kubectl context to [bold]raykube-{state.name}[/]. Try:\n")
    chosen = [] if name == settings.DEFAULT_NAME else ["--name", name]
    if data_dir != settings.default_data_dir(name).expanduser().absolute():
        chosen += ["--data-dir", str(data_dir)]
    is_default = kubeconfig == settings.default_kubeconfig().expanduser().absolute()
    shown = [] if is_default else ["--kubeconfig", str(kubeconfig)]
    for command in (["kubectl", *shown, "get", "nodes"], ["raykube", "status", *chosen]):
        console.print(f"  {escape(shlex.join(command))}", soft_wrap=True)
    console.print(f"  {escape(shlex.join(['raykube', 'down', *chosen, *shown]))}\n", soft_wrap=True)


def _size(given: int | None, known: Any, address: str) -> int:
    if given is not None:
        return given
    if address:
        return 0  # other machines may know better
    return int(known.members_wanted) if known else 1


def _interrupt_once() -> None:
    """The first Ctrl-C or SIGTERM ends `up`; more of them do not end the clean-up that follows."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells' background jobs want it
            signal.signal(number, interrupt)


def _supervisor() -> Any:
    try:
        from raykube.cluster import supervisor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise click.ClickException("this needs Ray, which is not installed: pip install 'raykube[ray]'") from None
    return supervisor


@click.command()
@_name_option
@_data_dir_option
@_kubeconfig_option
@click.option("--ray", is_flag=True, help="end the Ray cluster on all machines too, one given with --address")
def down(name: str, data_dir: Path | None, kubeconfig: Path | None, ray: bool) -> None:
    """Stop a cluster; its data directory stays, and 'up' brings the same objects back."""
    data_dir = (data_dir or settings.default_data_dir(name)).expanduser().absolute()
    kubeconfig = (kubeconfig or settings.default_kubeconfig()).expanduser().absolute()
    console = Console(highlight=False)
    try:
        _refuse_another(name, data_dir)
        found = _supervisor().down(data_dir, kubeconfig, Shown(console), with_ray=ray)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if not found:
        console.print(f"No cluster in {escape(str(data_dir))}: nothing to do", soft_wrap=True)


@click.command()
@_name_option
@_data_dir_option
@click.option("--address", default="auto", show_default=True, help="GCS address (host:port) of the Ray cluster")
@click.option("--timeout", default=600, show_default=True, help="seconds to wait until it is drained")
@click.argument("machine", default="")
def leave(name: str, data_dir: Path | None, address: str, timeout: int, machine: str) -> None:
    """Take a machine out of a cluster: this one, or MACHINE.

    Its pods and its part of the control plane move elsewhere, then its Ray ends and its Node goes.
    """
    data_dir = (data_dir or settings.default_data_dir(name)).expanduser().absolute()
    _supervisor()
    from raykube.cluster import departure

    console = Console(highlight=False)
    try:
        departure.leave(name, machine, address, data_dir, Shown(console), timeout)
    except KeyboardInterrupt:
        console.print(
            "Interrupted: a machine that was told to leave goes on with it, and 'raykube leave' waits for it again"
        )
        raise click.exceptions.Exit(130) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _refuse_another(name: str, data_dir: Path) -> None:
    """Refuses to take down a cluster that was not meant."""
    from raykube.cluster import state as cluster_state

    known = cluster_state.load(data_dir)
    if known is not None and known.name != name:
        raise click.ClickException(f"{data_dir} belongs to cluster {known.name!r}: give --name {known.name}")


@click.command()
@_name_option
@_data_dir_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="output format")
def status(name: str, data_dir: Path | None, output: str) -> None:
    """Show every component of a cluster. Exit code 1 when one is not healthy.

    While Ray's head is away, components are asked themselves.
    """
    data_dir = (data_dir or settings.default_data_dir(name)).expanduser().absolute()
    try:
        from raykube.cluster import health

        found = health.status(data_dir)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if found is None:
        if any(data_dir.glob("machines/*/specs/*")):
            raise click.ClickException(
                f"{data_dir} has a machine's part of a cluster, not its record: ask on a machine of the control plane"
            )
        raise click.ClickException(f"no cluster in {data_dir}: start one with 'raykube up'")
    healthy = not found.stopped and all(row.healthy is not False for row in found.components)
    if output == "json":
        document = dataclasses.asdict(found) | {"failures_tolerated": found.failures_tolerated, "healthy": healthy}
        click.echo(json.dumps(document, indent=2))
    else:
        _print_status(found)
    if not healthy:
        sys.exit(1)


def _print_status(found: Any) -> None:
    if found.stopped:
        click.echo(f"Cluster {found.name} is stopped: 'raykube up' starts it")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("COMPONENT", "MACHINE", "ADDRESS", "PID", "ROLE", "HEALTH"):
        table.add_column(column, no_wrap=True)
    table.add_column("DETAIL", overflow="fold", max_width=DETAIL_WIDTH_MIN)
    for row in found.components:
        known = (str(row.pid or "-"), row.role or "-", HEALTH[row.healthy], escape(row.detail))
        table.add_row(row.component, row.machine, row.address, *known)
    console = Console(highlight=False)
    # A pipe has no width: what reads it wants whole lines. On a narrow terminal DETAIL alone is folded.
    needed = Console(width=WIDTH_MAX).measure(table).maximum if sys.stdout.isatty() else WIDTH_MAX
    console.size = ConsoleDimensions(max(console.width, needed), console.height)
    table.columns[-1].max_width = None
    console.print(f"Cluster [bold]{found.name}[/]  {found.server}\n")
    console.print(table)
    if found.note:
        console.print(f"\n[yellow]{escape(found.note)}[/]")
    tolerated = found.failures_tolerated
    members = f"{found.store_healthy} of {found.store_members} store members healthy"
    if found.store_wanted != found.store_members:
        members += f", {found.store_wanted} {'is' if found.store_wanted == 1 else 'are'} asked for"
    if tolerated < 0:
        console.print(f"\n[red]The store has no quorum[/] ({members}): writes fail until a member is back")
    else:
        console.print(f"\nThe store tolerates {tolerated} more failure{'s' * (tolerated != 1)} ({members})")

"""The entry point: the list of subcommands, and how errors leave."""

import importlib
import os
import sys
from typing import NoReturn

import click

from raykube.cli.serve import ComponentCommand

COMPONENTS = {
    "kv": ("raykube.kv", "Run a member of the replicated store (etcd's role and flags)."),
    "apiserver": ("raykube.apiserver", "Run an apiserver."),
    "router": ("raykube.router", "Run the layer-4 load balancer in front of the apiservers."),
    "scheduler": ("raykube.scheduler", "Run the scheduler."),
    "controller-manager": ("raykube.controllers", "Run every controller, in one process."),
    "kubelet": ("raykube.kubelet", "Run the kubelet of a machine."),
    "kube-proxy": ("raykube.kubeproxy", "Run the service proxy of a machine."),
    "pod-network": ("raykube.podnetwork", "Run the pod network of a machine: routes, CNI file, NetworkPolicy."),
    "dns": ("raykube.dns", "Run a DNS server of the cluster."),
    "hollow": ("raykube.hollow", "Play many machines: hollow kubelets in one process."),
    "cri-docker": ("raykube.cridocker", "Run a CRI server for a kubelet whose containers are Docker's."),
    "runtime": ("raykube.runtime", "Run the embedded container runtime: pods as plain processes, over CRI."),
}
SUBCOMMANDS = {
    "kv": {"snapshot": ("raykube.cli.snapshot", "snapshot", "Save, look at and restore backups of the store.")},
}
# Components whose command line is more than their Config.
COMMANDS_OF_COMPONENTS = {"kv": ("raykube.cli.store", "StoreCommand")}
# name → (module, attribute, one line): imported when used, so that `raykube --help` needs no Ray.
COMMANDS = {
    "up": ("raykube.cli.cluster", "up", "Start a cluster, or bring an existing one to what is asked."),
    "down": ("raykube.cli.cluster", "down", "Stop a cluster; its data directory stays."),
    "bench": ("raykube.cli.bench", "bench", "Measure a cluster: named scenarios on hollow machines."),
    "doctor": ("raykube.cli.doctor", "doctor", "Look for what goes wrong on machines, and say what to do."),
    "leave": ("raykube.cli.cluster", "leave", "Take a machine out of a cluster: drained first, then forgotten."),
    "machine": (
        "raykube.cli.machine",
        "machine",
        "Run Ray on this host, as a machine of a cluster.",
    ),
    "plan": ("raykube.cli.plan", "plan", "Show where the pods of a manifest would run, and why not elsewhere."),
    "drain": ("raykube.cli.plan", "drain", "Show where the pods of a node would go (--plan)."),
    "record": ("raykube.cli.replay", "record", "Record what schedulers see of a cluster."),
    "replay": ("raykube.cli.replay", "replay", "Schedule a recording anew, and compare."),
    "status": ("raykube.cli.cluster", "status", "Show every component of a cluster."),
    "version": ("raykube.cli.version", "version", "Show the version of raykube and of the API it serves."),
}


class RaykubeGroup(click.Group):
    """The subcommands, loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *COMPONENTS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMPONENTS:
            package, help_text = COMPONENTS[cmd_name]
            if cmd_name in COMMANDS_OF_COMPONENTS:
                module, attribute = COMMANDS_OF_COMPONENTS[cmd_name]
                kind = getattr(importlib.import_module(module), attribute)
            else:
                kind = ComponentCommand
            made: click.Command = kind(cmd_name, package, help_text, SUBCOMMANDS.get(cmd_name))
            return made
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Cluster"):
            formatter.write_dl([(name, row[2]) for name, row in COMMANDS.items()])
        with formatter.section("Components (each runs alone, without Ray)"):
            formatter.write_dl([(name, row[1]) for name, row in COMPONENTS.items()])


@click.group(cls=RaykubeGroup, context_settings={"help_option_names": ["-h", "--help"]})
def root() -> None:
    """Kubernetes as a distributed actor system on Ray."""


def main() -> None:
    """Runs the command line. Exit code 1: it failed and said why in one line; 2: the command was not understood.

    A component may have codes of its own for reasons that whoever started it should tell apart.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines would stand between ours, and repeat what we say
    try:
        code = root.main(prog_name="raykube", standalone_mode=False)  # a command's Exit arrives as a number
        _exit(code if isinstance(code, int) else 0)
    except click.UsageError as error:
        lines = [f"raykube: {error.format_message()}"]
        if error.ctx is not None:
            lines.append(f"See '{error.ctx.command_path} --help'.")
        _exit(2, *lines)
    except click.ClickException as error:
        _exit(error.exit_code, f"raykube: {error.format_message()}")
    except (click.Abort, KeyboardInterrupt):
        _exit(130)


def _exit(code: int, *lines: str) -> NoReturn:
    """Says so, and ends with this code also where nothing can be said, as on a full disk: Python would make it 120."""
    try:
        for line in lines:
            click.echo(line, err=True)
        if sys.stderr is not None:  # it was closed by whoever started this
            sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(code)

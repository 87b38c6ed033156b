"""`raykube kv`: what starts an etcd starts it. It takes etcd's command line, environment variables and file."""

import os
from pathlib import Path
from typing import Any

import click

from raykube.cli import flags
from raykube.cli.serve import ComponentCommand
from raykube.kv import etcd_flags
from raykube.kv.config import Config

CONFIG_FILE = "config_file"


class _Option(click.Option):
    """An option that has etcd's environment variable: `ETCD_NAME` for `--name`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        if ctx.meta.get(CONFIG_FILE):
            return None  # as in etcd, nothing but the file counts
        names = (f"ETCD_{option.removeprefix('--').upper().replace('-', '_')}" for option in self.opts)
        return next((value for name in names if (value := os.environ.get(name))), None)


def _foreign(flag: etcd_flags.Foreign) -> click.Option:
    alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if flag.may_stand_alone else {}
    return _Option([f"--{flag.name}"], hidden=True, **alone)


class StoreCommand(ComponentCommand):
    """The component's command, with what else etcd takes."""

    def options(self) -> list[click.Option]:
        file = _Option(
            ["--config-file", CONFIG_FILE],
            help="etcd's configuration file; with it, other flags and the variables ETCD_… are ignored",
        )
        return [*flags.options_of(Config, _Option), file, *map(_foreign, etcd_flags.FLAGS)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        looked = click.Context(self, info_name=ctx.info_name, parent=ctx.parent)
        super().parse_args(looked, list(args))
        if path := looked.params[CONFIG_FILE]:
            ctx.meta[CONFIG_FILE] = path
            try:
                args = etcd_flags.arguments(Path(path))
            except ValueError as error:
                raise click.UsageError(str(error), ctx) from None
        return super().parse_args(ctx, args)

    def serve(self, verbosity: str, **given: Any) -> None:
        foreign = {flag.name: given.pop(flag.name.replace("-", "_")) for flag in etcd_flags.FLAGS}
        del given[CONFIG_FILE]
        try:
            idle = etcd_flags.check({name: value for name, value in foreign.items() if value is not None})
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if idle:
            self.notes.append(f"taken for etcd's sake, and change nothing: {', '.join(f'--{name}' for name in idle)}")
        super().serve(verbosity, **given)

"""`raykube machine`."""

import logging
import sys
from typing import Any

import click

from raykube.cli import flags
from raykube.cli.serve import LOG_FORMAT


class MachineCommand(click.Command):
    """Its options come from the Config, as a component's do; Ray is imported when it runs."""

    def __init__(self) -> None:
        super().__init__(
            "machine",
            callback=self._serve,
            help="Run Ray on this host with the settings that a cluster wants; start it again when it crashed.",
        )

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params:
            from raykube.cluster.ray_machine import Config

            self.params = [*flags.options_of(Config)]
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self.get_params(ctx)
        return super().parse_args(ctx, args)

    def _serve(self, **given: Any) -> None:
        from raykube.cluster import ray_machine

        config = flags.config_from(ray_machine.Config, given)
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
        assert isinstance(config, ray_machine.Config)
        try:
            ray_machine.keep(config)
        except OSError as error:
            raise click.ClickException(str(error)) from None


machine = MachineCommand()

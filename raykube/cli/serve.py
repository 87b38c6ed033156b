"""Runs one component in the foreground: the plain command behind `raykube kv`, `raykube apiserver` and the others."""

import asyncio
import importlib
import logging
import logging.handlers
import signal
import sys
from typing import Any

import click
import uvloop

from raykube.base import collector
from raykube.cli import flags

LOG_FORMAT = "%(asctime)s %(levelname).1s %(name)s %(message)s"


def _level(verbosity: str, name: str) -> int:
    """The level that `-v` gives, unless the component has a `--log-level` and it names another."""
    if name != "info":
        return {"debug": logging.DEBUG, "warn": logging.WARNING}.get(name, logging.ERROR)
    numbers = {"0": logging.ERROR, "1": logging.WARNING, "2": logging.INFO, "3": logging.INFO}
    return numbers.get(verbosity, logging.DEBUG)


def _handler(output: str) -> logging.Handler:
    """Where log lines go: `stdout`, `stderr` (`default`), or a file, which may be moved away. Raises OSError."""
    if output in ("default", "stderr", "stdout"):
        return logging.StreamHandler(sys.stdout if output == "stdout" else sys.stderr)
    return logging.handlers.WatchedFileHandler(output)


async def _run(service: Any) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    starting = asyncio.create_task(service.start())
    signalled = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        for name, address in service.status()["addresses"].items():
            logging.getLogger("raykube").info("serving %s on %s", name, address)
        ended = asyncio.create_task(service.wait())
        await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        else:
            ended.cancel()
    finally:
        signalled.cancel()
        await service.stop()


class Failure(click.ClickException):
    """A component that ended by itself, and the exit code that tells why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance


class ComponentCommand(click.Command):
    """A subcommand whose options come from the component's Config, which is imported when they are needed."""

    def __init__(
        self, name: str, package: str, help_text: str, subcommands: dict[str, tuple[str, str, str]] | None = None
    ) -> None:
        super().__init__(name, callback=self.serve, help=help_text, short_help=help_text)
        self._package = package
        self._subcommands = subcommands or {}  # name → (module, attribute, one line), imported when used
        self._loaded = False
        self.notes: list[str] = []  # what is said in the log before the component starts

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self._subcommands:
            module, attribute, _ = self._subcommands[args[0]]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._subcommands:
            with formatter.section("Commands"):
                formatter.write_dl([(name, row[2]) for name, row in self._subcommands.items()])

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._loaded:
            self.params = [
                *self.options(),
                click.Option(
                    ["-v", "--v", "verbosity"], default="2", help="log level: 0 errors … 4 debug [default: 2]"
                ),
            ]
            self._loaded = True
        return super().get_params(ctx)

    def options(self) -> list[click.Option]:
        """The component's own."""
        return flags.options_of(importlib.import_module(f"{self._package}.config").Config)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self.get_params(ctx)
        return super().parse_args(ctx, args)

    def serve(self, verbosity: str, **given: Any) -> None:
        """Runs the component until it ends or is told to."""
        config = flags.config_from(importlib.import_module(f"{self._package}.config").Config, given)
        level = _level(verbosity, getattr(config, "log_level", "info"))
        try:
            handlers = [_handler(output) for output in getattr(config, "log_outputs", ["default"])]
        except OSError as error:
            raise Failure(f"--log-outputs: cannot write {error.filename}: {error.strerror}", 1) from None
        logging.basicConfig(level=level, format=LOG_FORMAT, handlers=handlers)
        for note in self.notes:
            logging.getLogger("raykube").info(note)
        service_type = importlib.import_module(f"{self._package}.service").Service
        collector.settle()
        try:
            uvloop.run(_run(service_type(config)))
        except (OSError, ValueError) as error:
            raise Failure(str(error), getattr(error, "exit_code", 1)) from None

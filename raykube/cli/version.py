"""`raykube version`."""

import json
from importlib.metadata import version as installed

import click

from raykube.api.version import KUBERNETES_VERSION


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="output format")
def version(output: str) -> None:
    """Show the version of raykube and of the API it serves."""
    versions = {"raykube": installed("raykube"), "kubernetes": KUBERNETES_VERSION}
    if output == "json":
        click.echo(json.dumps(versions))
    else:
        for name, value in versions.items():
            click.echo(f"{name}: {value}")

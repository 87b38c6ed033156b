"""The cluster files that we ship are what Ray's launcher takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from raykube.cli.cluster import up
from raykube.cli.machine import machine

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "cluster.yaml", ROOT / "examples" / "cluster-local.yaml"]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(request.param.read_text())
    return document


def test_ray_takes_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    prepared["cluster_synced_files"] = []  # as the launcher fills in
    validate_config(prepared)
    workers = sum(row.get("min_workers", 0) for row in prepared["available_node_types"].values())
    assert workers >= 2, "a control plane of three needs three machines"


def started(config: dict[str, Any], command: str) -> list[list[str]]:
    """The arguments of each `raykube command` that the file runs, in a shell or through a unit's variable."""
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    variable = {"machine": "RAYKUBE_MACHINE=", "up": "RAYKUBE_UP="}[command]
    found = []
    for line in lines:
        line = re.sub(r"\$\([^)]*\)", "10.0.0.1", line).replace("$RAY_HEAD_IP", "10.0.0.1").replace("$HOME", "/root")
        runs = re.finditer(rf"(?:nohup |^)raykube {command} ([^>&]*)|{variable}([^\"]*)", line)
        found += [shlex.split(run.group(1) or run.group(2)) for run in runs]
    return found


@pytest.mark.parametrize(("command", "known"), [("machine", machine), ("up", up)])
def test_its_commands_have_flags_that_we_have(config: dict[str, Any], command: str, known: click.Command) -> None:
    found = started(config, command)
    assert len(found) == (2 if command == "machine" else 1)
    for arguments in found:
        known.make_context(command, arguments).close()

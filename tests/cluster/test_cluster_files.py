"""The cluster files that we ship are what Ray's launcher takes."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from raykube.cli.cluster import up
from raykube.cli.machine import machine
from tests.kit.require import require_program

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


# In place of sudo and of absolute paths: everything lands below $ROOT.
SHELL = """
sudo() {
  case "$1" in
    systemctl) ;;
    tee) command tee "$ROOT$2" ;;
    mkdir) mkdir -p "$ROOT$3" ;;
    *) exit 1 ;;
  esac
}
hostname() { echo 10.0.0.11; }
"""


def written(commands: list[str], root: Path) -> None:
    """Runs those of the file's commands that write files, as Ray's launcher would, below `root`."""
    for command in commands:
        if "sudo tee /etc/systemd/" in command or "sudo tee /etc/raykube/" in command:
            environment = {
                "ROOT": str(root),
                "HOME": "/home/ubuntu",
                "PATH": "/usr/bin:/bin",
                "RAY_HEAD_IP": "10.0.0.11",
                "RAY_CLOUD_INSTANCE_ID": "i-0 1",
                "RAY_UP_enable_autoscaler_v2": "0",
            }
            subprocess.run(
                ["bash", "-c", f"{SHELL}\n{command}"], env=environment, check=True, stdout=subprocess.DEVNULL
            )


@pytest.mark.integration
def test_its_units_are_what_systemd_takes(tmp_path: Path) -> None:
    """The units and the files that they read, written by the very commands of the file for AWS."""
    program = require_program("systemd-analyze")
    config = yaml.safe_load(FILES[0].read_text())
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    written([*config["setup_commands"], *config["head_setup_commands"], *config["head_start_ray_commands"]], tmp_path)
    names = {path.name for path in units.iterdir()}
    assert names == {"raykube-machine.service", "raykube.service"}
    there = shutil.which("raykube", path=str(Path(sys.executable).parent))
    assert there is not None
    for path in units.iterdir():
        path.write_text(path.read_text().replace("/opt/raykube/bin/raykube", there))
    done = subprocess.run(
        [program, "verify", "--man=no", "--recursive-errors=one", *(str(units / name) for name in sorted(names))],
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

    for name, variable, command in (("machine", "RAYKUBE_MACHINE", machine), ("cluster", "RAYKUBE_UP", up)):
        (line,) = (tmp_path / "etc" / "raykube" / name).read_text().splitlines()
        words = line.removeprefix(f"{variable}=").split()  # systemd splits an unbraced variable at white space
        command.make_context(name, words).close()
        unit = "raykube-machine.service" if name == "machine" else "raykube.service"
        assert f"${variable}\n" in (units / unit).read_text()
    told = dict(line.split("=", 1) for line in (tmp_path / "etc" / "raykube" / "ray").read_text().splitlines())
    assert told["RAY_CLOUD_INSTANCE_ID"] == "'i-0 1'"
    assert told["RAY_UP_enable_autoscaler_v2"] == "'0'"


@pytest.mark.integration
def test_a_worker_s_unit_reads_where_the_head_is(tmp_path: Path) -> None:
    config = yaml.safe_load(FILES[0].read_text())
    written(config["worker_start_ray_commands"], tmp_path)
    text = (tmp_path / "etc" / "raykube" / "machine").read_text()
    assert text == "RAYKUBE_MACHINE=--address 10.0.0.11:6379\n"

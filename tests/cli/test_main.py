"""The command line's manners: help, exit codes, one line for an error."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from raykube.cli.main import COMMANDS, COMPONENTS
from raykube.cluster.state import ClusterState, save


def raykube(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raykube", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command() -> None:
    shown = raykube("--help")
    assert shown.returncode == 0
    for name in (*COMMANDS, *COMPONENTS):
        assert f"  {name} " in shown.stdout


@pytest.mark.parametrize("name", [*COMMANDS, *COMPONENTS])
def test_every_command_has_help(name: str) -> None:
    shown = raykube(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--" in shown.stdout


@pytest.mark.parametrize("arguments", [["nope"], ["up", "--nope"], ["up", "--machines", "x"], ["up", "--name", "A"]])
def test_what_is_not_understood_is_one_line_and_exit_2(arguments: list[str]) -> None:
    done = raykube(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("raykube: ")
    assert "Traceback" not in done.stderr


def test_no_cluster_is_one_line_and_exit_1(tmp_path: object) -> None:
    done = raykube("status", "--data-dir", f"{tmp_path}/none")
    assert done.returncode == 1
    assert done.stderr == f"raykube: no cluster in {tmp_path}/none: start one with 'raykube up'\n"


def test_a_machine_that_only_has_a_part_of_a_cluster_says_where_to_ask(tmp_path: Path) -> None:
    """As a worker's: the record is where the store is."""
    specs = tmp_path / "machines" / "worker" / "specs"
    specs.mkdir(parents=True)
    (specs / "kubelet-worker").touch()
    done = raykube("status", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "ask on a machine of the control plane" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_exit_code_stands_also_where_nothing_can_be_said(tmp_path: Path, unbuffered: str) -> None:
    """As on a full disk. What Python could not write it would try again at its end, and exit with 120."""
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "raykube", "status", "--data-dir", f"{tmp_path}/none"],
            stderr=log,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.parametrize(("arguments", "code"), [("--help", 0), ("nope", 2), ("status --data-dir none", 1)])
def test_the_exit_code_stands_also_where_stderr_is_closed(arguments: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m raykube {arguments} 2>&-"], capture_output=True, check=False
    )
    assert done.returncode == code


def test_an_unreadable_file_is_one_line_and_exit_1(tmp_path: object) -> None:
    done = raykube("scheduler", "--api-servers=127.0.0.1:1", f"--tls-cert-file={tmp_path}/none")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_down_of_another_cluster_is_refused(tmp_path: Path) -> None:
    known = ClusterState(name="one", id="0" * 32, subnet=0, local=True, machines=[])
    save(tmp_path, known)
    done = raykube("down", "--name", "two", "--data-dir", str(tmp_path), "--kubeconfig", f"{tmp_path}/kubeconfig")
    assert done.returncode == 1
    assert done.stderr == f"raykube: {tmp_path} belongs to cluster 'one': give --name one\n"


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_a_data_directory_that_is_none_is_one_line_and_exit_1(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    done = raykube(command, "--data-dir", f"{tmp_path}/file")
    assert done.returncode == 1
    assert (
        done.stderr == f"raykube: cannot read {tmp_path}/file/cluster.json: Not a directory: use another --data-dir\n"
    )

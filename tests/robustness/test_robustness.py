"""Members as processes are killed, paused and cut off from each other under load, and everything seen is checked.

`make robustness ROUNDS=200` runs the same for longer. Each test here is a run of that program with a seed of its own,
which it prints: a failure can be run again, though processes never run twice alike.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.require import missing
from tests.robustness.__main__ import EXIT_IMPOSSIBLE

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def run(*arguments: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """The program's end; skips when this system does not let us make networks."""
    command = [sys.executable, "-m", "tests.robustness", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode == EXIT_IMPOSSIBLE:
        missing(done.stdout.strip())
    return done


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    lost = [line for line in done.stdout.splitlines() if line.startswith("acknowledged writes lost")]
    assert [line.split()[-1] for line in lost] == ["0"], done.stdout


def test_kills_and_pauses() -> None:
    """Also where nobody may make networks: all on loopback."""
    check(run("--faults=kills,pauses", "--rounds=7", "--network=loopback"))


def test_partitions() -> None:
    check(run("--faults=partitions", "--rounds=7"))


def test_five_members() -> None:
    check(run("--members=5", "--faults=kill-twice,halves,ring", "--rounds=3"))

"""Members as processes are killed, paused and cut off from each other under load, and everything seen is checked.

`make robustness ROUNDS=200` runs the same for longer. Each test here is a run of that program with a seed of its own,
which it prints: a failure can be run again, though processes never run twice alike.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.require import missing
from tests.robustness.__main__ import EXIT_IMPOSSIBLE

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """The program's end; skips when this system does not let us make networks."""
    command = [sys.executable, "-m", "tests.robustness", f"--folder={folder}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode == EXIT_IMPOSSIBLE:
        missing(done.stdout.strip())
    return done


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    lost = [line for line in done.stdout.splitlines() if line.startswith("acknowledged writes lost")]
    assert [line.split()[-1] for line in lost] == ["0"], done.stdout


def test_kills_and_pauses(tmp_path: Path) -> None:
    """Also where nobody may make networks: all on loopback."""
    check(run(tmp_path, "--faults=kills,pauses,limits", "--rounds=6", "--network=loopback"))


def test_partitions(tmp_path: Path) -> None:
    check(run(tmp_path, "--faults=partitions", "--rounds=4"))


def test_disks(tmp_path: Path) -> None:
    check(run(tmp_path, "--faults=disks", "--rounds=4"))


def test_clocks(tmp_path: Path) -> None:
    check(run(tmp_path, "--faults=clocks", "--rounds=2", "--network=loopback"))


def test_members_are_replaced(tmp_path: Path) -> None:
    check(run(tmp_path, "--faults=members", "--rounds=2"))


def test_five_members(tmp_path: Path) -> None:
    check(run(tmp_path, "--members=5", "--faults=kill-twice,halves,ring", "--rounds=2"))


@pytest.mark.parametrize(
    ("mistake", "faults", "said"),
    [
        ("stale-reads", "isolate-leader", ""),
        ("late-writes", "kill-all", ""),
        ("no-sync", "power-loss", ""),
        ("lost-events", "pause-any", "a watch at|m1 and m. differ"),  # or what they tell of all history does
        ("short-leases", "pause-any", "lease"),
    ],
)
def test_mistakes_are_noticed(tmp_path: Path, mistake: str, faults: str, said: str) -> None:
    """Members that get it wrong are found out: the checks are no decoration."""
    network = "namespaces" if faults in ("power-loss", "isolate-leader") else "loopback"
    for number in range(3):  # chance has its say: a lease is not always held when its member is paused
        folder = tmp_path / str(number)
        done = run(folder, f"--mistake={mistake}", f"--faults={faults}", "--rounds=3", f"--network={network}")
        if done.returncode:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = done.stdout.partition("WRONG")[2]
    if "Traceback" in wrong:
        # Only a store that forgot what it promised may be unable to go on: an answer from it, not a fault of the run.
        is_answer = re.search(r"rpc\.errors\.(RpcError|Unprocessed):|TimeoutError", wrong)
        assert mistake == "no-sync" and is_answer, wrong
    assert re.search(said, wrong), done.stdout

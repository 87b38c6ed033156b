"""Whole measurements by the command, small: own control plane, hollow machines, reports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.kit.controlplane import until

pytestmark = pytest.mark.integration

MINE: dict[str, Any] = {
    "about": "every kind of step, small",
    "nodes": 10,
    "pods": 40,
    "flags": {
        "controller-manager": {
            "node-monitor-grace-period": "4s",
            "node-monitor-period": "1s",
            "node-eviction-rate": "99",
        },
        "hollow": {"node-lease-duration-seconds": "4", "zones": "2"},
    },
    "pod": {
        "spec": {
            "tolerations": [
                {
                    "key": "node.kubernetes.io/unreachable",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 0,
                }
            ]
        }
    },
    "steps": [
        {"name": "bulk", "create": "50%"},
        {"name": "paced", "create": 10, "rate": 40},
        {"name": "deploy", "deploy": "50%", "deployments": 3},
        {"name": "rollout", "rollout": True},
        {"name": "churn", "churn": 10, "seconds": 2},
        {"name": "delete", "delete": 10},
    ],
}


def bench(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raykube", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_every_step_is_done_measured_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINE))
    done = bench(str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "out").glob("mine-*.json")
    report = json.loads(file.read_text())
    steps = {step["name"]: step for step in report["steps"]}
    assert list(steps) == [step["name"] for step in MINE["steps"]]
    assert [steps[name]["pods"] for name in ("bulk", "paced", "deploy")] == [20, 10, 20]
    assert steps["rollout"]["pods"] >= 20 and steps["churn"]["pods"] >= 20 and steps["delete"]["pods"] >= 10
    for name in ("bulk", "paced", "deploy", "rollout"):
        step = steps[name]
        assert 0 < step["latency_ms"]["bound"]["p50"] <= step["latency_ms"]["running"]["p100"]
        assert set(step["cpu_us_per_pod"]) == {"kv", "apiserver", "controller-manager", "scheduler", "hollow", "client"}
        assert len(step["series"]["t"]) == len(step["series"]["running"]) > 0
        assert all(step["peak_mib"][name] >= step["rss_mib"][name] > 0 for name in step["rss_mib"])
    # It lasts for two seconds, in which the API is asked all the time.
    assert min(steps["churn"]["api_ms"][kind]["p50"] for kind in ("read", "write")) > 0
    assert "COMPONENT" in done.stdout and "RUNNING/S" in done.stdout

    again = bench(str(path), "--output", str(tmp_path / "out"), "--compare", str(file), "--nodes", "5", "--pods", "20")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Beside the run of" in again.stdout


def test_machines_fall_silent_and_their_pods_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "fail.yaml"
    steps = [{"deploy": "100%", "deployments": 2}, {"fail": "20%"}]
    path.write_text(yaml.safe_dump(MINE | {"steps": steps}))
    done = bench(str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "out").glob("fail-*.json")
    fail = json.loads(file.read_text())["steps"][1]
    assert fail["pods"] >= 4  # those of two of ten machines
    assert fail["latency_ms"]["running"]["p50"] > 0


def test_without_hollow_machines_pods_are_bound(tmp_path: Path) -> None:
    done = bench("schedule", "--nodes", "5", "--pods", "30", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("schedule-*.json")
    (step,) = json.loads(file.read_text())["steps"]
    assert step["per_s"]["bound"] > 0 and step["per_s"]["running"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_was_ended(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "raykube", "bench", "pods", "--nodes", "2", "--pods", "5000"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    try:
        until("machines are there", lambda: b"Machines" in (tmp_path / "log").read_bytes())
        # Store, apiserver, scheduler, controllers, machines, and who asks the API.
        until("all processes are there", lambda: len(psutil.Process(running.pid).children()) == 6)
        children = psutil.Process(running.pid).children()
    finally:
        running.send_signal(number)
        code = running.wait(60)
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (6, [])
    if number != signal.SIGKILL:
        assert code == 128 + number
        assert not list(tmp_path.glob("raykube-bench-*"))


def test_what_cannot_be_measured_is_said_in_a_line(tmp_path: Path) -> None:
    for arguments, words in (
        (["none"], "there is no scenario 'none'"),
        (["pods", "--compare", str(tmp_path / "none")], "cannot read"),
        (["pods", "--kubeconfig", str(tmp_path / "none")], "there is no kubeconfig"),
    ):
        done = bench(*arguments)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_pod_that_is_refused_ends_the_run_with_the_servers_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump(
            {"about": "x", "pods": 5, "nodes": 1, "pod": {"spec": {"containers": []}}, "steps": [{"create": "100%"}]}
        )
    )
    done = bench(str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "spec.containers: Required value" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_table_is_measured_row_by_row_and_goes_on_where_it_was_ended(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path, out = tmp_path / "mine.yaml", tmp_path / "out"
    rows = [
        {"name": "first", "scenario": "schedule", "nodes": 3, "pods": 10},
        {"name": "second", "scenario": "pods", "nodes": 2, "pods": 10},
    ]
    path.write_text(yaml.safe_dump({"about": "x", "rows": rows}))
    command = [sys.executable, "-m", "raykube", "bench", "--table", str(path), "--output", str(out)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
        until("the second row begins", lambda: b"second (2 of 2)" in (tmp_path / "log").read_bytes(), 300)
        until("it has processes", lambda: bool(psutil.Process(running.pid).children()))
        children = psutil.Process(running.pid).children()
        running.send_signal(number)
        assert running.wait(60) == code
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not list(tmp_path.glob("raykube-bench-*"))
    (line,) = [
        line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("second ") and "of" not in line
    ]
    assert "not measured yet" in line

    done = bench("--table", str(path), "--output", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first: measured before" in done.stdout
    shown = (out / "table-mine" / "table.txt").read_text().splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [
        ["first", "3", "10"],
        ["second", "create", "2"],
        ["second", "delete", "2"],
    ]
    assert float(shown[1].split()[4].replace(",", "")) > 0  # a quiet machine does a thousand a second


def test_flags_that_do_not_go_together_are_refused() -> None:
    for arguments, words in (
        (["pods", "--namespace", "x"], "--namespace goes with --kubeconfig"),
        (["pods", "--table", "quick"], "--table has scenarios"),
        (["--table", "none"], "there is no table 'none'"),
        (["--table", "quick", "--row", "none"], "has no row 'none'"),
    ):
        done = bench(*arguments)
        assert done.returncode != 0 and words in done.stderr, done.stderr

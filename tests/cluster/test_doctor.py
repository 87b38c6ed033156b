"""What the doctor finds, and what it says to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raykube.kubelet.config as kubelet
from raykube.cluster.doctor import ask, checks
from raykube.cluster.doctor.checks import CHECKS, Answers, Level, Runtime

HEALTHY = Answers(
    hostname="m1",
    addresses=["10.0.0.1"],
    python=(3, 11, 7),
    packages={"ray": "2.60.0", "raykube": "1"},
    is_root=True,
    listening={"22": "sshd", "10250": "ray::kubelet"},
    runtimes=[Runtime(name="containerd", version="1.7.0")],
    cni=["bridge", "host-local", "loopback", "portmap"],
    programs=["rsync", "nft", "conntrack", "ip"],
    default_routes=["eth0"],
    cgroups={"version": 2, "controllers": ["cpu", "memory", "pids"]},
    disk_free_bytes=100 << 30,
    disk_bytes=200 << 30,
    image_free_bytes=100 << 30,
    image_bytes=200 << 30,
    memory_bytes=8 << 30,
    cpus=4,
    ip_forward=True,
    low_port=1024,
)

NO_CRI = Runtime(name="containerd", problem="serves no CRI v1")
DOCKER = Runtime(name="Docker", version="20.10.24")


def wrong(answers: Answers, containers: bool = True, **others: Answers) -> dict[str, Level]:
    """What is not right with a machine beside others."""
    judged = checks.judge({"m": answers} | others, containers)["m"]
    for finding in judged:
        assert finding.level is Level.OK or finding.advice, f"no advice about {finding}"
    return {one.check: one.level for one in checks.worst(judged).values() if one.level is not Level.OK}


def test_nothing_is_wrong_with_a_healthy_machine() -> None:
    assert wrong(HEALTHY) == {}
    assert set(checks.worst(checks.judge({"m": HEALTHY}, True)["m"])) == set(CHECKS)


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({"python": (3, 10, 1)}, "python", Level.ERROR),
        ({"packages": {"raykube": "1"}}, "ray", Level.ERROR),
        ({"packages": {"ray": "2.60.0"}}, "raykube", Level.ERROR),
        ({"is_root": False}, "user", Level.ERROR),
        ({"ahead_s": 30.0, "uncertain_s": 0.2}, "clock", Level.ERROR),
        ({"ahead_s": -30.0, "uncertain_s": 0.2}, "clock", Level.ERROR),
        ({"listening": {"6443": "/usr/bin/kube-apiserver --x"}}, "ports", Level.ERROR),
        ({"runtimes": []}, "runtime", Level.ERROR),
        ({"runtimes": [NO_CRI]}, "runtime", Level.ERROR),
        ({"cni": ["bridge"]}, "cni", Level.ERROR),
        ({"cgroups": {"version": 2, "controllers": ["cpu", "pids"]}}, "cgroups", Level.ERROR),
        ({"default_routes": []}, "route", Level.ERROR),
        ({"programs": ["rsync", "ip"]}, "tools", Level.ERROR),
        ({"disk_free_bytes": 1 << 30}, "disk", Level.ERROR),
        ({"disk_free_bytes": 6 << 30}, "disk", Level.WARNING),
        ({"disk_bytes": 1010 << 30}, "disk", Level.WARNING),
        ({"image_bytes": 670 << 30}, "disk", Level.WARNING),
        ({"memory_bytes": 1 << 20}, "memory", Level.ERROR),
    ],
)
def test_each_flaw_is_found_alone(change: dict[str, Any], check: str, level: Level) -> None:
    assert wrong(HEALTHY.model_copy(update=change)) == {check: level}


def test_a_disk_is_short_where_kubelets_say_so() -> None:
    thresholds = kubelet.Config().eviction_hard.split(",")
    assert f"nodefs.available<{checks.DISK_SHARE_WARN:.0%}" in thresholds
    assert f"imagefs.available<{checks.IMAGE_SHARE_WARN:.0%}" in thresholds
    assert wrong(HEALTHY.model_copy(update={"disk_bytes": 990 << 30, "image_bytes": 660 << 30})) == {}
    short = checks.judge({"m": HEALTHY.model_copy(update={"image_bytes": 1000 << 30})}, True)["m"]
    assert checks.worst(short)["disk"].detail == "100.0 GiB of images, 10% free"


@pytest.mark.parametrize(
    ("runtimes", "level", "detail", "advice"),
    [
        ([Runtime(name="CRI-O", version="1.30.0"), DOCKER], Level.OK, "CRI-O 1.30.0", ""),
        ([DOCKER], Level.OK, "Docker 20.10.24, through raykube cri-docker", ""),
        (
            [NO_CRI, DOCKER],
            Level.OK,
            "Docker 20.10.24, through raykube cri-docker; containerd serves no CRI v1",
            "",
        ),
        ([NO_CRI], Level.ERROR, "containerd serves no CRI v1", "disabled_plugins"),
        ([Runtime(name="CRI-O", problem="connection refused")], Level.ERROR, "CRI-O connection refused", "-u crio"),
        ([], Level.ERROR, "none", "install containerd"),
    ],
)
def test_the_runtime_that_a_cluster_will_take_is_named(
    runtimes: list[Runtime], level: Level, detail: str, advice: str
) -> None:
    judged = checks.judge({"m": HEALTHY.model_copy(update={"runtimes": runtimes})}, True)["m"]
    found = checks.worst(judged)["runtime"]
    assert (found.level, found.detail) == (level, detail)
    assert advice in found.advice


def test_a_slow_answer_is_no_wrong_clock() -> None:
    assert wrong(HEALTHY.model_copy(update={"ahead_s": 5.0, "uncertain_s": 6.0})) == {}


def test_plain_processes_need_less() -> None:
    bare = {"is_root": False, "runtimes": [], "cni": [], "programs": ["rsync"]}
    assert wrong(HEALTHY.model_copy(update=bare), containers=False) == {"user": Level.WARNING, "runtime": Level.WARNING}


def test_machines_that_differ_are_told() -> None:
    twin = HEALTHY.model_copy(update={"packages": {"ray": "2.59.0", "raykube": "1"}, "python": (3, 12, 0)})
    other = HEALTHY.model_copy(update={"hostname": "m2"})
    third = HEALTHY.model_copy(update={"hostname": "m3"})
    assert wrong(twin, other=other, third=third) == {"python": Level.ERROR, "ray": Level.ERROR}
    assert wrong(HEALTHY, other=HEALTHY) == {"name": Level.WARNING}


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("u@h: Permission denied (publickey).", "ssh-copy-id u@h"),
        ("Host key verification failed.", "ssh u@h true"),
        ("ssh: Could not resolve hostname h: Name or service not known", "check the name"),
        ("bash: line 1: exec: python3: not found", "install Python"),
        ("", "is it on"),
    ],
)
def test_a_machine_that_cannot_be_asked(reason: str, advice: str) -> None:
    (finding,) = checks.unreachable(reason, "u@h")
    assert finding.level is Level.ERROR
    assert advice in finding.advice


def test_this_machine_is_asked_for_real() -> None:
    answers = ask.ask(ask.HERE, ask.Login(), "/var/lib/raykube")
    assert isinstance(answers, Answers)
    assert answers.hostname == os.uname().nodename
    assert set(answers.packages) == {"ray", "raykube"}
    assert abs(answers.ahead_s) <= answers.uncertain_s + 0.1


def test_a_cluster_file_names_the_machines(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "cluster-local.yaml"
    hosts, login = ask.cluster_file(example)
    assert hosts == ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
    assert login.command("h")[-1] == "root@h"
    (tmp_path / "x.yaml").write_text("provider: {type: aws}")
    for path in (tmp_path / "x.yaml", tmp_path / "none.yaml"):
        with pytest.raises(ValueError, match=path.name):
            ask.cluster_file(path)


@pytest.mark.integration
def test_the_command_says_what_to_do_and_fails() -> None:
    command = [
        sys.executable,
        "-m",
        "raykube",
        "doctor",
        "127.0.0.1",
        "--ssh-key",
        "/nonexistent",
        "--ssh-user",
        "nobody",
    ]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["127.0.0.1"]
    assert (finding["check"], finding["level"]) == ("ssh", "error")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "What to do:" in done.stdout
    assert "Traceback" not in done.stderr

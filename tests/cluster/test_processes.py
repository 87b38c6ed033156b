"""Processes are found by their marker, whoever their parent is."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from raykube.cluster import processes
from raykube.cluster.state import scratch_of

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def spawn(command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.fixture
def cluster_id() -> Iterator[str]:
    identifier = uuid.uuid4().hex
    yield identifier
    processes.end(identifier, grace_s=0)


def test_finds_by_cluster_machine_and_role(cluster_id: str) -> None:
    one = spawn(SLEEP, processes.marker(cluster_id, "m1", processes.ROLE_RAY))
    two = spawn(SLEEP, processes.marker(cluster_id, "m2"))
    other = uuid.uuid4().hex
    stranger = spawn(SLEEP, processes.marker(other, "m1"))
    try:
        assert {p.pid for p in processes.find(cluster_id)} == {one.pid, two.pid}
        assert [p.pid for p in processes.find(cluster_id, "m2")] == [two.pid]
        assert [p.pid for p in processes.find(cluster_id, role=processes.ROLE_RAY)] == [one.pid]
        assert processes.end(cluster_id) == 2
        assert list(processes.find(cluster_id)) == []
        assert stranger.poll() is None
    finally:
        processes.end(other, grace_s=0)
        for process in (one, two, stranger):
            process.wait(60)


def test_a_process_that_ignores_sigterm_is_killed(cluster_id: str) -> None:
    stubborn = spawn(STUBBORN, processes.marker(cluster_id, "m1"))
    assert processes.end(cluster_id, grace_s=0.2) == 1
    assert stubborn.wait(60) == -signal.SIGKILL


def test_a_child_that_left_its_session_is_found(cluster_id: str) -> None:
    script = (
        "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True); print('up', flush=True); os._exit(0)"
    )
    parent = spawn([sys.executable, "-c", script], processes.marker(cluster_id, "m1"))
    parent.wait(60)
    assert len(list(processes.find(cluster_id))) == 1
    assert processes.end(cluster_id, grace_s=0) == 1


@pytest.mark.parametrize("left", [{}, {processes.MACHINE_VARIABLE: "m1"}])
def test_a_process_whose_title_covers_its_marker_is_found_by_its_log(cluster_id: str, left: dict[str, str]) -> None:
    folder = scratch_of(cluster_id) / "m1"
    folder.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAYKUBE_")} | left
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen(["ray::Agent", "600"], executable="/bin/sleep", env=environment, stderr=log)
    shutil.rmtree(scratch_of(cluster_id))
    try:
        assert list(processes.find(cluster_id)) == [processes.Process(agent.pid, "m1", processes.ROLE_RAY)]
        assert list(processes.find(uuid.uuid4().hex)) == []
        assert processes.end(cluster_id) == 1
    finally:
        agent.kill()
        agent.wait()

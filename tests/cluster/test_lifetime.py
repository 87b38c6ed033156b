"""The two ways a cluster ends besides `down`: interrupted while it starts, and on a Ray cluster that is not ours."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykube.cluster import processes, ray_nodes, state
from tests.kit import eviction
from tests.kit.controlplane import until
from tests.kit.require import require_program

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

RAYKUBE = [sys.executable, "-m", "raykube"]
SLEEPER = """
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  containers: [{name: sleeper, image: none, command: [sleep, "600"]}]
"""


def flags(folder: Path, name: str) -> list[str]:
    return ["--name", name, "--data-dir", str(folder / "data"), "--kubeconfig", str(folder / "kubeconfig")]


@pytest.mark.parametrize("after", ["Certificates", "Ray head", "Store"])
def test_an_interrupted_up_leaves_nothing(tmp_path: Path, after: str) -> None:
    with subprocess.Popen(
        [*RAYKUBE, "up", *flags(tmp_path, "interrupted")], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if after in line:
                time.sleep(0.5)  # somewhere inside the next step
                os.killpg(up.pid, signal.SIGINT)
                break
        up.stdout.read()
        assert up.wait(60) == 130
    found = state.load(tmp_path / "data")
    assert found is not None
    assert list(processes.find(found.id)) == []
    assert not found.scratch_dir.exists()


@pytest.fixture
def plain_ray() -> Iterator[str]:
    """A Ray cluster of one node that somebody else started; yields its GCS address."""
    host = "127.251.0.9"
    # Not pytest's folder: Ray puts sockets there, whose paths must be short.
    folder = tempfile.mkdtemp(prefix="plain-ray-")
    port = ray_nodes.free_port(host)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PLAIN_RAY": folder}
    command = [sys.executable, "-m", "raykube.cluster.ray_start", "start", "--head", f"--node-ip-address={host}"]
    command += [f"--port={port}", "--include-dashboard=false", "--num-cpus=1", f"--temp-dir={folder}"]
    command += [f"--object-store-memory={ray_nodes.OBJECT_STORE_BYTES}", "--no-monitor"]
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, start_new_session=True, timeout=90)
        yield f"{host}:{port}"
    finally:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = folder.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if ours and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_on_the_ray_of_others(tmp_path: Path, plain_ray: str) -> None:
    kubectl = [require_program("kubectl"), f"--kubeconfig={tmp_path / 'kubeconfig'}"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}

    def run(*command: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=150, check=False, input=stdin
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    run(*RAYKUBE, "up", *flags(tmp_path, "joined"), "--address", plain_ray, *eviction.FLAGS)
    found = state.load(tmp_path / "data")
    assert found is not None
    try:
        assert " Ready " in run(*kubectl, "get", "nodes", "--no-headers")
        run(*kubectl, "apply", "-f", "-", stdin=SLEEPER)
        run(*kubectl, "wait", "pod/sleeper", "--for=condition=Ready", "--timeout=60s")
        assert list(processes.find(found.id))
        run(*RAYKUBE, "down", *flags(tmp_path, "joined"))
        until("its containers are gone", lambda: not list(processes.find(found.id)), 10)
        assert ray_nodes.answers(plain_ray), "the Ray cluster is not ours to stop"
    finally:
        processes.end(found.id, grace_s=0)

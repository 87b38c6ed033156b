"""Pods on Docker, connected by CNI plugins, from kubectl's side: a store, an apiserver and a kubelet as processes."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane, until
from tests.kit.docker import Docker
from tests.kit.images import BUSYBOX

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    docker = Docker(network_plugin="cni")
    with docker:
        yield docker


@pytest.fixture(scope="module")
def plane(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), containerd=docker) as plane:
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        yield plane


def run(plane: ControlPlane, name: str, script: str, *arguments: str) -> None:
    plane.kubectl("run", name, f"--image={BUSYBOX}", *arguments, "--command", "--", "sh", "-c", script)
    plane.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_a_pod_runs_says_something_and_goes(plane: ControlPlane, docker: Docker) -> None:
    stray = docker.docker("run", "--detach", "--net=none", "busybox:1.36", "sleep", "1000").strip()
    run(plane, "web", "hostname -i; exec sleep 1000")
    (pod,) = plane.objects("pods")
    assert pod["status"]["podIP"].startswith("10.77.0.")
    assert plane.kubectl("logs", "web") == pod["status"]["podIP"] + "\n"
    (status,) = pod["status"]["containerStatuses"]
    assert status["containerID"].startswith("docker://")
    assert status["image"] == BUSYBOX
    assert len(docker.tasks()) == 1 + 2  # the stray; the container, and pause
    assert list((docker.folder / "ipam" / "pods").glob("10.77.0.*"))
    plane.kubectl("delete", "pod", "web", "--grace-period=1")
    assert set(docker.tasks()) == {stray}
    assert not list((docker.folder / "ipam" / "pods").glob("10.77.0.*"))  # the plugins took it back
    assert [path.name for path in (docker.folder / "cri").rglob("*.*")] == []
    docker.docker("rm", "--force", stray)


def test_exec(plane: ControlPlane) -> None:
    run(plane, "runner", "exec sleep 1000")
    done = plane.kubectl_run("exec", "runner", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (3, "out\n", "err")
    assert plane.kubectl("exec", "-i", "runner", "--", "wc", "-c", stdin="x" * 300_000).strip() == "300000"
    assert "docker-exec" not in plane.kubectl("exec", "runner", "--", "ps")
    plane.kubectl("delete", "pod", "runner", "--grace-period=1")


def test_copy_and_a_terminal(plane: ControlPlane, tmp_path: Path) -> None:
    run(plane, "box", "exec sleep 1000")
    (tmp_path / "there").write_bytes(os.urandom(200_000))
    plane.kubectl("cp", str(tmp_path / "there"), "box:/tmp/file")
    plane.kubectl("cp", "box:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()
    command = " ".join(plane.kubectl_command("exec", "-it", "box", "--", "sh", "-c", "'tty; stty size'"))
    script = ["script", "-qec", f"stty rows 33 cols 77; {command}", "/dev/null"]
    done = subprocess.run(script, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert "/dev/pts/" in done.stdout
    plane.kubectl("delete", "pod", "box", "--grace-period=1")


@pytest.mark.parametrize("once", [True, False])
def test_attach(plane: ControlPlane, once: bool) -> None:
    container = {"name": "cat", "image": BUSYBOX, "command": ["cat"], "stdin": True, "stdinOnce": once}
    spec = {"containers": [container], "restartPolicy": "Never"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cat"}, "spec": spec}
    plane.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    plane.kubectl("wait", "--for=condition=Ready", "pod/cat", "--timeout=60s")
    said = plane.kubectl("attach", "-i", "cat", stdin="hello\n")
    until("the log has it", lambda: plane.kubectl("logs", "cat") == "hello\n")
    if once:  # the end of the input is the container's
        assert "hello" in said
        plane.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/cat", "--timeout=60s")
    else:
        assert [one["status"]["phase"] for one in plane.objects("pods")] == ["Running"]
    plane.kubectl("delete", "pod", "cat", "--grace-period=1")


def test_port_forward_reaches_loopback(plane: ControlPlane, docker: Docker) -> None:
    run(plane, "site", "mkdir /www; echo found > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www")
    command = plane.kubectl_command("port-forward", "site", ":8080")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None
        try:
            port = int(forwarding.stdout.readline().split(":")[1].split()[0])
            with docker.entered():
                assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").read() == b"found\n"
        finally:
            forwarding.send_signal(signal.SIGTERM)
    plane.kubectl("delete", "pod", "site", "--grace-period=1")


def test_a_killed_server_misses_nothing(plane: ControlPlane, docker: Docker) -> None:
    run(plane, "counter", "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.1; done; exec sleep 1000")
    before = docker.tasks()
    docker.kill_server()
    docker.start_server()
    expected = "".join(f"{number}\n" for number in range(60))
    until("every line is there once", lambda: plane.kubectl_run("logs", "counter").stdout == expected)
    assert docker.tasks() == before
    (pod,) = plane.objects("pods")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    plane.kubectl("delete", "pod", "counter", "--grace-period=1")
    assert docker.tasks() == {}

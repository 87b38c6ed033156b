"""Pods to stream from, on the process runtime and on containerd, and kubectl with a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import yaml

from tests.kit.containerd import Containerd
from tests.kit.controlplane import ControlPlane, until
from tests.kit.images import BUSYBOX
from tests.kit.require import require_program

PATIENCE_S = 60.0
# kubectl before 1.34 reads before it has made its streams (kubernetes#131203): the empty message that says that the
# session is there may then meet none. What a program wrote would be missed in what is compared.
EARLY = re.compile(rb"^E\d{4} .*\] Unknown stream id 1, discarding message\n", re.MULTILINE)
TRANSPORTS = {
    "websocket": {},
    "spdy": {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"},
}


class Cluster:
    """A cluster with one runtime, and kubectl that speaks one transport."""

    def __init__(self, plane: ControlPlane, bind: str) -> None:
        self.plane = plane
        self.bind = bind  # where a server of a pod listens
        self.transport: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        return self.plane.environment | self.transport

    def run(self, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command = self.plane.kubectl_command(*arguments)
        done = subprocess.run(
            command, input=stdin, capture_output=True, check=False, timeout=PATIENCE_S, env=self.environment
        )
        done.stderr = EARLY.sub(b"", done.stderr)
        return done

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout!r}{done.stderr!r}"
        return done.stdout.decode()

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.plane.kubectl_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    def pod(self, name: str, script: str, **container: object) -> None:
        """Runs a pod and waits until it is ready."""
        spec = {
            "name": "main",
            "image": BUSYBOX,
            "command": ["sh", "-c", script],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "containers": [spec | container],
                "volumes": [{"name": "data", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 1,
            },
        }
        self("apply", "-f", "-", stdin=yaml.safe_dump(manifest).encode())
        self("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={PATIENCE_S:.0f}s")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets made in here are in the cluster's network."""
        with ExitStack() as stack:
            if self.plane.containerd is not None:
                stack.enter_context(self.plane.containerd.entered())
            yield


@contextmanager
def plane_of(folder: pytest.TempPathFactory, runtime: str) -> Iterator[ControlPlane]:
    with ExitStack() as stack:
        containerd = stack.enter_context(Containerd()) if runtime == "containerd" else None
        machines = 1 if containerd else 2
        plane = stack.enter_context(
            ControlPlane(
                folder.mktemp("plane"),
                machines=machines,
                control_plane=machines,
                containerd=containerd,
                extra_config={"kubelet": {"container-log-max-size": "200Ki", "container-log-monitor-interval": "1s"}},
            )
        )
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        yield plane


@pytest.fixture(scope="session", params=["process", "containerd"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with plane_of(tmp_path_factory, request.param) as plane:
        cluster = Cluster(plane, "$POD_IP" if request.param == "process" else "0.0.0.0")
        server = "echo hello from $POD_IP > /data/index.html; exec busybox httpd -f -h /data -p "
        cluster.pod("web", server + cluster.bind + ":8080", ports=[{"containerPort": 8080, "name": "http"}])
        yield cluster


@pytest.fixture(params=TRANSPORTS)
def cluster(runtime: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    runtime.transport = TRANSPORTS[request.param]
    yield runtime
    runtime.transport = {}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int = 80, rows: int = 24) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        self.screen = ""
        self._process = subprocess.Popen(
            [require_program("setsid"), "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], wait_s)
        if ready:
            try:
                self.screen += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def sees(self, text: str, typed: str = "") -> None:
        """Returns once the screen shows this text; `typed` is typed again and again until then."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} is not on the screen: {self.screen!r}"
            if typed:
                self.type(typed)
            if not self._read(0.5):
                assert text in self.screen, f"{text!r} was not on the screen at the end: {self.screen!r}"

    def code(self) -> int:
        """Reads on until the program ends."""
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.screen!r}"
            self._read(0.1)
        while self._read(0):
            if not select.select([self._master], [], [], 0)[0]:
                break
        return self._process.wait()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._master)


@contextmanager
def terminal(cluster: Cluster, *arguments: str, columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """kubectl on a terminal."""
    found = Terminal(cluster.plane.kubectl_command(*arguments), cluster.environment, columns, rows)
    try:
        yield found
    finally:
        found.close()

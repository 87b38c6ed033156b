"""Real kubectl's exec, attach, cp, port-forward and run, over WebSockets and over SPDY, on both runtimes."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.kit.controlplane import until
from tests.streaming.conftest import Cluster, terminal

pytestmark = pytest.mark.integration


class TestExec:
    def test_outputs_and_exit_code(self, cluster: Cluster) -> None:
        done = cluster.run("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert done.returncode == 7
        assert done.stdout == b"out\n"
        assert done.stderr == b"err\ncommand terminated with exit code 7\n"

    def test_input_to_its_end(self, cluster: Cluster) -> None:
        data = os.urandom(3_000_000)
        assert cluster.run("exec", "-i", "web", "--", "cat", stdin=data).stdout == data
        assert cluster("exec", "-i", "web", "--", "sh", "-c", "wc -c; echo after the end", stdin=data) == (
            "3000000\nafter the end\n"
        )

    def test_input_that_nobody_reads(self, cluster: Cluster) -> None:
        if cluster.plane.containerd is not None:
            pytest.skip("containerd 1.6 itself does not end such an exec")
        done = cluster.run("exec", "-i", "web", "--", "sh", "-c", "echo enough; exit 3", stdin=bytes(20_000_000))
        assert (done.returncode, done.stdout) == (3, b"enough\n")

    def test_much_output(self, cluster: Cluster) -> None:
        assert len(cluster.run("exec", "web", "--", "head", "-c", "30000000", "/dev/zero").stdout) == 30_000_000

    def test_a_terminal_with_its_sizes(self, cluster: Cluster) -> None:
        with terminal(cluster, "exec", "-it", "web", "--", "sh", columns=91, rows=31) as screen:
            screen.sees("31 91", "stty size\n")
            screen.resize(123, 45)
            screen.sees("45 123", "stty size\n")
            screen.type("test -t 0 && test -t 1 && echo ter''minal\n")
            screen.sees("terminal")
            screen.type("exit 6\n")
            assert screen.code() == 6

    def test_interrupted(self, cluster: Cluster) -> None:
        with terminal(cluster, "exec", "-it", "web", "--", "sh") as screen:
            # What is interrupted is another process, once: Ctrl-C may find this shell itself at work between two
            # programs, and breaks its heap then.
            screen.type("sh -c 'echo sl\"\"eeping; exec sleep 1000'\n")
            screen.sees("sleeping")
            screen.type("\x03")
            screen.sees("awake", "echo aw''ake\n")

    def test_what_is_not_there(self, cluster: Cluster) -> None:
        done = cluster.run("exec", "nothing", "--", "true")
        assert done.stderr == b'Error from server (NotFound): pods "nothing" not found\n'
        done = cluster.run("exec", "web", "-c", "nothing", "--", "true")
        assert b"container nothing is not valid for pod web" in done.stderr
        done = cluster.run("exec", "web", "--", "no-such-program")
        assert done.returncode != 0
        assert b"no-such-program" in done.stderr

    def test_a_container_that_does_not_run(self, cluster: Cluster) -> None:
        name = f"ended-{time.monotonic_ns()}"
        cluster("run", name, "--image=docker.io/library/busybox:1.36", "--restart=Never", "--command", "--", "true")
        cluster("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=60s")
        # kubectl refuses by itself; the server is asked by hand.
        done = cluster.run("exec", name, "--", "true")
        assert b"cannot exec into a container in a completed pod" in done.stderr


class TestCopy:
    def test_there_and_back(self, cluster: Cluster, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "inner").mkdir(parents=True)
        (source / "inner" / "random").write_bytes(os.urandom(5_000_000))
        (source / "text").write_text("hello\n")
        name = f"/data/{tmp_path.name}"
        cluster("cp", str(source), f"web:{name}")
        back = tmp_path / "back"
        cluster("cp", f"web:{name}", str(back))
        for path in ("inner/random", "text"):
            assert (back / path).read_bytes() == (source / path).read_bytes()


class Forwarding:
    """kubectl port-forward, until the end of the block."""

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        self._cluster = cluster
        self._process = cluster.start("port-forward", "--address=127.0.0.1", *arguments)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        found = re.match(r"Forwarding from 127.0.0.1:(\d+) -> \d+", line)
        assert found, line + (self._process.stderr.read().decode() if self._process.stderr else "")
        self.port = int(found[1])

    def __enter__(self) -> "Forwarding":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=20)

    def get(self, path: str = "/index.html") -> bytes:
        with self._cluster.inside():
            client = socket.create_connection(("127.0.0.1", self.port), 20)
        with client:
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while part := client.recv(65536):
                answer += part
        return answer.partition(b"\r\n\r\n")[2]


class TestPortForward:
    def test_many_connections_at_once(self, cluster: Cluster) -> None:
        cluster("exec", "web", "--", "sh", "-c", "head -c 2000000 /dev/zero > /data/zeros")
        with Forwarding(cluster, "pod/web", ":8080") as forwarding:
            assert forwarding.get().startswith(b"hello from ")
            sizes: list[int] = []
            threads = [threading.Thread(target=lambda: sizes.append(len(forwarding.get("/zeros")))) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert sizes == [2_000_000] * 20
            assert forwarding.get().startswith(b"hello from ")

    def test_to_a_service(self, cluster: Cluster) -> None:
        cluster.run("expose", "pod", "web", "--port=80", "--target-port=http")
        with Forwarding(cluster, "service/web", ":80") as forwarding:
            assert forwarding.get().startswith(b"hello from ")

    def test_a_port_where_nobody_listens(self, cluster: Cluster) -> None:
        with Forwarding(cluster, "pod/web", ":8081") as forwarding:
            assert forwarding.get() == b""


class TestAttach:
    def test_input_once(self, cluster: Cluster) -> None:
        name = f"once-{time.monotonic_ns()}"
        script = "while read line; do echo got $line; done; echo that was all; sleep 1"
        cluster.pod(name, script, stdin=True, stdinOnce=True)
        done = cluster.run("attach", "-i", name, stdin=b"one\ntwo\n")
        assert done.returncode == 0
        assert done.stdout == b"got one\ngot two\nthat was all\n"
        cluster("delete", "pod", name, "--wait=false")

    def test_a_terminal(self, cluster: Cluster) -> None:
        name = f"shell-{time.monotonic_ns()}"
        cluster.pod(name, "exec sh", stdin=True, tty=True)
        with terminal(cluster, "attach", "-it", name, columns=77, rows=33) as screen:
            screen.sees("33 77", "stty size\n")
        with terminal(cluster, "attach", "-it", name) as screen:
            screen.sees("still here", "echo still'' here\n")
            screen.type("exit\n")
            assert screen.code() == 0
        cluster("delete", "pod", name, "--wait=false")

    def test_run_and_remove(self, cluster: Cluster) -> None:
        name = f"run-{time.monotonic_ns()}"
        arguments = ("run", name, "--image=docker.io/library/busybox:1.36", "--restart=Never", "-i", "--rm")
        done = cluster.run(*arguments, "--command", "--", "sh", "-c", "read word; echo heard $word", stdin=b"hello\n")
        assert done.returncode == 0, done.stderr
        assert b"heard hello\n" in done.stdout
        assert cluster.run("get", "pod", name).returncode != 0


class TestEnds:
    def test_a_killed_kubectl_takes_its_command_along(self, cluster: Cluster) -> None:
        if cluster.plane.containerd is not None:
            pytest.skip("containerd lets a command run on whose client left")
        mark = f"7{time.monotonic_ns() % 10**6}"
        process = cluster.start("exec", "web", "--", "sleep", mark)
        pids = lambda: subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True).stdout  # noqa: E731
        until("the command to run", lambda: bool(pids()))
        process.kill()
        process.communicate()
        until("the command to end", lambda: not pids())

    def test_a_kubelet_that_dies_ends_the_session_and_the_command(self, cluster: Cluster) -> None:
        if cluster.plane.containerd is not None:
            pytest.skip("containerd lets a command run on whose client left")
        mark = f"8{time.monotonic_ns() % 10**6}"
        process = cluster.start("exec", "web", "--", "sleep", mark)
        pids = lambda: subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True).stdout  # noqa: E731
        until("the command to run", lambda: bool(pids()))
        node = cluster("get", "pod", "web", "-o=jsonpath={.spec.nodeName}")
        kubelet, *_ = cluster.plane.running[f"kubelet-{node}"][::-1]
        kubelet.kill()
        try:
            process.communicate(timeout=40)
            if "KUBECTL_REMOTE_COMMAND_WEBSOCKETS" not in cluster.transport:
                assert (
                    process.returncode != 0
                )  # over SPDY, kubectl takes the silent end of its error stream for success
            until("the command to end", lambda: not pids())
        finally:
            cluster.plane.kill(f"kubelet-{node}")
            cluster.plane.start(f"kubelet-{node}")
        until("exec again", lambda: cluster.run("exec", "web", "--", "true").returncode == 0)


class TestProxies:
    def test_to_a_pod_a_service_and_a_node(self, cluster: Cluster) -> None:
        base = "/api/v1/namespaces/default"
        assert cluster("get", "--raw", f"{base}/pods/web:8080/proxy/index.html").startswith("hello from ")
        assert cluster("get", "--raw", f"{base}/pods/http:web:8080/proxy/").startswith("hello from ")
        cluster.run("expose", "pod", "web", "--port=80", "--target-port=http")
        until(
            "an endpoint",
            lambda: cluster.run("get", "--raw", f"{base}/services/web/proxy/index.html").returncode == 0,
        )
        (node, *_) = cluster.plane.objects("nodes")
        assert cluster("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/healthz") == "ok"
        done = cluster.run("get", "--raw", f"{base}/services/web:81/proxy/")
        assert b'no service port 81 found for service "web"' in done.stderr

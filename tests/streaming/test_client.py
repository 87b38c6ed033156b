"""Running containers through `raykube.Client` and through the official Python client, on both runtimes."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import raykube
from raykube.api.errors import ApiError
from raykube.client.streamcalls import CommandError
from tests.streaming.conftest import Cluster

pytestmark = pytest.mark.integration


@pytest.fixture
def client(runtime: Cluster) -> Iterator[raykube.Client]:
    with runtime.inside(), raykube.Client(runtime.plane.kubeconfig) as client:
        yield client


def test_a_command(client: raykube.Client) -> None:
    done = client.exec("web", ["sh", "-c", "cat; echo err >&2; exit 4"], stdin=b"typed" * 10_000)
    assert (done.code, done.stdout, done.stderr) == (4, b"typed" * 10_000, b"err\n")
    assert client.exec("web", ["echo", "a b", "c&d"]).text == "a b c&d\n"
    with pytest.raises(CommandError, match="exit code 3: no"):
        client.exec("pod/web", ["sh", "-c", "echo no >&2; exit 3"], check=True)


def test_refusals(client: raykube.Client) -> None:
    with pytest.raises(ApiError, match='pods "nothing" not found'):
        client.exec("nothing", ["true"])
    with pytest.raises(ApiError, match="container nothing is not valid for pod web"):
        client.exec("web", ["true"], container="nothing")
    with pytest.raises(TimeoutError):
        client.exec("web", ["sleep", "1000"], timeout=0.5)


def test_a_conversation(client: raykube.Client) -> None:
    with client.open_exec("web", ["sh", "-c", "while read line; do echo heard $line; done; exit 9"]) as session:
        session.write("one\n")
        assert next(iter(session)) == ("stdout", b"heard one\n")
        session.close_stdin()
        assert session.wait() == 9


def test_a_terminal(client: raykube.Client) -> None:
    with client.open_exec("web", ["sh"], tty=True) as session:
        session.resize(99, 44)
        screen = b""
        pieces = iter(session)
        deadline = time.monotonic() + 30
        while b"44 99" not in screen:
            assert time.monotonic() < deadline, screen
            session.write("stty size\n")
            screen += next(pieces)[1]
        session.write("exit 2\n")
        assert session.wait() == 2


def test_attach(client: raykube.Client, runtime: Cluster) -> None:
    name = f"attach-{time.monotonic_ns()}"
    runtime.pod(name, "while read line; do echo got $line; done; sleep 1", stdin=True, stdinOnce=True)
    with client.attach(name, stdin=True) as session:
        session.write("it\n")
        assert next(iter(session)) == ("stdout", b"got it\n")
        session.close_stdin()
        assert session.wait() == 0
    client.delete("pod", name)


def test_port_forward(client: raykube.Client) -> None:
    with client.port_forward("web", 8080) as forward:
        url = f"http://127.0.0.1:{forward.port}/index.html"

        def get(_: int) -> bytes:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return bytes(answer.read())

        with ThreadPoolExecutor(8) as pool:
            assert all(text.startswith(b"hello from ") for text in pool.map(get, range(16)))
    with client.port_forward("web", 8081) as forward, pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(f"http://127.0.0.1:{forward.port}/", timeout=20)


def test_copies(client: raykube.Client, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "random").write_bytes(os.urandom(3_000_000))
    (source / "text").write_text("hello\n")
    (source / "link").symlink_to("text")
    name = f"/data/copy-{tmp_path.name}"
    client.copy_to("web", source, name)
    client.copy_from("web", name, tmp_path / "back")
    assert (tmp_path / "back" / "inner" / "random").read_bytes() == (source / "inner" / "random").read_bytes()
    assert (tmp_path / "back" / "link").readlink() == Path("text")
    client.copy_to("web", source / "text", f"{name}/")
    client.copy_from("web", f"{name}/text", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "hello\n"
    with pytest.raises(CommandError, match="tar"):
        client.copy_from("web", "/data/nothing", tmp_path / "nothing")
    with pytest.raises(CommandError, match="tar"):
        client.copy_to("web", source / "text", "/nowhere/at/all")
    with pytest.raises(FileNotFoundError):
        client.copy_to("web", tmp_path / "missing", "/data/")


class TestOfficialClient:
    """kubernetes.stream: WebSockets with v4."""

    @pytest.fixture
    def api(self, runtime: Cluster) -> Iterator[object]:
        kubernetes = pytest.importorskip("kubernetes")
        with runtime.inside():
            config = kubernetes.client.Configuration()
            kubernetes.config.load_kube_config(str(runtime.plane.kubeconfig), client_configuration=config)
            with kubernetes.client.ApiClient(config) as api:
                yield kubernetes.client.CoreV1Api(api)

    def test_exec(self, api: object) -> None:
        from kubernetes.stream import stream

        get = api.connect_get_namespaced_pod_exec  # type: ignore[attr-defined]
        arguments = {"stderr": True, "stdin": False, "stdout": True, "tty": False}
        command = ["sh", "-c", "echo out; echo err >&2"]
        said = stream(get, "web", "default", command=command, **arguments)
        assert sorted(said.splitlines()) == ["err", "out"]  # of two pipes nobody knows which was written first
        command = ["sh", "-c", "read word; echo heard $word; exit 5"]
        session = stream(get, "web", "default", command=command, _preload_content=False, **arguments | {"stdin": True})
        session.write_stdin("this\n")
        session.run_forever(timeout=20)
        assert session.read_stdout() == "heard this\n"
        assert session.returncode == 5

    def test_port_forward(self, api: object) -> None:
        from kubernetes.stream import portforward

        forward = portforward(api.connect_get_namespaced_pod_portforward, "web", "default", ports="8080")  # type: ignore[attr-defined]
        connection = forward.socket(8080)
        connection.setblocking(True)
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
        assert b"hello from " in answer
        assert forward.error(8080) is None

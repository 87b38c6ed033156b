"""The container runtimes of a machine are found by asking them: real containerd and dockerd, and sockets of others."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raykube.cluster import facts, state
from raykube.cluster.doctor import probe
from raykube.pb import cri_pb2
from raykube.rpc.server import Server
from tests.kit.containerd import Containerd, _children
from tests.kit.controlplane import until
from tests.kit.docker import Docker

pytestmark = pytest.mark.timeout(120)


def test_the_request_is_one_that_grpc_servers_take() -> None:
    """A server of ours, from the same contract."""

    class Runtime:
        async def Version(self, request: object, _call: object) -> cri_pb2.VersionResponse:
            return cri_pb2.VersionResponse(version="0.1.0", runtime_name="r" * 100, runtime_version="1.2")

    async def ask(path: str, service: str) -> tuple[str, str]:
        server = Server()
        server.add(cri_pb2.DESCRIPTOR.services_by_name[service], Runtime())
        server.listen(f"unix:{path}")
        await server.start()
        try:
            found: tuple[str, str] = await asyncio.to_thread(probe.cri_version, path)
            return found
        finally:
            await server.stop()

    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        assert asyncio.run(ask(f"{folder}/a", "RuntimeService")) == ("r" * 100, "1.2")
        with pytest.raises(OSError, match="serves no CRI"):
            asyncio.run(ask(f"{folder}/b", "ImageService"))


@contextmanager
def listening(path: Path, answer: bytes) -> Iterator[None]:
    """A server of something else."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize("ask", [probe.cri_version, probe.docker_version])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n" * 10])
def test_who_speaks_something_else_is_no_runtime(tmp_path: Path, ask: Callable[[str], object], answer: bytes) -> None:
    with listening(tmp_path / "s", answer), pytest.raises((OSError, ValueError)):
        ask(str(tmp_path / "s"))


def test_an_old_docker_is_refused(tmp_path: Path) -> None:
    body = b'{"Version": "18.09.1", "ApiVersion": "1.39"}'
    with listening(tmp_path / "s", b"HTTP/1.0 200 OK\r\n\r\n" + body), pytest.raises(OSError, match="too old"):
        probe.docker_version(str(tmp_path / "s"))


def test_what_is_found_is_in_order_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {name: str(tmp_path / name) for name in ("containerd", "CRI-O", "docker")}
    monkeypatch.setattr(probe, "CRI_SOCKETS", (("containerd", paths["containerd"]), ("CRI-O", paths["CRI-O"])))
    monkeypatch.setattr(probe, "DOCKER_SOCKET", paths["docker"])
    assert probe.runtimes() == []
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(paths["containerd"])  # nobody listens
    body = b'{"Version": "20.10.24", "ApiVersion": "1.41"}'
    with listening(Path(paths["docker"]), b"HTTP/1.0 200 OK\r\n\r\n" + body):
        found = probe.runtimes()
    assert [(row["name"], row["version"], row["problem"]) for row in found] == [
        ("containerd", "", "connection refused"),
        ("Docker", "20.10.24", ""),
    ]
    with listening(Path(paths["docker"] + "2"), b"HTTP/1.0 200 OK\r\n\r\n" + body):
        monkeypatch.setattr(probe, "DOCKER_SOCKET", paths["docker"] + "2")
        said = facts.Facts.model_validate_json(facts.look("10.0.0.1", str(tmp_path)))
    assert said.runtimes == [state.DOCKER]


@pytest.mark.integration
def test_a_real_docker_says_its_version() -> None:
    with Docker() as docker:
        name, version = probe.docker_version(f"{docker.folder}/docker.sock")
        assert (name, version) == ("docker", docker.docker("version", "--format={{.Server.Version}}").strip())
        assert probe.cri_version(docker.endpoint.removeprefix("unix://")) == ("docker", version), "ours, before it"


@pytest.mark.integration
def test_a_real_containerd_says_its_version_and_when_it_serves_no_cri() -> None:
    """Docker's own packages switch CRI off."""
    with Containerd() as containerd:
        name, version = probe.cri_version(str(containerd.socket))
        assert name == "containerd"
        assert version in containerd.ctr("version")
        without = containerd.folder / "without"
        without.mkdir()
        (without / "config.toml").write_text(
            f'root = "{without}/root"\nstate = "{without}/state"\ndisabled_plugins = ["cri"]\n'
            f'[grpc]\naddress = "{without}/s"\n'
        )
        command = [*containerd.inside, "containerd", "--config", str(without / "config.toml")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                until("it listens", (without / "s").exists, 30)
                with pytest.raises(OSError, match="serves no CRI"):
                    probe.cri_version(str(without / "s"))
            finally:
                for pid in _children(process.pid):
                    os.kill(pid, signal.SIGKILL)

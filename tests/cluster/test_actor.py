"""The host of a component's services, in this process: Ray adds only where it runs and that it is made again."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykube.cluster.actor import ComponentHost, HostSpec, newest
from tests.kit.controlplane import until
from tests.kit.ports import free_ports


@pytest.fixture(autouse=True)
def quiet_logger() -> Iterator[None]:
    """The host takes the process's logger over; other tests want it back."""
    logger = logging.getLogger("raykube")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_store_whose_port_is_taken_for_a_while_starts_when_it_is_free(tmp_path: Path) -> None:
    client_port, peer_port = free_ports(2)
    peer_url = f"http://127.0.0.1:{peer_port}"
    flags = {
        "name": "m",
        "data_dir": str(tmp_path / "kv"),
        "listen_client_urls": [f"http://127.0.0.1:{client_port}"],
        "advertise_client_urls": [f"http://127.0.0.1:{client_port}"],
        "listen_peer_urls": [peer_url],
        "initial_advertise_peer_urls": [peer_url],
        "initial_cluster": [f"m={peer_url}"],
    }
    spec = HostSpec(name="kv-m", services=[("raykube.kv", flags)], files={}, log_file=str(tmp_path / "log"))
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", peer_port))
        squatter.listen()
        host = ComponentHost(spec.model_dump_json())
        until("an attempt failed", lambda: f"127.0.0.1:{peer_port}" in host.ready(1.0), 30)
        assert f"127.0.0.1:{peer_port}" in host.ready(1.0), "more than one attempt fails"
        assert not host.status()["healthy"]
    try:
        assert host.ready(20.0) == ""
    finally:
        host.stop()


def test_an_actor_that_is_made_again_is_what_it_was_told_last(tmp_path: Path) -> None:
    def spec(generation: int, cluster: str = "c") -> HostSpec:
        return HostSpec(
            name="kubelet-m",
            services=[("raykube.kubelet", {"api_servers": [f"10.0.0.{generation}:6445"]})],
            files={},
            log_file=str(tmp_path / "log"),
            spec_file=str(tmp_path / "specs" / "kubelet.json"),
            generation=generation,
            cluster=cluster,
        )

    assert newest(spec(1)) == spec(1)
    assert newest(spec(3)) == spec(3)
    assert newest(spec(1)) == spec(3), "Ray makes it again from its first argument"
    assert newest(spec(1, "other")) == spec(1, "other"), "another cluster's is not ours"
    (tmp_path / "specs" / "kubelet.json").write_text("{")
    assert newest(spec(2)) == spec(2)


def test_renewed_certificates_are_used_at_once_and_when_the_actor_is_made_again(tmp_path: Path) -> None:
    certificate = tmp_path / "pki" / "kv.crt"
    client_port, peer_port = free_ports(2)

    def spec(content: bytes, dated: float, generation: int = 1) -> HostSpec:
        flags = {
            "name": f"m{generation}",
            "data_dir": str(tmp_path / "kv"),
            "listen_client_urls": [f"http://127.0.0.1:{client_port}"],
            "advertise_client_urls": [f"http://127.0.0.1:{client_port}"],
            "listen_peer_urls": [f"http://127.0.0.1:{peer_port}"],
            "initial_advertise_peer_urls": [f"http://127.0.0.1:{peer_port}"],
            "initial_cluster": [f"m{generation}=http://127.0.0.1:{peer_port}"],
        }
        return HostSpec(
            name="kv-m",
            services=[("raykube.kv", flags)],
            files={str(certificate): content},
            log_file=str(tmp_path / "log"),
            spec_file=str(tmp_path / "specs" / "kv.json"),
            generation=generation,
            dated=dated,
            cluster="c",
        )

    host = ComponentHost(spec(b"old", 1.0).model_dump_json())
    try:
        assert certificate.read_bytes() == b"old"
        host.renew_files(spec(b"new", 2.0, generation=7).model_dump_json())
        assert certificate.read_bytes() == b"new"
    finally:
        host.stop()
    again = newest(spec(b"old", 1.0))
    assert (again.files[str(certificate)], again.generation) == (b"new", 1), "its flags are as they were"
    assert again.services == spec(b"", 0.0).services
    # The control plane moved, as somebody says who has older certificates.
    assert newest(spec(b"old", 1.5, generation=3)).files[str(certificate)] == b"new"
    assert newest(spec(b"newest", 3.0)).files[str(certificate)] == b"newest"
    assert newest(spec(b"old", 1.0)).generation == 3


def test_a_service_that_cannot_clear_up_keeps_no_other_from_it(tmp_path: Path) -> None:
    cleared = []

    class Leaves:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.fails = name, fails

        async def stop(self) -> None:
            pass

        async def clear(self) -> None:
            if self.fails:
                raise RuntimeError("a pod may still run")
            cleared.append(self.name)

    services: list[tuple[str, dict[str, object]]] = [("a", {}), ("b", {})]
    spec = HostSpec(
        name="x", services=services, files={}, log_file=str(tmp_path / "log"), spec_file=str(tmp_path / "spec")
    )

    def ended(*made: Leaves) -> str:
        newest(spec)
        host = ComponentHost.__new__(ComponentHost)
        host._spec, host._ended, host._services, host._error = spec, asyncio.Event(), list(made), ""
        return asyncio.run(host._end(clear=True))

    assert ended(Leaves("first", False), Leaves("last", True)) == "a pod may still run"
    assert cleared == ["first"]
    assert (tmp_path / "spec").exists(), "who comes later must find it"
    assert ended(Leaves("first", False)) == "it had not started"
    assert (tmp_path / "spec").exists()
    assert ended(Leaves("first", False), Leaves("last", False)) == ""
    assert not (tmp_path / "spec").exists()

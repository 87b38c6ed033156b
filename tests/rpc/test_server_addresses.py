"""Where a server listens: what is taken, what is left behind, what is no address."""

import socket
from pathlib import Path

import pytest

from raykube.rpc.channel import Channel
from raykube.rpc.server import Server
from tests.kit import pki
from tests.rpc.echo import ECHO, Handler, say


async def answers(address: str) -> bool:
    channel = Channel(address)
    try:
        return bool(await channel.stub(ECHO).Unary(say("x"), timeout=5) == say("x"))
    finally:
        await channel.close()


async def serving(address: str) -> Server:
    server = Server()
    server.add(ECHO, Handler())
    server.listen(address)
    await server.start()
    return server


async def test_a_path_is_freed_at_the_end(tmp_path: Path) -> None:
    server = await serving(f"unix:{tmp_path}/s")
    assert await answers(f"unix:{tmp_path}/s")
    await server.stop(0)
    assert list(tmp_path.iterdir()) == []


async def test_a_path_that_a_dead_server_left_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/s")
    server = await serving(f"unix:{tmp_path}/s")
    assert await answers(f"unix:{tmp_path}/s")
    await server.stop(0)


async def test_a_path_that_is_served_is_not_taken(tmp_path: Path) -> None:
    server = await serving(f"unix:{tmp_path}/s")
    with pytest.raises(OSError, match="another process serves it"):
        Server().listen(f"unix:{tmp_path}/s")
    assert await answers(f"unix:{tmp_path}/s")
    await server.stop(0)


async def test_a_path_of_another_server_is_left_alone(tmp_path: Path) -> None:
    first = await serving(f"unix:{tmp_path}/s")
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    second = await serving(f"unix:{tmp_path}/s")
    await first.stop(0)
    assert await answers(f"unix:{tmp_path}/s")
    await second.stop(0)


async def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        Server().listen(f"unix:{tmp_path}/s")
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_port_is_free_again_after_stop() -> None:
    first = Server()
    port = first.listen("127.0.0.1:0")
    await first.start()
    assert not await _refused(port)
    await first.stop(0)
    assert await _refused(port)
    second = await serving(f"localhost:{port}")
    assert await answers(f"127.0.0.1:{port}")
    await second.stop(0)
    await second.stop(0)  # twice is once


async def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_stop_without_start_frees_the_port() -> None:
    server = Server()
    port = server.listen("127.0.0.1:0")
    await server.stop(0)
    assert await _refused(port)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:http", "no.such.host:1", "127.0.0.1:65536"])
async def test_what_is_no_address(address: str) -> None:
    with pytest.raises(OSError, match="cannot listen on"):
        Server().listen(address)


async def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    tls = pki.tls("kube-apiserver", server=True)
    (tmp_path / "no.key").write_text("no key")
    with pytest.raises(ValueError, match="is no certificate for the key"):
        Server().listen("127.0.0.1:0", type(tls)(tls.cert_file, tmp_path / "no.key", tls.ca_file))

"""Who connects to the health pages, and stays: anybody may."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from raykube.rpc import http_connections
from raykube.rpc.health import HealthServer
from tests.kit import pki
from tests.kit.waiting import until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["plain", "tls"])
async def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_connections, "CHECK_S", 0.02)
    monkeypatch.setattr(http_connections, "IDLE_S", 1.0)
    monkeypatch.setattr(http_connections, "CONNECTIONS_MAX", 20)
    tls = pki.tls("kube-apiserver", server=True) if request.param == "tls" else None
    server = HealthServer(lambda: None, lambda: "", tls)
    yield await server.start("127.0.0.1", 0)
    await server.stop()


async def connect(port: int, request: pytest.FixtureRequest) -> Ends:
    tls = request.node.callspec.params["port"] == "tls"
    return await asyncio.open_connection("127.0.0.1", port, ssl=pki.client_context("alice") if tls else None)


@pytest.mark.parametrize("says", [b"", GET[:9], GET])
async def test_a_connection_is_not_for_ever(port: int, request: pytest.FixtureRequest, says: bytes) -> None:
    reader, writer = await connect(port, request)
    writer.write(says)
    async with asyncio.timeout(10):
        heard = await reader.read()
    assert heard.startswith(b"HTTP/1.1 200") == (says == GET)
    writer.close()


async def test_one_that_is_used_stays(port: int, request: pytest.FixtureRequest) -> None:
    """As those of probes and of Prometheus."""
    reader, writer = await connect(port, request)
    async with asyncio.timeout(10):
        for _ in range(5):
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(2) == b"ok"
            await asyncio.sleep(0.3)
        assert await reader.read() == b""
    writer.close()


async def test_the_oldest_of_too_many_make_room(
    port: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connections, "IDLE_S", 60.0)
    ends = [await connect(port, request) for _ in range(30)]
    async with asyncio.timeout(10):
        for reader, _ in ends[:10]:
            assert await reader.read() == b""
    reader, writer = ends[-1]
    writer.write(GET)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    for _, writer in ends:
        writer.close()


async def test_one_whose_answer_is_not_read_yet_is_in_use() -> None:
    server = HealthServer(lambda: None, lambda: "x" * (64 << 20))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.2)
    assert server._connections._busy
    writer.close()
    await until(lambda: not server._connections._busy)
    await server.stop()

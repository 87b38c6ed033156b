"""The router over real sockets: TLS passes through, dead apiservers are left at once, nothing is cut that lives."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from raykube.pb import api_pb2
from raykube.router.config import Config
from raykube.router.service import Service
from raykube.rpc.server import Server
from tests.kit import pki
from tests.kit.tcp import connect, echo, eventually, greeting

FAST = {"health_check_interval": 0.05, "health_check_timeout": 0.5, "connect_timeout": 0.5, "drain_timeout": 0.2}


@asynccontextmanager
async def router(servers: list[str], **flags: Any) -> AsyncIterator[Service]:
    service = Service(Config(**{"servers": servers, "port": 0, **FAST, **flags}))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def address(service: Service, name: str = "https") -> str:
    return service.status()["addresses"][name]  # type: ignore[index,no-any-return]  # a status is a JSON object


def health(service: Service, port: str = "https") -> dict[str, str]:
    backends: Any = service.status()["backends"]
    return {backend["address"]: backend["health"] for backend in backends[port]}


class Apiserver:
    """An HTTPS server with /readyz and /who."""

    def __init__(self, name: str, *, tls: bool = True) -> None:
        self.name = name
        self.ready = True
        self.address = ""
        self.peers: list[str] = []
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> "Apiserver":
        application = web.Application()
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/who", self._who)
        self._runner = web.AppRunner(application, shutdown_timeout=0)
        await self._runner.setup()
        context = pki.server_context() if self._tls else None
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def _readyz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok") if self.ready else web.Response(status=500, text="not ready")

    async def _who(self, request: web.Request) -> web.Response:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        subject = dict(item[0] for item in certificate["subject"]) if certificate else {}
        return web.Response(text=f"{self.name} {subject.get('commonName', '')}")

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@asynccontextmanager
async def apiservers(*names: str) -> AsyncIterator[list[Apiserver]]:
    found = [await Apiserver(name).start() for name in names]
    try:
        yield found
    finally:
        for server in found:
            await server.stop()


def tls_flags() -> dict[str, Path]:
    files = pki.tls("raykube:router")
    return {"tls_cert_file": files.cert_file, "tls_private_key_file": files.key_file, "client_ca_file": files.ca_file}


async def who(service: Service, session: ClientSession | None = None) -> str:
    """Which apiserver answers; over a connection of its own, which `session` keeps open."""
    async with AsyncExitStack() as stack:
        session = session or await stack.enter_async_context(ClientSession())
        url = f"https://{address(service)}/who"
        answer = await stack.enter_async_context(session.get(url, ssl=pki.client_context("alice")))
        return await answer.text()


async def test_tls_passes_through_to_apiservers_in_turn() -> None:
    async with apiservers("a", "b", "c") as servers, router([s.address for s in servers], **tls_flags()) as service:
        await eventually(lambda: set(health(service).values()) == {"up"})
        # Open at once: least connections then leaves no choice, whenever the router hears of a close.
        async with AsyncExitStack() as sessions:
            answers = Counter(
                [await who(service, await sessions.enter_async_context(ClientSession())) for _ in range(9)]
            )
        assert answers == {"a alice": 3, "b alice": 3, "c alice": 3}
        assert service.status()["healthy"] is True


async def test_an_unready_apiserver_gets_no_traffic_until_it_is_ready_again() -> None:
    async with apiservers("a", "b") as servers, router([s.address for s in servers], **tls_flags()) as service:
        servers[0].ready = False
        await eventually(lambda: health(service)[servers[0].address] == "unready")
        assert {await who(service) for _ in range(4)} == {"b alice"}
        servers[1].ready = False  # then an unready one is better than none
        await eventually(lambda: health(service)[servers[1].address] == "unready")
        assert (await who(service)).endswith("alice")
        assert service.status()["healthy"] is False
        servers[0].ready = True
        await eventually(lambda: health(service)[servers[0].address] == "up")
        assert {await who(service) for _ in range(4)} == {"a alice"}


async def test_a_dead_apiserver_costs_no_request_and_comes_back() -> None:
    async with apiservers("a", "b") as servers, router([s.address for s in servers], **tls_flags()) as service:
        await eventually(lambda: set(health(service).values()) == {"up"})
        port = int(servers[0].address.rpartition(":")[2])
        await servers[0].stop()
        # At once: the checks may not have noticed, and every request is answered all the same.
        assert {await who(service) for _ in range(6)} == {"b alice"}
        await eventually(lambda: health(service)[servers[0].address] == "down")
        await servers[0].start(port)
        await eventually(lambda: health(service)[servers[0].address] == "up")
        assert {await who(service) for _ in range(4)} == {"a alice", "b alice"}


async def test_a_stranger_at_the_address_of_an_apiserver_is_not_up() -> None:
    files = pki.tls("kube-apiserver", server=True, stranger=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert_file, files.key_file)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    stranger = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with router([stranger], **tls_flags()) as service:
            await eventually(lambda: health(service)[stranger] == "down")
    finally:
        server.close()


async def test_bytes_ends_and_resets_pass_both_ways() -> None:
    async with echo() as server, router([server.address]) as service:
        reader, writer = await connect(address(service))
        assert await reader.readline() == b"echo\n"
        blob = bytes(range(256)) * 40_000  # 10 MB: more than any buffer on the way
        received = asyncio.create_task(reader.read(-1))
        writer.write(blob)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await received == blob + b"bye"  # the answer to our end came after our end
        writer.close()
        await eventually(lambda: server.open == 0)

        reader, writer = await connect(address(service))
        await reader.readline()
        writer.transport.abort()
        await eventually(lambda: server.open == 0, "the backend sees the client go")

        reader, writer = await connect(address(service))
        await reader.readline()
        await server.kill()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read(-1) == b"unreachable"
        writer.close()


async def test_a_client_that_does_not_read_fills_no_memory() -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        except ConnectionError:
            pass

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    try:
        async with router([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]) as service:
            host, _, port = address(service).rpartition(":")
            client = socket.create_connection((host, int(port)))
            client.setblocking(False)
            before = -1
            while sent != before:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < 64_000_000
            client.close()
    finally:
        server.close()


async def test_least_connections() -> None:
    async with echo("a") as a, echo("b") as b, router([a.address, b.address]) as service:
        kept = []
        for _ in range(6):
            kept.append(await connect(address(service)))
            await kept[-1][0].readline()
        assert (a.open, b.open) == (3, 3)
        for reader, writer in kept:
            if writer.get_extra_info("peername"):
                writer.close()
                del reader
        await eventually(lambda: a.open == b.open == 0)
        backends: Any = service.status()["backends"]
        await eventually(lambda: all(x["connections"] == 0 for x in backends["https"]))


async def test_kill_a_backend_under_load() -> None:
    """Only connections that were on the killed backend break; every new one reaches the other."""
    async with echo("a") as a, echo("b") as b, router([a.address, b.address]) as service:
        kept = [await connect(address(service)) for _ in range(10)]
        names = [(await reader.readline()).strip() for reader, _ in kept]
        assert Counter(names) == {b"a": 5, b"b": 5}
        await a.kill()
        assert [await greeting(address(service)) for _ in range(20)] == ["b"] * 20
        for name, (reader, writer) in zip(names, kept, strict=True):
            if name == b"b":
                writer.write(b"still here\n")
                assert await reader.readline() == b"still here\n"
            else:
                with pytest.raises(ConnectionError):
                    await reader.readexactly(1)
            writer.transport.abort()


async def test_no_backend_is_a_reset_not_a_hang() -> None:
    async with echo() as server:
        dead = server.address
    async with router([dead]) as service:
        assert await greeting(address(service)) == ""


async def test_a_backend_that_stalls_is_skipped_and_its_connections_reset() -> None:
    """A host that vanished answers nothing, not even with a reset: a listener that never accepts plays it."""
    stalled = socket.socket()
    stalled.bind(("127.0.0.1", 0))
    stalled.listen(100)
    name = f"127.0.0.1:{stalled.getsockname()[1]}"
    try:
        async with router([name]) as service:
            reader, writer = await connect(address(service))
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(10):
                    await reader.readexactly(1)
            writer.close()
            assert health(service)[name] == "down"
    finally:
        stalled.close()


async def test_stop_refuses_new_connections_and_lets_open_ones_finish() -> None:
    async with echo() as server, router([server.address], drain_timeout=10) as service:
        reader, writer = await connect(address(service))
        await reader.readline()
        where = address(service)
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await connect(where)
        writer.write(b"last words\n")
        assert await reader.readline() == b"last words\n"
        assert not stopping.done()
        writer.close()
        async with asyncio.timeout(5):
            await stopping
            await service.wait()


async def test_stop_does_not_wait_for_ever() -> None:
    async with echo() as server, router([server.address]) as service:
        reader, writer = await connect(address(service))
        await reader.readline()
        async with asyncio.timeout(5):
            await service.stop()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()


async def test_routers_of_one_cluster_share_an_address_others_do_not() -> None:
    async with echo() as server, router([server.address], shared=True) as first:
        port = int(address(first).rpartition(":")[2])
        async with router([server.address], port=port, shared=True) as second:
            assert address(first) == address(second)
            assert [await greeting(address(first)) for _ in range(10)] == ["echo"] * 10
        assert await greeting(address(first)) == "echo"
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: it is in use; find by whom"):
            await Service(Config(servers=[server.address], port=port)).start()


async def test_several_addresses() -> None:
    hosts = ["127.0.0.1", "127.0.0.2"]
    async with echo() as server, router([server.address], bind_addresses=hosts) as service:
        assert [await greeting(address(service, name)) for name in ("https", "https-2")] == ["echo", "echo"]
        assert address(service, "https-2").startswith("127.0.0.2:")


async def test_bad_flags_are_one_line() -> None:
    with pytest.raises(ValueError, match="at least one apiserver"):
        Config()
    with pytest.raises(ValueError, match="is not host:port"):
        Config(servers=["here"])
    with pytest.raises(ValueError, match="go together"):
        Config(servers=["127.0.0.1:1"], tls_cert_file=Path("x"))
    with pytest.raises(ValueError, match="cannot read /nowhere/x"):
        absent = Path("/nowhere/x")
        await Service(
            Config(servers=["127.0.0.1:1"], tls_cert_file=absent, tls_private_key_file=absent, client_ca_file=absent)
        ).start()
    with pytest.raises(OSError, match="no address of this machine"):
        await Service(Config(servers=["127.0.0.1:1"], bind_addresses=["192.0.2.1"], port=0)).start()


class Api:
    """The Endpoints stream of an apiserver; `publish` changes the answer."""

    def __init__(self) -> None:
        self.endpoints: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def publish(self, *endpoints: tuple[str, str]) -> None:
        self.endpoints = list(endpoints)
        self._changed.set()

    async def Endpoints(self, _request: Any, _call: Any) -> AsyncIterator[Any]:
        while True:
            self._changed.clear()
            found = [api_pb2.Endpoint(address=grpc, https_address=https) for grpc, https in self.endpoints]
            yield api_pb2.EndpointsResponse(endpoints=found)
            await self._changed.wait()


async def test_published_apiservers_join_and_leave() -> None:
    api, grpc = Api(), Server()
    grpc.add(api_pb2.DESCRIPTOR.services_by_name["Api"], api)
    port = grpc.listen("127.0.0.1:0", pki.tls("kube-apiserver", server=True))
    await grpc.start()
    own = f"127.0.0.1:{port}"
    try:
        async with apiservers("seed", "new") as servers, echo("other grpc") as other:
            seed, new = (server.address for server in servers)
            api.publish((own, seed), (other.address, new))
            flags = {**tls_flags(), "grpc_servers": [own], "grpc_port": 0}
            async with router([seed], **flags) as service:
                await eventually(lambda: set(health(service)) == {seed, new})
                await eventually(lambda: set(health(service).values()) == {"up"})
                assert {await who(service) for _ in range(4)} == {"seed alice", "new alice"}
                await eventually(lambda: health(service, "grpc") == {own: "up", other.address: "up"})
                servers[0].ready = False  # its gRPC side follows
                await eventually(lambda: health(service, "grpc")[own] == "unready")
                assert await greeting(address(service, "grpc")) == "other grpc"
                api.publish((own, seed))
                await eventually(lambda: set(health(service)) == {seed})
    finally:
        await grpc.stop()

"""Our server behind mutual TLS, for clients that are not ours: grpcio's and etcd's."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from raykube.pb import etcd_pb2
from raykube.rpc import Identity, Tls
from raykube.rpc.server import Call, Server
from raykube.rpc.serving import ServedConnection
from tests.kit import pki
from tests.kit.require import require_program
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, Handler, say

KV = etcd_pb2.DESCRIPTOR.services_by_name["KV"]


class Store:
    """Of etcd, as much as one `put` needs."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, Identity | None]] = []

    async def Put(self, request: Any, call: Call) -> Any:
        self.seen.append((request.key, call.identity))
        return etcd_pb2.PutResponse()


@asynccontextmanager
async def serving(service: Any, handler: object, *users: str) -> AsyncIterator[int]:
    server = Server(users)
    server.add(service, handler)
    port = server.listen("127.0.0.1:0", pki.tls("kube-apiserver", server=True))
    await server.start()
    yield port
    await server.stop(0)


def unary(port: int, tls: Tls) -> tuple[Any, Any]:
    """grpcio's channel and its method Unary."""
    credentials = grpc.ssl_channel_credentials(
        tls.ca_file.read_bytes(), tls.key_file.read_bytes(), tls.cert_file.read_bytes()
    )
    channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.max_receive_message_length", -1)])
    return channel, channel.unary_unary(
        "/tests.rpc.Echo/Unary", request_serializer=Bytes.SerializeToString, response_deserializer=Bytes.FromString
    )


async def test_grpcio_calls_with_a_certificate() -> None:
    async with serving(ECHO, Handler()) as port:
        channel, call = unary(port, pki.tls("alice"))
        assert await call(say("hello")) == say("hello")
        assert len((await call(say(f"bytes {5 << 20}"))).value) == 5 << 20
        assert await asyncio.gather(*(call(say(str(n))) for n in range(100))) == [say(str(n)) for n in range(100)]
        await channel.close()


async def test_who_is_not_among_the_users_is_denied_before_the_request_is_read() -> None:
    handler = Handler()
    async with serving(ECHO, handler, "alice") as port:
        for name, code in (("alice", grpc.StatusCode.OK), ("bob", grpc.StatusCode.PERMISSION_DENIED)):
            channel, call = unary(port, pki.tls(name))
            assert await call(say("x" * 100_000)).code() is code
            await channel.close()
    assert handler.started == 1


async def test_http_2_is_agreed_on() -> None:
    async with serving(ECHO, Handler()) as port:
        context = pki.client_context("alice")
        context.set_alpn_protocols(["http/1.1", "h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()


@pytest.mark.parametrize("who", ["nobody", "stranger", "plain"])
async def test_who_shows_no_certificate_of_the_ca_hears_nothing(who: str) -> None:
    async with serving(ECHO, Handler()) as port:
        context: ssl.SSLContext | None = ssl.create_default_context(cafile=pki.tls("alice").ca_file)
        if who == "stranger":
            tls = pki.tls("mallory", stranger=True)
            assert context is not None
            context.load_cert_chain(tls.cert_file, tls.key_file)
        elif who == "plain":
            context = None
        heard = b""
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                heard = await reader.read()
        except (ssl.SSLError, ConnectionError):
            pass
        assert b"\0\0\0\4\1" not in heard  # an acknowledgement of SETTINGS


@pytest.mark.parametrize("who", ["nobody", "plain", "probe"])
async def test_a_handshake_that_fails_leaves_nothing(who: str) -> None:
    """Balancers that look whether the port is open, scanners, clients with the wrong certificate: all day long."""
    server = Server()
    server.add(ECHO, Handler())
    port = server.listen("127.0.0.1:0", pki.tls("kube-apiserver", server=True))
    await server.start()
    context = ssl.create_default_context(cafile=pki.tls("alice").ca_file)
    for _ in range(10):
        with suppress(ssl.SSLError, ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context if who == "nobody" else None)
            if who == "plain":
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
            if who != "probe":
                await reader.read()
            writer.close()

    def left() -> int:
        gc.collect()
        found = [each for each in gc.get_objects() if isinstance(each, ServedConnection)]
        return sum(getattr(each._on_lost, "__self__", None) is server for each in found)  # other tests may leave theirs

    await until(lambda: not left())
    async with asyncio.timeout(0.5):  # nobody is left whose answers were to be waited for
        await server.stop(5)


async def test_a_handshake_that_ends_after_the_server_has_no_server() -> None:
    server = Server()
    server.add(ECHO, Handler())
    port = server.listen("127.0.0.1:0", pki.tls("kube-apiserver", server=True))
    await server.start()
    slow = socket.create_connection(("127.0.0.1", port))
    slow.setblocking(False)
    await until(lambda: any(isinstance(each, ServedConnection) for each in gc.get_objects()))
    await server.stop(0)
    context = pki.client_context("alice")
    context.set_alpn_protocols(["h2"])
    heard = b""
    with suppress(ssl.SSLError, ConnectionError):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(sock=slow, ssl=context, server_hostname="127.0.0.1")
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            heard = await reader.read()
            writer.close()
    assert b"\0\0\0\4\1" not in heard


async def test_etcdctl_puts_over_tls() -> None:
    etcdctl = require_program("etcdctl")
    store, tls = Store(), pki.tls("alice", ("ops",))
    async with serving(KV, store) as port:
        process = await asyncio.create_subprocess_exec(
            *(str(etcdctl), "--endpoints", f"https://127.0.0.1:{port}", "--cacert", str(tls.ca_file)),
            *("--cert", str(tls.cert_file), "--key", str(tls.key_file), "put", "/a", "1"),
            stdout=asyncio.subprocess.PIPE,
            env={"ETCDCTL_API": "3"},
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
    assert out == b"OK\n"
    assert store.seen == [(b"/a", Identity("alice", ("ops",)))]

"""Whom `Channel` trusts: certificates, names and HTTP/2 agreed by ALPN, against grpcio's server and ours."""

import asyncio
import ssl
from typing import Any

import pytest

from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel
from tests.kit import pki
from tests.rpc.echo import ECHO, Handler, say, served
from tests.rpc.peer import Peer

KINDS = pytest.mark.parametrize("kind", ["reference", "ours"])


async def call(address: str, tls: Tls | None) -> bytes:
    """One call over a channel of its own."""
    channel = Channel(address, tls)
    try:
        stub: Any = channel.stub(ECHO)
        answer = await stub.Unary(say("x"), timeout=5)
        return bytes(answer.value)
    finally:
        await channel.close()


@KINDS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_names_and_addresses_of_the_certificate(kind: str, host: str) -> None:
    where = "[::1]:0" if host == "[::1]" else "127.0.0.1:0"
    async with served(kind, Handler(), where, pki.tls("kube-apiserver", server=True)) as address:
        port = address.rpartition(":")[2]
        assert await call(f"{host}:{port}", pki.tls("alice")) == b"x"


@KINDS
async def test_large_messages_over_tls(kind: str) -> None:
    async with served(kind, Handler(), tls=pki.tls("kube-apiserver", server=True)) as address:
        channel = Channel(address, pki.tls("alice"))
        stub: Any = channel.stub(ECHO)
        assert len((await stub.Unary(say("x" * 3_000_000), timeout=20)).value) == 3_000_000
        answers = await asyncio.gather(*(stub.Unary(say(f"bytes {n}")) for n in range(0, 100_000, 1000)))
        assert [len(answer.value) for answer in answers] == list(range(0, 100_000, 1000))
        await channel.close()


@KINDS
@pytest.mark.parametrize("flaw", ["stranger", "name"])
async def test_a_server_that_is_another(kind: str, flaw: str) -> None:
    material = {
        "stranger": pki.tls("kube-apiserver", server=True, stranger=True),
        "name": pki.tls("kube-apiserver", server=True, ips=("127.0.0.9",), dns=("elsewhere",)),
    }[flaw]
    handler = Handler()
    async with served(kind, handler, tls=material) as address:
        with pytest.raises(RpcError) as caught:
            await call(address, pki.tls("alice"))
        assert caught.value.code is Code.UNAVAILABLE
        assert handler.started == 0


@KINDS
@pytest.mark.parametrize("shown", ["stranger", "plain"])
async def test_a_client_that_is_not_let_in(kind: str, shown: str) -> None:
    handler = Handler()
    async with served(kind, handler, tls=pki.tls("kube-apiserver", server=True)) as address:
        with pytest.raises(RpcError) as caught:
            await call(address, pki.tls("alice", stranger=True) if shown == "stranger" else None)
        assert caught.value.code is Code.UNAVAILABLE
        assert handler.started == 0


@KINDS
async def test_a_server_without_tls(kind: str) -> None:
    async with served(kind, Handler()) as address:
        with pytest.raises(RpcError) as caught:
            await call(address, pki.tls("alice"))
        assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1"], None])
async def test_http2_must_be_agreed(protocols: list[str] | None) -> None:
    context: ssl.SSLContext = pki.server_context(require_client=True)
    if protocols is not None:
        context.set_alpn_protocols(protocols)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        try:
            await peer.greet()
            await peer.echo()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if protocols == ["h2"]:
        assert await call(address, pki.tls("alice")) == b"x"
    else:
        with pytest.raises(RpcError) as caught:
            await call(address, pki.tls("alice"))
        assert caught.value.code is Code.UNAVAILABLE
    server.close()

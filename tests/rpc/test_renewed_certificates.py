"""Certificates that are renewed under a server and a client in use."""

import asyncio
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from raykube.rpc import Code, Identity, RpcError, Tls
from raykube.rpc.channel import Channel
from raykube.rpc.server import Call, Server
from raykube.rpc.tls import client_context, server_context
from tests.kit import pki
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, Handler


def files(folder: Path, source: Tls) -> Tls:
    """Copies of certificate files, to be replaced."""
    folder.mkdir(exist_ok=True)
    own = Tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    replace(own, source)
    return own


def replace(own: Tls, source: Tls, *, key: bool = True) -> None:
    shutil.copy(source.ca_file, own.ca_file)
    shutil.copy(source.cert_file, own.cert_file)
    if key:
        shutil.copy(source.key_file, own.key_file)


def shown(port: int) -> bytes:
    """The certificate that a server shows: before it finds out that it is shown none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as wrapped:
        return wrapped.getpeercert(binary_form=True) or b""


def der(tls: Tls) -> bytes:
    return ssl.PEM_cert_to_DER_cert(tls.cert_file.read_text())


class Named(Handler):
    """Answers with the caller's name."""

    async def Unary(self, request: Bytes, call: Call) -> Bytes:
        identity = call.identity
        assert isinstance(identity, Identity)
        return Bytes(value=identity.user.encode())


async def test_a_server_shows_the_new_one_and_a_client_too(tmp_path: Path) -> None:
    first, second = (pki.tls(name, server=True) for name in ("kube-apiserver", "renewed"))
    own, client = files(tmp_path / "server", first), files(tmp_path / "client", pki.tls("alice"))
    server = Server(keepalive_s=0.2)
    server.add(ECHO, Named())
    port = server.listen("127.0.0.1:0", own)
    await server.start()
    channel = Channel(f"127.0.0.1:{port}", client)
    try:
        stub = channel.stub(ECHO)
        assert (await stub.Unary(Bytes())).value == b"alice"
        assert await asyncio.to_thread(shown, port) == der(first)
        replace(own, second, key=False)  # the key comes a moment later
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(shown, port) == der(first)
        replace(own, second)
        for _ in range(200):
            if await asyncio.to_thread(shown, port) == der(second):
                break
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(shown, port) == der(second)
        replace(client, pki.tls("bob"))
        assert (await stub.Unary(Bytes())).value == b"alice"  # the connection goes on
        assert channel.link is not None
        channel.link.abort()
        await until(lambda: not channel.connected)
        assert (await stub.Unary(Bytes())).value == b"bob"
    finally:
        await channel.close()
        await server.stop(0)


async def test_contexts_of_other_protocols_follow_their_files(tmp_path: Path) -> None:
    first, second = (pki.tls(name, server=True) for name in ("kube-apiserver", "renewed"))
    own, mine = files(tmp_path / "server", first), files(tmp_path / "client", pki.tls("alice"))
    names: list[str] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        names.append(dict(field for (field,) in certificate["subject"])["commonName"])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(own))
    port = server.sockets[0].getsockname()[1]
    context = client_context(mine, check_hostname=False)

    async def seen() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        shown_to_us: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await reader.read()
        writer.close()
        return shown_to_us

    async with server:
        assert await seen() == der(first)
        replace(own, second)
        replace(mine, pki.tls("bob"))
        assert await seen() == der(second)
    assert names == ["alice", "bob"]


async def test_an_authority_that_is_taken_away_is_trusted_no_more(tmp_path: Path) -> None:
    """By a server of its clients, and by a client of its servers: on new connections."""
    own, mine = files(tmp_path / "server", pki.tls("kube-apiserver", server=True)), files(tmp_path, pki.tls("alice"))
    server = Server()
    server.add(ECHO, Named())
    port = server.listen("127.0.0.1:0", own)
    await server.start()
    context = client_context(mine)

    async def ask() -> bytes:
        channel = Channel(f"127.0.0.1:{port}", context)
        try:
            return bytes((await channel.stub(ECHO).Unary(Bytes(), timeout=5)).value)
        finally:
            await channel.close()

    assert await ask() == b"alice"
    for side in (own, mine):
        before = side.ca_file.read_bytes()
        side.ca_file.write_bytes(pki.other_ca().cert)
        with pytest.raises(RpcError) as caught:
            await ask()
        assert caught.value.code is Code.UNAVAILABLE
        side.ca_file.write_bytes(before)
        assert await ask() == b"alice"
    await server.stop(0)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    own = files(tmp_path, pki.tls("alice"))
    for tls, message in (
        (Tls(own.cert_file, tmp_path / "absent", own.ca_file), f"cannot read {tmp_path / 'absent'}: No such file"),
        (Tls(own.key_file, own.key_file, own.ca_file), f"{own.key_file} is no certificate for the key {own.key_file}"),
        (Tls(own.cert_file, own.key_file, own.key_file), f"{own.key_file} holds no certificates of an authority"),
    ):
        with pytest.raises(ValueError, match=message):
            Channel("127.0.0.1:1", tls)

"""Streams at the apiserver, in front of a kubelet made of a socket: rights, refusals, bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.streaming.core import http1
from raykube.streaming.wire import Wire, dial
from tests.kit import pki
from tests.kit.apiservers import ADMIN, Apiservers

NODES, PODS = builtin("v1", "Node"), builtin("v1", "Pod")
UPGRADE: http1.Headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "eA==")]
EXEC = "/api/v1/namespaces/default/pods/web/exec?command=ls&stdout=true"


class Kubelet:
    """Answers any upgrade with 101, and repeats in capitals what comes; or refuses all."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.refusal = b""
        self.ended = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        tls = pki.tls("system:node:n1", ("system:nodes",))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.ca_file))
        context.load_cert_chain(tls.cert_file, tls.key_file)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.refusal:
                writer.write(self.refusal)
            else:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while data := await reader.read(1000):
                    writer.write(data.upper())
                    if b"bye" in data:
                        break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            writer.close()


@pytest.fixture
async def kubelet() -> AsyncIterator[Kubelet]:
    kubelet = Kubelet()
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


@pytest.fixture
async def servers(tmp_path: Path, kubelet: Kubelet) -> AsyncIterator[Apiservers]:
    async with Apiservers(tmp_path) as servers:
        async with servers.client() as client:
            await create(client, kubelet)
        yield servers


async def create(client: ApiClient, kubelet: Kubelet) -> None:
    node = await client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    await client.patch(
        NODES,
        "",
        node["metadata"]["name"],
        {
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
            }
        },
        subresource="status",
    )
    account = {"name": "default", "namespace": "default"}
    await client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "x"}]},
    }
    await client.create(pod)
    lonely: dict[str, Any] = pod | {"metadata": {"name": "lonely", "namespace": "default"}}
    await client.create(lonely | {"spec": {"containers": [{"name": "main", "image": "x"}]}})


async def ask(
    servers: Apiservers, path: str, user: tuple[str, tuple[str, ...]] = ADMIN, headers: http1.Headers = UPGRADE
) -> tuple[int, Wire | None, str]:
    context = pki.client_context(*user)
    answer = await dial(f"https://{servers.address('https')}{path}", "GET", headers, context)
    return answer.head.status, answer.wire, answer.body.decode()


async def test_bytes_go_through_unread(servers: Apiservers, kubelet: Kubelet) -> None:
    status, wire, _ = await ask(servers, EXEC)
    assert status == 101
    assert wire is not None
    await wire.write(b"hello, bye")
    text = b""
    while data := await wire.read():
        text += data
    assert text == b"HELLO, BYE"
    wire.close()
    first, *headers = kubelet.heads[0].split("\r\n")
    assert first == "GET /exec/default/web/main?command=ls&output=1 HTTP/1.1"
    assert "Sec-WebSocket-Key: eA==" in headers


async def test_who_leaves_is_gone_at_the_kubelet(servers: Apiservers, kubelet: Kubelet) -> None:
    _, wire, _ = await ask(servers, EXEC)
    assert wire is not None
    wire.close()
    await asyncio.wait_for(kubelet.ended.wait(), 20)


async def test_a_kubelets_refusal_is_passed_on(servers: Apiservers, kubelet: Kubelet) -> None:
    kubelet.refusal = b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nnot today"
    assert await ask(servers, EXEC) == (500, None, "not today")


async def test_no_kubelet(servers: Apiservers, kubelet: Kubelet) -> None:
    await kubelet.stop()
    status, _, body = await ask(servers, EXEC)
    assert status == 500
    assert f"error dialing backend: dial tcp 127.0.0.1:{kubelet.port}: connect: connection refused" in body


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/api/v1/namespaces/default/pods/none/exec?command=ls&stdout=1", 404, 'pods \\"none\\" not found'),
        ("/api/v1/namespaces/default/pods/lonely/exec?command=ls&stdout=1", 400, "does not have a host assigned"),
        ("/api/v1/namespaces/default/pods/web/exec?command=ls", 400, "at least 1 of stdin, stdout, stderr"),
        ("/api/v1/namespaces/default/pods/web/exec?stdout=1", 400, "at least one command"),
        (EXEC + "&container=other", 400, "container other is not valid for pod web"),
    ],
)
async def test_refusals(servers: Apiservers, path: str, code: int, message: str) -> None:
    status, _, body = await ask(servers, path)
    assert status == code
    assert message in body


async def test_without_an_upgrade(servers: Apiservers) -> None:
    status, _, body = await ask(servers, EXEC, headers=[])
    assert status == 400
    assert "Upgrade request required" in body


async def test_a_websocket_needs_the_right_to_create(servers: Apiservers) -> None:
    reader: tuple[str, tuple[str, ...]] = ("reader", ())
    async with servers.client() as client:
        for name, verbs in (("see", ["get"]), ("do", ["get", "create"])):
            await client.create(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "Role",
                    "metadata": {"name": name, "namespace": "default"},
                    "rules": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}],
                }
            )

        async def bind(role: str) -> None:
            await client.create(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": role, "namespace": "default"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
                    "subjects": [{"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}],
                }
            )

        await bind("see")
        status, _, body = await ask(servers, EXEC, reader)
        assert status == 403
        assert 'User \\"reader\\" cannot create resource \\"pods/exec\\"' in body
        await bind("do")
        status, wire, _ = await ask(servers, EXEC, reader)
        assert status == 101
        assert wire is not None
        wire.close()

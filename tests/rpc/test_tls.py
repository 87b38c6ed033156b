"""Mutual TLS: who is let in, and as whom."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from raykube.pb import api_pb2
from raykube.rpc import Code, Identity, RpcError
from raykube.rpc.channel import Channel
from raykube.rpc.server import Call, Server
from raykube.rpc.tls import identity_of
from tests.kit import pki

API = api_pb2.DESCRIPTOR.services_by_name["Api"]


class WhoAmI:
    """Remembers who called."""

    def __init__(self) -> None:
        self.seen: list[Identity | None] = []

    async def Write(self, request: Any, call: Call) -> Any:
        self.seen.append(call.identity)
        return api_pb2.WriteResponse()


@pytest.fixture
async def server() -> AsyncIterator[tuple[WhoAmI, str]]:
    handler, served = WhoAmI(), Server()
    served.add(API, handler)
    port = served.listen("127.0.0.1:0", pki.tls("kube-apiserver", server=True))
    await served.start()
    yield handler, f"127.0.0.1:{port}"
    await served.stop()


async def test_a_client_is_who_its_certificate_says(server: tuple[WhoAmI, str]) -> None:
    handler, address = server
    channel = Channel(address, pki.tls("alice", ("dev", "ops")))
    await channel.stub(API).Write(api_pb2.WriteRequest(), timeout=5)
    await channel.close()
    assert handler.seen == [Identity("alice", ("dev", "ops"))]


@pytest.mark.parametrize("client", ["stranger", "plain"])
async def test_others_are_not_let_in(server: tuple[WhoAmI, str], client: str) -> None:
    handler, address = server
    channel = Channel(address, pki.tls("alice", stranger=True) if client == "stranger" else None)
    with pytest.raises(RpcError) as caught:
        await channel.stub(API).Write(api_pb2.WriteRequest(), timeout=2)
    await channel.close()
    assert caught.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert handler.seen == []


def test_a_certificate_without_a_name_is_nobody() -> None:
    with pytest.raises(ValueError, match=r"PEM|common name"):
        identity_of(b"not a certificate")

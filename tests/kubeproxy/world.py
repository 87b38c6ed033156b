"""A proxier without apiservers: objects go in by hand, connections go through real sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.reach import NodeAddresses, RelayMode
from raykube.kubeproxy.core.rules import Rule
from raykube.kubeproxy.core.table import Table
from raykube.kubeproxy.dial import Dialer
from raykube.kubeproxy.proxier import Proxier
from raykube.kubeproxy.relay import Relay
from raykube.rpc.clock import SystemClock
from raykube.rpc.tls import client_context, server_context
from tests.kit import pki
from tests.kit.tcp import Echo
from tests.kubeproxy.objects import endpoint, endpoint_slice, service


def free_port(host: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


class World:
    """One node's proxier and, with `relay`, its relay."""

    def __init__(
        self,
        node: str = "m1",
        *,
        mode: RelayMode = "never",
        shared: bool = False,
        nodeports: tuple[str, ...] = (),
        udp_idle_s: float = 60,
        user: str = "system:kube-proxy",
    ) -> None:
        self.table = Table(node)
        self.table.set_node("", nodeports)
        self.nodes: dict[str, NodeAddresses] = {}
        self.metrics = Metrics()
        self.failures: list[tuple[Rule, str, str]] = []
        files = pki.tls(user, server=True)
        self.dialer = Dialer(
            node, self.nodes, mode=mode, context=client_context(files, check_hostname=False), timeout_s=0.5
        )
        self.proxier = Proxier(
            self.table,
            self.dialer,
            self.nodes,
            mode=mode,
            shared=shared,
            udp_idle_s=udp_idle_s,
            metrics=self.metrics,
            clock=SystemClock(),
            on_bind_failure=lambda rule, frontend, advice: self.failures.append((rule, frontend, advice)),
        )
        self.relay = Relay(server_context(files), self.table.is_local, connect_timeout_s=0.5)

    async def apply(self, *objects: dict[str, Any]) -> None:
        """Services and EndpointSlices as they are now."""
        for obj in objects:
            key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
            (self.table.set_service if obj["kind"] == "Service" else self.table.set_slice)(key, obj)
        await self.proxier.sync()

    async def remove(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
            (self.table.set_service if obj["kind"] == "Service" else self.table.set_slice)(key, None)
        await self.proxier.sync()


@asynccontextmanager
async def world(node: str = "m1", **options: Any) -> AsyncIterator[World]:
    found = World(node, **options)
    try:
        yield found
    finally:
        await found.relay.stop()
        await found.proxier.stop()


def serving(port: int, ip: str = "127.0.0.1", **spec: Any) -> dict[str, Any]:
    """A Service on a port that tests may bind."""
    spec.setdefault("ports", [{"port": port, "protocol": "TCP"}])
    return service(ip=ip, **spec)


def slices_of(*servers: Echo, node: str = "m1") -> list[dict[str, Any]]:
    """An EndpointSlice for each server, as servers have ports of their own."""
    return [
        endpoint_slice(endpoint(server.host, node), port=server.port, name=f"slice-{server.port}") for server in servers
    ]

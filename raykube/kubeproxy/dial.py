"""Connections to endpoints, the way that `core.reach` says."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from raykube.kubeproxy.core.reach import NodeAddresses, RelayMode, relay_for
from raykube.kubeproxy.core.rules import Endpoint
from raykube.kubeproxy.frames import FramedSide
from raykube.rpc.listen import join_address, split_address
from raykube.rpc.pipe import Side

PROXY_USER = "system:kube-proxy"


def peer_user(transport: asyncio.BaseTransport | None) -> str:
    """The common name in the verified certificate of the other end; "" without one."""
    certificate: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport else None
    if not certificate:
        return ""
    return next((value for part in certificate["subject"] for name, value in part if name == "commonName"), "")


class Dialer:
    """Connects to endpoints. `nodes` is read at each call, so it may change."""

    def __init__(
        self,
        node: str,
        nodes: Mapping[str, NodeAddresses],
        *,
        mode: RelayMode,
        context: ssl.SSLContext | None,
        timeout_s: float,
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._mode = mode
        self._context = context
        self._timeout_s = timeout_s

    async def connect(self, endpoint: Endpoint) -> Side:
        """A connection to the endpoint, not yet joined. Raises OSError."""
        relay = relay_for(endpoint, self._node, self._nodes, self._mode)
        if relay is None:
            raise OSError(f"node {endpoint.node} has not said where its relay is")
        async with asyncio.timeout(self._timeout_s):
            if relay:
                return await self._through(relay, endpoint)
            loop = asyncio.get_running_loop()
            _, side = await loop.create_connection(Side, endpoint.address, endpoint.port)
            return side

    async def _through(self, relay: str, endpoint: Endpoint) -> Side:
        if self._context is None:
            raise OSError("relays need certificates")
        loop = asyncio.get_running_loop()
        try:
            host, port = split_address(relay)
            _, side = await loop.create_connection(FramedSide, host, port, ssl=self._context, server_hostname=host)
        except ValueError as error:  # another Node's words
            raise OSError(f"no relay is at {relay!r}: {error}") from None
        try:
            if peer_user(side.transport) != PROXY_USER:
                raise OSError(f"{relay} is not a kube-proxy")
            side.send_line(join_address(endpoint.address, endpoint.port))
            answer = await side.line
            if answer != "ok":
                raise OSError(f"relay {relay}: {answer.removeprefix('no ')}")
        except BaseException:
            side.abort()
            raise
        return side

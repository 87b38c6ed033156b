"""The relay: lets other machines' kube-proxies reach the endpoints of this machine that have loopback addresses.

Only kube-proxies may connect (certificate), and only to addresses that an EndpointSlice names on this node: a relay is
no way into the machine's other loopback ports.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable

from raykube.kubeproxy.dial import PROXY_USER, peer_user
from raykube.kubeproxy.frames import FramedSide
from raykube.rpc.listen import bind, join_address, split_address
from raykube.rpc.pipe import Side

log = logging.getLogger(__name__)

GREETING_TIMEOUT_S = 5.0


class Relay:
    """Listens for other kube-proxies. `allowed(address, port)` says what may be connected to."""

    def __init__(
        self, context: ssl.SSLContext, allowed: Callable[[str, int], bool], *, connect_timeout_s: float
    ) -> None:
        self._context = context
        self._allowed = allowed
        self._timeout_s = connect_timeout_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sides: set[Side] = set()
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Raises OSError with a line for the user."""
        found = bind(host, port)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _RelaySide(self._accept, self._lost), sock=found, ssl=self._context
        )
        self.address = join_address(*found.getsockname()[:2])

    def _accept(self, client: "_RelaySide") -> None:
        self._sides.add(client)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, client: Side) -> None:
        self._sides.discard(client)

    async def _serve(self, client: "_RelaySide") -> None:
        try:
            if peer_user(client.transport) != PROXY_USER:
                raise PermissionError("only kube-proxies may use a relay")
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                line = await client.line
            address, port = split_address(line)
            if not self._allowed(address, port):
                raise PermissionError(f"{line} is no endpoint of this node")
            async with asyncio.timeout(self._timeout_s):
                _, server = await asyncio.get_running_loop().create_connection(Side, address, port)
        except (OSError, ValueError) as error:
            log.debug("relay refused: %s", error)
            client.send_line(f"no {str(error)[:200] or type(error).__name__}")
            client.close()
            return
        if not client.alive:
            server.abort()
            return
        client.send_line("ok")
        client.join(server)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for side in list(self._sides):
            if side.peer is not None:
                side.peer.abort()
            side.abort()


class _RelaySide(FramedSide):
    """The relay's end: it tells when it is there and gone."""

    def __init__(self, on_made: Callable[["_RelaySide"], None], on_gone: Callable[[Side], None]) -> None:
        super().__init__()
        self._made = on_made
        self._gone = on_gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._made(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._gone(self)

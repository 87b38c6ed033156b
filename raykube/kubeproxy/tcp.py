"""One TCP frontend in user space: a listener whose connections are piped to the endpoints that `core.balance` picks."""

import asyncio
import logging
import socket
from collections.abc import Callable

from raykube.base.clock import Clock
from raykube.kubeproxy.core.balance import Balance
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.rules import Endpoint, Frontend, Rule
from raykube.kubeproxy.dial import Dialer
from raykube.rpc.pipe import Side

log = logging.getLogger(__name__)


class TcpFrontend:
    """Serves one address. Connections outlive a change of the rule, and the frontend, as upstream's do."""

    def __init__(
        self,
        frontend: Frontend,
        rule: Rule,
        dialer: Dialer,
        metrics: Metrics,
        clock: Clock,
        turn: int,
        inside: Callable[[str], bool],
    ) -> None:
        self.frontend = frontend
        self.balance = Balance(rule, turn, inside)
        self._dialer = dialer
        self._metrics = metrics
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[Side] = set()

    async def start(self, found: socket.socket) -> None:
        """Accepts from the bound socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Side(self._accept, self._lost), sock=found)

    def set_rule(self, rule: Rule) -> None:
        """New connections follow `rule`."""
        self.balance.set_rule(rule)

    def _accept(self, client: Side) -> None:
        self._clients.add(client)
        self._metrics.connections += 1
        self._metrics.connections_open += 1
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, client: Side) -> None:
        self._clients.discard(client)
        self._metrics.connections_open -= 1

    async def _serve(self, client: Side) -> None:
        assert client.transport is not None
        peer = client.transport.get_extra_info("peername")
        address = peer[0] if peer else ""
        tried: list[Endpoint] = []
        while client.alive:
            now = self._clock.monotonic()
            endpoint = self.balance.pick(address, now, tried)
            if endpoint is None:
                break
            tried.append(endpoint)
            try:
                server = await self._dialer.connect(endpoint)
            except OSError as error:
                log.debug("%s: endpoint %s:%d: %s", self.frontend, endpoint.address, endpoint.port, error)
                self._metrics.connect_failures += 1
                self.balance.on_failure(endpoint, self._clock.monotonic())
                continue
            if client.alive and server.alive:
                client.join(server)
                return
            server.abort()
        client.abort()

    @property
    def busy(self) -> bool:
        """Whether connections are open."""
        return bool(self._clients)

    def close(self) -> None:
        """Refuses new connections from now on; open ones go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Ends everything."""
        self.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for side in list(self._clients):
            if side.peer is not None:
                side.peer.abort()
            side.abort()

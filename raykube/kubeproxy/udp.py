"""One UDP frontend in user space.

A *flow* is what one client (address and port) sends to the frontend: it has a socket of its own towards one endpoint,
so that answers find back. It ends when it was silent for the time-out, when its endpoint is gone, or when there are
too many. UDP to endpoints behind a relay is not carried: such endpoints are passed over.
"""

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

from raykube.base.clock import Clock
from raykube.kubeproxy.core.balance import Balance
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.rules import Endpoint, Frontend, Rule

log = logging.getLogger(__name__)

FLOWS_MAX = 4096
WAITING_MAX = 64  # datagrams kept while the flow's socket is being made

Address = tuple[Any, ...]


class Flow(asyncio.DatagramProtocol):
    """One client's datagrams to one endpoint."""

    def __init__(self, frontend: "UdpFrontend", client: Address, endpoint: Endpoint) -> None:
        self._frontend = frontend
        self._client = client
        self.endpoint = endpoint
        self.used = 0.0
        self._waiting: list[bytes] = []
        self._transport: asyncio.DatagramTransport | None = None
        self.task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: self, remote_addr=(self.endpoint.address, self.endpoint.port))
        except OSError as error:
            self._frontend.on_failure(self._client, self.endpoint, error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._transport.sendto(data)

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append(data)

    def datagram_received(self, data: bytes, _address: Address) -> None:
        self._frontend.answer(self._client, data)

    def error_received(self, error: Exception) -> None:
        self._frontend.on_failure(self._client, self.endpoint, error)

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if self._transport is not None:
            self._transport.close()


class UdpFrontend(asyncio.DatagramProtocol):
    """Serves one address."""

    def __init__(
        self,
        frontend: Frontend,
        rule: Rule,
        unreachable: Callable[[Endpoint], bool],
        metrics: Metrics,
        clock: Clock,
        turn: int,
        inside: Callable[[str], bool],
        *,
        idle_s: float,
    ) -> None:
        self.frontend = frontend
        self.balance = Balance(rule, turn, inside)
        self._unreachable = unreachable
        self._metrics = metrics
        self._clock = clock
        self._idle_s = idle_s
        self._flows: OrderedDict[Address, Flow] = OrderedDict()  # the one used longest ago first
        self._transport: asyncio.DatagramTransport | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def start(self, found: socket.socket) -> None:
        """Receives from the bound socket."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=found)
        self._transport = transport

    def set_rule(self, rule: Rule) -> None:
        """Flows to endpoints that are gone end at once: their clients get another with the next datagram."""
        self.balance.set_rule(rule)
        kept = {*rule.endpoints, *(rule.inside or ())}
        for client, flow in list(self._flows.items()):
            if flow.endpoint not in kept:
                self._drop(client)

    def datagram_received(self, data: bytes, client: Address) -> None:
        now = self._clock.monotonic()
        flow = self._flows.get(client)
        if flow is None:
            rule = self.balance.rule
            skipped = [endpoint for endpoint in (*rule.endpoints, *(rule.inside or ())) if self._unreachable(endpoint)]
            endpoint = self.balance.pick(client[0], now, skipped)
            if endpoint is None:
                return
            if len(self._flows) >= FLOWS_MAX:
                self._drop(next(iter(self._flows)))
            flow = self._flows[client] = Flow(self, client, endpoint)
            flow.task = asyncio.get_running_loop().create_task(flow.open())
            self._metrics.connections += 1
            self._metrics.connections_open += 1
        self._flows.move_to_end(client)
        flow.used = now
        flow.send(data)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._idle_s, self._expire)

    def answer(self, client: Address, data: bytes) -> None:
        flow = self._flows.get(client)
        if flow is not None and self._transport is not None:
            flow.used = self._clock.monotonic()
            self._flows.move_to_end(client)
            self._transport.sendto(data, client)

    def on_failure(self, client: Address, endpoint: Endpoint, error: Exception) -> None:
        """The endpoint refused: the client's next datagram goes to another one."""
        log.debug("%s: endpoint %s:%d: %s", self.frontend, endpoint.address, endpoint.port, error)
        self._metrics.connect_failures += 1
        self.balance.on_failure(endpoint, self._clock.monotonic())
        self._drop(client)

    def error_received(self, error: Exception) -> None:
        """A client that does not take its answer: its flow ends by its time-out."""

    def _drop(self, client: Address) -> None:
        flow = self._flows.pop(client, None)
        if flow is not None:
            flow.close()
            self._metrics.connections_open -= 1

    def _expire(self) -> None:
        self._expiry = None
        now = self._clock.monotonic()
        while self._flows:
            client, flow = next(iter(self._flows.items()))
            left_s = flow.used + self._idle_s - now
            if left_s > 0:
                self._expiry = asyncio.get_running_loop().call_later(max(left_s, 0.01), self._expire)
                return
            self._drop(client)

    @property
    def flows(self) -> int:
        return len(self._flows)

    def close(self) -> None:
        """Answers no more: a datagram to this address is refused from now on."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for client in list(self._flows):
            self._drop(client)
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def stop(self) -> None:
        self.close()

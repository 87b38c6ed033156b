"""Carries the table's changes out: opens, changes and closes frontends, and remembers those that cannot be bound.

A frontend that cannot be bound is reported once per reason (`on_bind_failure`) and tried again when its rule changes
and after a while: the program that holds the port may end, and whoever reads the report may act on it.
"""

import errno
import logging
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.kubeproxy.core.clients import Insiders
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.reach import NodeAddresses, RelayMode, relay_for
from raykube.kubeproxy.core.rules import EXTERNAL_IP, LOAD_BALANCER, Endpoint, Frontend, Rule
from raykube.kubeproxy.core.table import Table
from raykube.kubeproxy.dial import Dialer
from raykube.kubeproxy.host_addresses import local_addresses
from raykube.kubeproxy.tcp import TcpFrontend
from raykube.kubeproxy.udp import UdpFrontend
from raykube.rpc.listen import bind

log = logging.getLogger(__name__)

REBIND = Backoff(initial_s=1.0, max_s=30.0)
BindFailure = Callable[[Rule, str, str], None]


@dataclass(slots=True)
class _Unbound:
    rule: Rule
    reason: str
    failures: int
    retry_at: float


class Proxier:
    """The frontends of this node."""

    def __init__(
        self,
        table: Table,
        dialer: Dialer,
        nodes: dict[str, NodeAddresses],
        *,
        mode: RelayMode,
        shared: bool,
        udp_idle_s: float,
        metrics: Metrics,
        clock: Clock,
        on_bind_failure: BindFailure,
    ) -> None:
        self.table = table
        self.frontends: dict[Frontend, TcpFrontend | UdpFrontend] = {}
        self.unbound: dict[Frontend, _Unbound] = {}
        self._dialer = dialer
        self._nodes = nodes
        self._mode: RelayMode = mode
        self._shared = shared
        self._udp_idle_s = udp_idle_s
        self._metrics = metrics
        self._clock = clock
        self._on_bind_failure = on_bind_failure
        self._insiders = Insiders()
        self._closed: list[TcpFrontend] = []  # not accepting any more; connections still open

    @property
    def served(self) -> int:
        """How many addresses and ports are served."""
        return len(self.frontends)

    def set_node(self, zone: str, addresses: Iterable[str], pod_networks: Iterable[str]) -> None:
        """What the node is, from the next sync on."""
        self.table.set_node(zone, addresses)
        self._insiders = Insiders(pod_networks, local_addresses())

    async def sync(self) -> None:
        """Brings the sockets to what the table says now."""
        started = self._clock.monotonic()
        change = self.table.sync()
        for frontend in change.removed:
            self._remove(frontend)
        for frontend, rule in change.set.items():
            served = self.frontends.get(frontend)
            if not rule.served:
                self._remove(frontend)  # so that connections are refused
            elif served is not None:
                served.set_rule(rule)
            else:
                await self._open(frontend, rule)
        await self.retry()
        self._closed = [served for served in self._closed if served.busy]
        self._metrics.frontends = len(self.frontends)
        self._metrics.on_sync(self._clock.monotonic() - started, self._clock.now())

    async def retry(self) -> None:
        """Tries again what could not be bound, where it is time."""
        now = self._clock.monotonic()
        for frontend, unbound in list(self.unbound.items()):
            if unbound.retry_at <= now:
                await self._open(frontend, unbound.rule)

    def next_retry(self) -> float | None:
        """When `retry` has something to do, on the monotonic clock."""
        return min((unbound.retry_at for unbound in self.unbound.values()), default=None)

    def _remove(self, frontend: Frontend) -> None:
        self.unbound.pop(frontend, None)
        served = self.frontends.pop(frontend, None)
        if served is None:
            return
        served.close()
        if isinstance(served, TcpFrontend) and served.busy:
            self._closed.append(served)
        log.debug("closed %s", frontend)

    async def _open(self, frontend: Frontend, rule: Rule) -> None:
        if frontend.protocol not in ("TCP", "UDP"):
            return  # sockets of SCTP are nothing that an event loop opens
        kind = socket.SOCK_STREAM if frontend.protocol == "TCP" else socket.SOCK_DGRAM
        try:
            found = bind(frontend.address, frontend.port, kind, shared=self._shared)
        except OSError as error:
            self._failed(frontend, rule, error)
            return
        self.unbound.pop(frontend, None)
        turn = random.randrange(1 << 16)

        def inside(client: str) -> bool:
            return client == frontend.address or client in self._insiders

        served: TcpFrontend | UdpFrontend
        if frontend.protocol == "TCP":
            served = TcpFrontend(frontend, rule, self._dialer, self._metrics, self._clock, turn, inside)
        else:
            served = UdpFrontend(
                frontend, rule, self._relayed, self._metrics, self._clock, turn, inside, idle_s=self._udp_idle_s
            )
        await served.start(found)
        self.frontends[frontend] = served
        log.debug("serving %s by %d endpoints", frontend, len(rule.endpoints))

    def _relayed(self, endpoint: Endpoint) -> bool:
        return relay_for(endpoint, self.table.node, self._nodes, self._mode) != ""

    def _failed(self, frontend: Frontend, rule: Rule, error: OSError) -> None:
        known = self.unbound.get(frontend)
        failures = known.failures + 1 if known is not None else 1
        retry_at = self._clock.monotonic() + REBIND.delay_s(failures)
        reason = errno.errorcode.get(error.errno or 0, "")
        self.unbound[frontend] = _Unbound(rule, reason, failures, retry_at)
        self._metrics.bind_failures += 1
        if error.errno == errno.EADDRNOTAVAIL and rule.kind in (EXTERNAL_IP, LOAD_BALANCER):
            log.debug("%s is not of this node", frontend)  # some node has it, or the cloud routes it
            return
        if known is None or known.reason != reason:
            advice = str(error.strerror or error)
            if error.errno == errno.EADDRNOTAVAIL:
                advice += "; without root, Services need a range inside 127.0.0.0/8 (--service-cluster-ip-range)"
            self._on_bind_failure(rule, str(frontend), advice)

    async def stop(self) -> None:
        """Closes everything at once."""
        for served in [*self.frontends.values(), *self._closed]:
            await served.stop()
        self.frontends.clear()
        self.unbound.clear()
        self._closed.clear()

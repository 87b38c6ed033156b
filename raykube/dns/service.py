"""Cluster DNS as a service: follows Services, EndpointSlices and Namespaces, and answers for them.

    informers ──batches──► Zone
    client ──query──► Responder ──► answer
                          └─Ask──► Forwarder ──► upstream servers, their answers remembered

While no apiserver answers, everything goes on as it was last known. Until the zone is known for the first time, its
names get SERVFAIL, and all others are forwarded.
"""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change
from raykube.client.informer import Informer
from raykube.dns.config import Config
from raykube.dns.core.cache import Cache
from raykube.dns.core.clients import Clients
from raykube.dns.core.metrics import Metrics
from raykube.dns.core.responder import Responder
from raykube.dns.core.upstreams import DNS_PORT
from raykube.dns.core.zone import Zone
from raykube.dns.forward import Forwarder
from raykube.dns.registrar import Registrar
from raykube.dns.server import Answers, Listeners
from raykube.rpc.clock import SystemClock
from raykube.rpc.health import HealthServer
from raykube.rpc.lifetime import until_stopped
from raykube.rpc.listen import join_address, split_address

log = logging.getLogger(__name__)

METRICS_PORT = 9153


def _key(change: Change) -> tuple[str, str]:
    metadata = change.object["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Service:
    """One DNS server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._node = config.hostname_override or socket.gethostname().lower()
        clock = SystemClock()
        self._metrics = Metrics(config.cluster_domain)
        self.zone = Zone(
            config.cluster_domain,
            ttl_s=config.ttl,
            pods=config.pods == "insecure",
            servers=config.cluster_dns or config.bind_addresses,
        )
        self.responder = Responder(self.zone, udp_bytes_max=config.max_udp_size)
        self.responder.synced = False
        self.forwarder = Forwarder(
            config.forward,
            config.resolv_conf,
            cache=Cache(config.cache_size),
            cache_ttl_s=config.cache_ttl,
            edns_size=config.max_udp_size,
            metrics=self._metrics,
            clock=clock,
        )
        own = [address for address in config.bind_addresses if not ip_address(address).is_unspecified]
        self._answers = Answers(
            self.responder,
            self.forwarder,
            self._metrics,
            clock,
            Clients([*config.allow_networks, *own]),
            concurrent_max=config.max_concurrent,
            client_concurrent_max=config.max_concurrent_per_client,
        )
        self._listeners = Listeners(self._answers, self._metrics)
        self._health = HealthServer(
            self._problem,
            self._metrics.text,
            pages={"/health": self._alive, "/healthz": self._alive, "/livez": self._alive, "/ready": self._ready},
        )
        self._health_address = ""
        self._client: ApiClient | None = None
        self._registrar: Registrar | None = None
        self._registering: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Returns when queries are answered; the zone follows as soon as an apiserver answers."""
        config = self._config
        try:
            self._listeners.bind(config.bind_addresses, config.port)
            metrics_port = 0
            if config.healthz_bind_address:
                host, port = split_address(config.healthz_bind_address, METRICS_PORT)
                metrics_port = await self._health.start(host, port)
                self._health_address = join_address(host, metrics_port)
        except OSError:
            await self._listeners.stop()
            raise
        client = self._client = ApiClient(config.api_servers, config.tls)
        own = [(address, self._listeners.port) for address in config.bind_addresses]
        self.forwarder.upstreams.own = {*own, *((address, DNS_PORT) for address in config.cluster_dns)}
        self.forwarder.look()
        services = Informer(client, builtin("v1", "Service"))
        slices = Informer(client, builtin("discovery.k8s.io/v1", "EndpointSlice"))
        namespaces = Informer(client, builtin("v1", "Namespace"))
        services.add_batch_handler(self._on_services)
        slices.add_batch_handler(self._on_slices)
        namespaces.add_batch_handler(self._on_namespaces)
        informers = [services, slices, namespaces]
        await self._listeners.start()
        for work in (*(informer.run() for informer in informers), self.forwarder.watch_for_loops()):
            self._spawn(work)
        if config.cluster_dns:
            self._registrar = Registrar(
                client,
                services,
                slices,
                node=self._node,
                cluster_ips=config.cluster_dns,
                addresses=config.bind_addresses,
                port=self._listeners.port,
                metrics_port=metrics_port,
            )
        self._registering = self._spawn(self._join(informers))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    async def _join(self, informers: list[Informer]) -> None:
        """Answers for the zone once it is whole, and only then becomes an endpoint of the Service."""
        for informer in informers:
            await informer.synced()
        self.responder.synced = True
        log.info("%d Services known, answering for %s", len(self.zone), self.zone.domain)
        if self._registrar is not None:
            await self._registrar.run()
        await self._stopped.wait()

    # What informers tell

    def _on_services(self, changes: list[Change]) -> None:
        for change in changes:
            self.zone.set_service(_key(change), change.new)

    def _on_slices(self, changes: list[Change]) -> None:
        for change in changes:
            self.zone.set_slice(_key(change), change.new)

    def _on_namespaces(self, changes: list[Change]) -> None:
        for change in changes:
            self.zone.set_namespace(_key(change)[1], change.new is not None)

    # Health

    def _problem(self) -> str | None:
        if self._stopping:
            return "stopping"
        if not self.responder.synced:
            return "waiting for an apiserver"
        if any(task.done() for task in self._tasks):
            return "a part of the server has ended"
        return None

    def _alive(self) -> web.Response:
        return web.Response(text="OK")

    def _ready(self) -> web.Response:
        problem = self._problem()
        return web.Response(text="OK") if problem is None else web.Response(status=503, text=f"{problem}\n")

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended a part of the service."""
        await until_stopped(self._stopped, self._tasks)

    async def stop(self) -> None:
        """Leaves the Service, answers on for the lame duck's time, then ends."""
        if not self._stopping and self._registrar is not None and self.responder.synced:
            self._stopping = True
            await self._end(self._registering)
            if await self._registrar.leave():
                await asyncio.sleep(self._config.lameduck)
                await self._registrar.remove()
        self._stopping = True
        self._stopped.set()
        await self._end(*self._tasks)
        self._tasks.clear()
        await self._listeners.stop()
        await self._answers.stop()
        await self.forwarder.stop()
        await self._health.stop()
        if self._client is not None:
            await self._client.close()
            self._client = None

    @staticmethod
    async def _end(*tasks: "asyncio.Task[None] | None") -> None:
        given = [task for task in tasks if task is not None]
        for task in given:
            task.cancel()
        await asyncio.gather(*given, return_exceptions=True)

    def status(self) -> dict[str, object]:
        looping = [join_address(*address) for address in self.forwarder.upstreams.looping]
        detail = f"DNS of {len(self.zone)} Services" if self.responder.synced else "DNS waits for an apiserver"
        if looping:
            detail += f", {', '.join(looping)} left out: it asks this cluster's DNS"
        elif not self.forwarder.upstreams.addresses:
            detail += ", no upstream server"
        addresses = {f"dns {host}": join_address(host, self._listeners.port) for host in self._config.bind_addresses}
        if self._health_address:
            addresses["healthz"] = self._health_address
        return {"role": "active", "healthy": self._problem() is None, "detail": detail, "addresses": addresses}

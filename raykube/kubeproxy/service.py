"""kube-proxy as a service: follows Services, EndpointSlices and Nodes, and keeps this node's frontends what they say.

    informers ──batches──► Table (dirty Services) ──sync──► NftProxier (rules in the kernel) or Proxier (sockets)
    own Node  ───────────► zone, pod networks, addresses of node ports, the relay and its annotation
    other Nodes ─────────► where their relays are

While no apiserver answers, everything goes on as it was last known.
"""

import asyncio
import logging
import os
import socket
import ssl
from contextlib import suppress
from typing import Any

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.base.clock import parse_rfc3339
from raykube.client.api import ApiClient
from raykube.client.core.eventlog import Reference
from raykube.client.core.listwatch import Change
from raykube.client.events import EventRecorder
from raykube.client.informer import Informer
from raykube.kubeproxy.config import Config
from raykube.kubeproxy.core.healthcheck import eligible
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.nftables.layout import TABLE, Options
from raykube.kubeproxy.core.reach import RELAY_ANNOTATION, NodeAddresses, RelayMode, is_loopback_network
from raykube.kubeproxy.core.rules import Object, Rule
from raykube.kubeproxy.core.table import Table
from raykube.kubeproxy.dial import Dialer
from raykube.kubeproxy.health import health_server
from raykube.kubeproxy.healthchecks import HealthChecks
from raykube.kubeproxy.host_addresses import chosen, local_addresses
from raykube.kubeproxy.mode import NFTABLES, USERSPACE, choose
from raykube.kubeproxy.nft_proxier import NftProxier, cleanup
from raykube.kubeproxy.proxier import Proxier
from raykube.kubeproxy.relay import Relay
from raykube.nftables.kernel import Kernel, KernelError
from raykube.rpc import Tls
from raykube.rpc.clock import SystemClock
from raykube.rpc.lifetime import until_stopped
from raykube.rpc.listen import join_address, split_address
from raykube.rpc.tls import client_context, server_context

log = logging.getLogger(__name__)

TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"  # such Services are another proxy's
HEADLESS_LABEL = "service.kubernetes.io/headless"
ANNOUNCE = Backoff(initial_s=0.5, max_s=30.0)


def _key(obj: Object) -> tuple[str, str]:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Service:
    """One kube-proxy."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._node = config.hostname_override or socket.gethostname().lower()
        # Machines of one computer reach each other's loopback addresses: nobody needs a relay, or the other Nodes.
        self._mode: RelayMode = "never" if config.relay == "auto" and config.shared_host else config.relay
        self._nodes: dict[str, NodeAddresses] = {}
        self._table = Table(self._node)
        self._wake = asyncio.Event()
        self._node_news = asyncio.Event()
        self._triggers: list[float] = []
        self._synced = False
        self._tasks: list[asyncio.Task[None]] = []
        self._client: ApiClient | None = None
        self._recorder: EventRecorder | None = None
        self._proxier: Proxier | NftProxier | None = None
        self._relay: Relay | None = None
        self._health_address = ""
        self._eligible = True  # for new traffic, as the Node says
        self._health = health_server(
            self._metrics, lambda: self.healthy, lambda: self._eligible, self._clock, lambda: self.proxy_mode
        )
        self._health_checks = HealthChecks(lambda: self.healthy, self._clock, self._on_health_check_failure)
        self._health_addresses: list[str] = []
        self._stopped = asyncio.Event()

    @property
    def proxy_mode(self) -> str:
        """What serves: "nftables" or "userspace"."""
        return NFTABLES if isinstance(self._proxier, NftProxier) else USERSPACE

    async def start(self) -> None:
        """Returns when health is served; rules follow as soon as an apiserver answers."""
        config = self._config
        kernel = Kernel()
        if config.cleanup:
            await self._clean_up(kernel)
            return
        tls = config.tls
        # Relays are known by their user name, not by an address: machines come and go.
        context = client_context(tls, check_hostname=False) if tls is not None else None
        if config.healthz_bind_address:
            host, port = split_address(config.healthz_bind_address, 10256)
            self._health_address = join_address(host, await self._health.start(host, port))
        client = self._client = ApiClient(config.api_servers, tls)
        recorder = self._recorder = EventRecorder(client, "kube-proxy", self._node)
        # As a kubelet's, its events name the node by its name where other objects have a uid; upstream's says no more.
        recorder.record(Reference("v1", "Node", "", self._node, self._node), "Normal", "Starting", "")
        runs = [recorder.run()]
        if families := await choose(config, kernel):
            self._mode = "never"
            options = Options(1 << config.masquerade_bit, config.masquerade_all, tuple(config.cluster_cidr))
            proxier = NftProxier(self._table, kernel, families, options, self._metrics, self._clock)
            self._proxier = proxier
            runs.append(self._watch_over(proxier))
        else:
            self._proxier = self._userspace(recorder, context)
        informers = self._informers(client)
        runs += [informer.run() for informer in informers]
        runs.append(self._follow(self._proxier, informers))
        if tls is not None and self._mode != "never":
            runs.append(self._keep_relay(client, tls))
        self._tasks = [asyncio.get_running_loop().create_task(run) for run in runs]

    async def clear(self) -> None:
        """Removes this machine's rules, which outlive the proxy: it is no node any more. Needs no start."""
        if self._config.proxy_mode == USERSPACE or os.geteuid() != 0:
            return
        try:
            await self._clean_up(Kernel())
        except KernelError as error:
            log.debug("no nftables here: %s", error)

    async def _clean_up(self, kernel: Kernel) -> None:
        try:
            for family in await cleanup(kernel):
                log.info("removed the table %s %s", family, TABLE)
        finally:
            await kernel.stop()
            self._stopped.set()

    def _on_health_check_failure(self, key: tuple[str, str], port: int, advice: str) -> None:
        service = self._table.service(key)
        if service is not None and self._recorder is not None:
            message = f"node {self._node} cannot serve the health-check node port {port}: {advice}"
            self._recorder.record(service, "Warning", "FailedToStartServiceHealthcheck", message)

    def _userspace(self, recorder: EventRecorder, context: ssl.SSLContext | None) -> Proxier:
        def on_bind_failure(rule: Rule, frontend: str, advice: str) -> None:
            log.warning("Service %s/%s: %s", *rule.service, advice)
            service = self._table.service(rule.service)
            if service is not None:
                message = f"node {self._node} cannot serve the {rule.kind} {frontend}: {advice}"
                recorder.record(service, "Warning", "FailedToBind", message)

        dialer = Dialer(
            self._node, self._nodes, mode=self._mode, context=context, timeout_s=self._config.connect_timeout
        )
        return Proxier(
            self._table,
            dialer,
            self._nodes,
            mode=self._mode,
            shared=self._config.shared_host,
            udp_idle_s=self._config.conntrack_udp_timeout,
            metrics=self._metrics,
            clock=self._clock,
            on_bind_failure=on_bind_failure,
        )

    def _informers(self, client: ApiClient) -> list[Informer]:
        services = Informer(client, builtin("v1", "Service"), label_selector=f"!{PROXY_NAME_LABEL}")
        slices = Informer(
            client,
            builtin("discovery.k8s.io/v1", "EndpointSlice"),
            label_selector=f"!{HEADLESS_LABEL},!{PROXY_NAME_LABEL}",
        )
        only = f"metadata.name={self._node}" if self._mode == "never" else ""
        nodes = Informer(client, builtin("v1", "Node"), field_selector=only)
        services.add_batch_handler(self._on_services)
        slices.add_batch_handler(self._on_slices)
        nodes.add_batch_handler(self._on_nodes)
        return [services, slices, nodes]

    # What informers tell

    def _on_services(self, changes: list[Change]) -> None:
        for change in changes:
            self._table.set_service(_key(change.object), change.new)
        self._metrics.service_changes += len(changes)
        self._queue_sync()

    def _on_slices(self, changes: list[Change]) -> None:
        for change in changes:
            self._table.set_slice(_key(change.object), change.new)
            if self._synced and change.new is not None:
                annotations = change.new["metadata"].get("annotations") or {}
                with suppress(ValueError):  # anybody may write the annotation, and it feeds a metric only
                    if TRIGGER_ANNOTATION in annotations and len(self._triggers) < 10_000:
                        self._triggers.append(parse_rfc3339(annotations[TRIGGER_ANNOTATION]))
        self._metrics.endpoint_changes += len(changes)
        self._queue_sync()

    def _on_nodes(self, changes: list[Change]) -> None:
        changed = own = False
        for change in changes:
            name = change.object["metadata"]["name"]
            own |= name == self._node
            if name == self._node and change.new is not None:
                self._eligible = eligible(change.new)
            addresses = NodeAddresses.of(change.new) if change.new is not None else None
            if addresses == self._nodes.get(name):
                continue  # a heartbeat
            changed = True
            if addresses is None:
                del self._nodes[name]
            else:
                self._nodes[name] = addresses
        if own:
            self._node_news.set()
        if own or not self._synced:
            self._set_node()
        if changed or own:
            self._queue_sync()

    def _set_node(self) -> None:
        known = self._nodes.get(self._node) or NodeAddresses((), "")
        addresses = chosen(self._config.nodeport_addresses, known.internal_ips, local_addresses())
        networks = self._config.cluster_cidr or [text for text in known.pod_networks if not is_loopback_network(text)]
        assert self._proxier is not None
        self._proxier.set_node(known.zone, addresses, networks)
        self._health_addresses = addresses

    def _queue_sync(self) -> None:
        if not self._wake.is_set():
            self._metrics.last_queued = self._clock.now()
            self._wake.set()

    # What follows from it

    async def _follow(self, proxier: Proxier | NftProxier, informers: list[Informer]) -> None:
        """Syncs whenever something changed, or what failed is to be tried again."""
        for informer in informers:
            await informer.synced()
        if not self._synced:
            self._set_node()
        last = -self._config.min_sync_period
        while True:
            retries = (proxier.next_retry(), self._health_checks.next_retry())
            retry_at = min((each for each in retries if each is not None), default=None)
            pause_s = None if retry_at is None else max(0.05, retry_at - self._clock.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if not self._synced and retry_at is None else pause_s):
                    await self._wake.wait()
            # The first of a burst is served at once; the rest of it together.
            if (early_s := last + self._config.min_sync_period - self._clock.monotonic()) > 0:
                await asyncio.sleep(early_s)
            last = self._clock.monotonic()
            self._wake.clear()
            triggers, self._triggers = self._triggers, []
            await proxier.sync()
            await self._health_checks.apply(self._table.health_checks, self._health_addresses)
            if proxier.next_retry() is None or isinstance(proxier, Proxier):
                self._synced = True
            now = self._clock.now()
            for trigger in triggers:
                self._metrics.programming_s.observe(max(0.0, now - trigger))

    async def _watch_over(self, proxier: NftProxier) -> None:
        """Looks now and then whether the rules are still there."""
        while True:
            await asyncio.sleep(self._config.sync_period)
            if self._synced and not await proxier.intact():
                self._queue_sync()

    async def _keep_relay(self, client: ApiClient, tls: Tls) -> None:
        """Listens for other hosts' proxies once this node's address is known, and says where on the Node."""
        failures = 0
        while True:
            await self._node_news.wait()
            self._node_news.clear()
            own = self._nodes.get(self._node)
            if own is None or not own.internal_ips or (self._mode == "auto" and own.loopback):
                continue
            try:
                if self._relay is None:
                    relay = Relay(
                        server_context(tls), self._table.is_local, connect_timeout_s=self._config.connect_timeout
                    )
                    await relay.start(self._config.relay_bind_address or own.internal_ips[0], self._config.relay_port)
                    self._relay = relay
                if own.relay != self._relay.address:
                    annotations: dict[str, Any] = {"annotations": {RELAY_ANNOTATION: self._relay.address}}
                    await client.patch(builtin("v1", "Node"), "", self._node, {"metadata": annotations})
                failures = 0
            except (OSError, ValueError, ApiError) as error:
                failures += 1
                log.warning("no relay for other hosts: %s", error)
                await asyncio.sleep(ANNOUNCE.delay_s(failures))
                self._node_news.set()

    @property
    def healthy(self) -> bool:
        """Rules are in place, and nothing that keeps them so has ended."""
        if isinstance(self._proxier, NftProxier) and self._proxier.failing:
            return False
        return self._synced and not any(task.done() for task in self._tasks)

    async def wait(self) -> None:
        """Returns after `stop`; raises what ended a part of the service."""
        await until_stopped(self._stopped, self._tasks)

    async def stop(self) -> None:
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._relay is not None:
            await self._relay.stop()
        if self._proxier is not None:
            await self._proxier.stop()
        await self._health_checks.stop()
        await self._health.stop()
        if self._client is not None:
            await self._client.close()
            self._client = None

    def status(self) -> dict[str, object]:
        frontends = self._proxier.served if self._proxier else 0
        unbound = len(self._proxier.unbound) if self._proxier else 0
        detail = f"{frontends} addresses served" if self._synced else "waiting for an apiserver"
        addresses: dict[str, str] = {}
        if self._health_address:
            addresses["healthz"] = self._health_address
        if self._relay is not None:
            addresses["relay"] = self._relay.address
        return {
            "role": "active",
            "healthy": self.healthy,
            "detail": f"{detail}, {unbound} cannot be bound" if unbound else detail,
            "addresses": addresses,
        }

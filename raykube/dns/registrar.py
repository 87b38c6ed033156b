"""Keeps Service kube-system/kube-dns and this server's EndpointSlices what `core.registration` wants.

informers ──dirty──► own Service and slices ──writes──► apiserver
elected only: Nodes ──ready or not──► slices of servers whose machine is lost
"""

import asyncio
import logging
import socket
import uuid
from contextlib import suppress

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change
from raykube.client.informer import Informer
from raykube.client.leader import LeaderElector
from raykube.dns.core import registration
from raykube.dns.core.registration import NAMESPACE, SERVICE, Object

log = logging.getLogger(__name__)

RETRY = Backoff(initial_s=0.2, max_s=30.0)
LEASE = "kube-dns"
LEASE_S, RENEW_S, RETRY_S = 30.0, 20.0, 8.0  # a machine that is lost is noticed by its Node after longer than that
LEAVE_S = 1.0  # how long a server that stops waits for an apiserver


class Registrar:
    """One server's place in the Service."""

    def __init__(
        self,
        client: ApiClient,
        services: Informer,
        slices: Informer,
        *,
        node: str,
        cluster_ips: list[str],
        addresses: list[str],
        port: int,
        metrics_port: int,
    ) -> None:
        self._client = client
        self._services = services
        self._slices = slices
        self._node = node
        self._cluster_ips = cluster_ips
        self._addresses = addresses
        self._port = port
        self._metrics_port = metrics_port
        self._stopping = False
        self._said = ""
        self._repairs = registration.Repairs()
        self._repair_in_s: float | None = None  # when a slice of ours that somebody undid is due
        self._wake = asyncio.Event()
        self._nodes: dict[str, bool] | None = None  # while elected
        self._watching: asyncio.Task[None] | None = None
        self._slice_resource = builtin("discovery.k8s.io/v1", "EndpointSlice")
        services.add_batch_handler(self._on_services)
        slices.add_index("ours", lambda obj: ["1"] if registration.is_ours(obj) else [])
        slices.add_batch_handler(self._on_slices)

    def _on_services(self, changes: list[Change]) -> None:
        if any(
            c.object["metadata"]["name"] == SERVICE and c.object["metadata"]["namespace"] == NAMESPACE for c in changes
        ):
            self._wake.set()

    def _on_slices(self, changes: list[Change]) -> None:
        if any(registration.is_ours(change.object) for change in changes):
            self._wake.set()

    def _wanted(self) -> list[Object]:
        return registration.own_slices(
            self._node,
            self._addresses,
            self._port,
            self._metrics_port,
            self._services.get(NAMESPACE, SERVICE),
            stopping=self._stopping,
        )

    async def run(self) -> None:
        """Until cancelled; waits for the informers first."""
        await self._services.synced()
        await self._slices.synced()
        identity = f"{self._node}_{socket.gethostname()}_{uuid.uuid4()}"
        elector = LeaderElector(
            self._client, LEASE, identity, LEASE_S, RENEW_S, RETRY_S,
            on_started=self._on_elected, on_stopped=self._on_unelected,
        )  # fmt: skip
        electing = asyncio.get_running_loop().create_task(elector.run())
        failures = 0
        try:
            while True:
                self._wake.clear()
                self._repair_in_s = None
                try:
                    if await self._reconcile():
                        await self._sweep()
                    failures = 0
                except ApiError as error:
                    failures += 1
                    log.log(logging.WARNING if failures in (3, 10) else logging.DEBUG, "cannot register: %s", error)
                    await asyncio.sleep(RETRY.delay_s(failures))
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._repair_in_s):
                        await self._wake.wait()
        finally:
            electing.cancel()
            if self._watching is not None:
                self._watching.cancel()
            await asyncio.gather(electing, *([self._watching] if self._watching else []), return_exceptions=True)

    async def _reconcile(self) -> bool:
        """Makes what is missing; returns whether the Service is ours. Raises ApiError."""
        present = self._services.get(NAMESPACE, SERVICE)
        if present is None:
            await self._create(registration.service(self._cluster_ips, self._metrics_port))
            return False  # the informer tells of it, with its uid
        if registration.is_foreign(present):
            self._say(f"Service {NAMESPACE}/{SERVICE} selects pods: this server is not among its endpoints")
            return False
        ips = (present.get("spec") or {}).get("clusterIPs") or []
        if ips != self._cluster_ips:
            self._say(f"Service {NAMESPACE}/{SERVICE} has the addresses {ips}, pods ask {self._cluster_ips}: delete it")
        for wanted in self._wanted():
            await self._write(wanted)
        return True

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("%s", text)

    async def _write(self, wanted: Object) -> None:
        name = wanted["metadata"]["name"]
        there = self._slices.get(NAMESPACE, name)
        if there is not None and not registration.differs(wanted, there):
            return
        now = asyncio.get_running_loop().time()
        if wait_s := self._repairs.wait_s(wanted, now):
            self._repair_in_s = min(wait_s, self._repair_in_s or wait_s)
            return
        try:
            await self._client.patch(self._slice_resource, NAMESPACE, name, registration.change(wanted))
        except ApiError as error:
            if error.code != 404:
                raise
            await self._create(wanted)
        self._repairs.on_written(wanted, now)

    async def _create(self, obj: Object) -> None:
        """Creates the object; another server may have been faster."""
        try:
            await self._client.create(obj)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def _delete(self, name: str) -> None:
        """Deletes a slice that may be gone already."""
        try:
            await self._client.delete(self._slice_resource, NAMESPACE, name)
        except ApiError as error:
            if error.code != 404:
                raise

    # While elected

    def _on_elected(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch_nodes())

    def _on_unelected(self) -> None:
        self._nodes = None
        if self._watching is not None:
            self._watching.cancel()

    async def _watch_nodes(self) -> None:
        ready: dict[str, bool] = {}

        def on_nodes(changes: list[Change]) -> None:
            news = False
            for change in changes:
                name = change.object["metadata"]["name"]
                state = registration.node_ready(change.new) if change.new is not None else None
                if ready.get(name) == state:
                    continue  # a heartbeat
                news = True
                if state is None:
                    del ready[name]
                else:
                    ready[name] = state
            if news:
                self._wake.set()

        informer = Informer(self._client, builtin("v1", "Node"))
        informer.add_batch_handler(on_nodes)
        running = asyncio.get_running_loop().create_task(informer.run())
        try:
            await informer.synced()
            self._nodes = ready
            self._wake.set()
            await running
        finally:
            running.cancel()

    async def _sweep(self) -> None:
        """What servers cannot say of themselves. Raises ApiError."""
        if self._nodes is None:
            return
        others = [obj for obj in self._slices.by_index("ours", "1") if registration.node_of(obj) != self._node]
        mark, remove = registration.stale(others, self._nodes)
        for obj in mark:
            name = obj["metadata"]["name"]
            log.info("the DNS server of node %s is out of service with its node", registration.node_of(obj))
            body = {"endpoints": registration.marked(obj)["endpoints"]}
            await self._client.patch(self._slice_resource, NAMESPACE, name, body)
        for obj in remove:
            await self._delete(obj["metadata"]["name"])

    # The end

    async def leave(self) -> bool:
        """Says that this server stops; whether anybody was told, so that it is worth to answer on for a while."""
        self._stopping = True
        told = False
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                for wanted in self._wanted():
                    name = wanted["metadata"]["name"]
                    if self._slices.get(NAMESPACE, name) is not None:
                        await self._client.patch(
                            self._slice_resource, NAMESPACE, name, {"endpoints": wanted["endpoints"]}
                        )
                        told = True
        return told

    async def remove(self) -> None:
        """Takes this server's slices away."""
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                for wanted in self._wanted():
                    name = wanted["metadata"]["name"]
                    if self._slices.get(NAMESPACE, name) is not None:
                        await self._delete(name)

"""This apiserver's place among the live ones: renews its Lease, removes dead ones, publishes the rest.

Publishing is idempotent and every apiserver does it: what is written depends on the Leases alone.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.apiserver.core import endpoints, planning
from raykube.apiserver.core.endpoints import Instance
from raykube.apiserver.core.item import Change
from raykube.apiserver.core.options import DeleteOptions
from raykube.apiserver.core.planning import Operation
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.reader import Reader
from raykube.apiserver.writer import Writer
from raykube.base.ids import uid
from raykube.pb import api_pb2

log = logging.getLogger(__name__)

LEASES = builtin("coordination.k8s.io/v1", "Lease")
ENDPOINTS = builtin("v1", "Endpoints")
SLICES = builtin("discovery.k8s.io/v1", "EndpointSlice")
_RENEWALS = 3  # tries within one duration


class Membership:
    """Keeps the list of live apiservers."""

    def __init__(self, reader: Reader, writer: Writer, duration_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._duration_s = duration_s
        self._own: Instance | None = None
        self._uid = uid(os.urandom(16))
        self._changed = asyncio.Event()
        self._followers: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._live: list[Instance] = []
        reader.cache(LEASES).listeners.append(self._on_lease)

    def _on_lease(self, change: Change) -> None:
        if change.key.startswith(f"{endpoints.NAMESPACE}/{endpoints.PREFIX}"):
            self._changed.set()

    async def start(self, own: Instance) -> None:
        """Joins: from here on this apiserver is published."""
        self._own = own
        await self._renew()
        await self._reader.store.fresh()
        await self._publish()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Leaves: gives the Lease up and takes the address off the endpoints. Never waits long for a dead store."""
        if self._task is None or self._own is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        try:
            async with asyncio.timeout(2):
                await self._remove(self._own.name)
                await self._reader.store.fresh()
                await self._publish()
        except (ApiError, TimeoutError) as error:
            log.warning("the lease of this apiserver is left to expire: %s", error)

    async def _run(self) -> None:
        renew_at = time.monotonic() + self._duration_s / _RENEWALS
        while True:
            now = time.monotonic()
            self._changed.clear()
            try:
                if now >= renew_at:
                    renew_at = now + self._duration_s / _RENEWALS
                    await self._renew()
                await self._publish()
            except ApiError as error:
                log.warning("cannot publish the apiservers: %s", error)
                renew_at = time.monotonic() + min(1.0, self._duration_s / _RENEWALS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, renew_at - time.monotonic())):
                    await self._changed.wait()

    async def _renew(self) -> None:
        assert self._own is not None
        lease = self._own.lease(time.time(), self._duration_s, self._uid)
        op = Operation(planning.UPDATE, LEASES, endpoints.NAMESPACE, self._own.name, body=lease, validation="Ignore")
        outcome = (await self._writer.run([op]))[0]
        if outcome.code == 404:
            created = Operation(planning.CREATE, LEASES, endpoints.NAMESPACE, body=lease, validation="Ignore")
            outcome = (await self._writer.run([created]))[0]
        if outcome.code >= 400 and outcome.code != 409:
            raise ApiError.unavailable(f"the lease of this apiserver cannot be renewed: {outcome.body.decode()}")

    async def _remove(self, name: str, version: str = "") -> None:
        deletion = DeleteOptions(resource_version=version)
        await self._writer.run([Operation(planning.DELETE, LEASES, endpoints.NAMESPACE, name, deletion=deletion)])

    async def _publish(self) -> None:
        live = await self._find_live()
        if live != self._live:
            self._live = live
            for follower in self._followers:
                follower.set()
        if not live:
            return
        await self._ensure(ENDPOINTS, endpoints.endpoints(live), "subsets")
        wanted = endpoints.slices(live)
        for each in wanted:
            await self._ensure(SLICES, each, "endpoints")
        names = {each["metadata"]["name"] for each in wanted}
        for item in list(self._reader.cache(SLICES).items("default")):
            labels = item.parsed()["metadata"].get("labels") or {}
            if labels.get("kubernetes.io/service-name") == "kubernetes" and item.name not in names:
                await self._writer.run([Operation(planning.DELETE, SLICES, "default", item.name)])

    async def _find_live(self) -> list[Instance]:
        """The instances whose Lease runs; Leases that ended are removed, unless they were renewed meanwhile."""
        now = time.time()
        live = []
        for item in list(self._reader.cache(LEASES).items(endpoints.NAMESPACE)):
            if not item.name.startswith(endpoints.PREFIX):
                continue
            lease = item.parsed()
            if not endpoints.is_apiserver(lease):
                continue
            if endpoints.expires_at(lease) < now and not (self._own is not None and item.name == self._own.name):
                log.info("apiserver %s is gone", item.name)
                await self._remove(item.name, str(item.revision))
                continue
            found = endpoints.instance_of(lease)
            if found is not None:
                live.append(found)
        return sorted(live, key=lambda each: each.name)

    async def _ensure(self, resource: Resource, wanted: Object, field: str) -> None:
        """Creates or updates an object so that `field` is as wanted."""
        name = wanted["metadata"]["name"]
        item = self._reader.cache(resource).get(f"default/{name}")
        if item is None:
            op = Operation(planning.CREATE, resource, "default", body=wanted, validation="Ignore")
        else:
            stored = item.decode()
            if stored.get(field, []) == wanted[field]:
                return
            stored[field] = wanted[field]
            if "ports" in wanted:
                stored["ports"] = wanted["ports"]
            op = Operation(planning.UPDATE, resource, "default", name, body=stored, validation="Ignore")
        outcome = (await self._writer.run([op]))[0]
        if outcome.code >= 400 and outcome.code != 409:
            log.warning("cannot write %s %s: %s", resource.kind, name, outcome.body.decode())

    # -- readers

    async def follow(self) -> AsyncIterator[list[api_pb2.Endpoint]]:
        """The live apiservers: at once, and again whenever they change."""
        changed = asyncio.Event()
        self._followers.add(changed)
        try:
            while True:
                yield [api_pb2.Endpoint(name=e.name, address=e.grpc, https_address=e.https) for e in self._live]
                await changed.wait()
                changed.clear()
        finally:
            self._followers.discard(changed)

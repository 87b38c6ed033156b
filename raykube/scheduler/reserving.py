"""Reserves volumes and devices for pods before they are bound, and waits until their volume claims are.

A volume is reserved for a claim (`spec.claimRef`), or a provisioner is told the node; then the controller binds the
claims. What was reserved stays with its claim when something fails on the way, and the next decision finds it there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.api.volumes import BOUND_BY_CONTROLLER, SELECTED_NODE
from raykube.base.clock import Clock
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.failures import error_of_body
from raykube.pb import api_pb2
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.devices import Grant
from raykube.scheduler.core.intake import device_news
from raykube.scheduler.core.queue import Pending, PodQueue
from raykube.scheduler.core.volumes import Reservation
from raykube.scheduler.granting import Granting

CLAIMS_LOOK_S = 10.0  # a pod that was deleted is noticed by then
CLAIMS, VOLUMES = builtin("v1", "PersistentVolumeClaim"), builtin("v1", "PersistentVolume")

ClaimKey = tuple[str, str]  # namespace, name


class Reserving:
    """The pods that wait for their claims."""

    def __init__(
        self, client: ApiClient, cluster: Cluster, queue: PodQueue, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._queue = queue
        self._clock = clock
        self._wake = wake
        self.granting = Granting(client, cluster, self.tell_devices)
        self._waiters: dict[ClaimKey, set[asyncio.Event]] = {}  # of pods, by the claims that they wait for

    def on_claim(self, key: ClaimKey) -> None:
        """A claim changed: pods that wait for it look again."""
        for changed in self._waiters.get(key, ()):
            changed.set()

    def tell_devices(self) -> None:
        """Pods that devices, or what became of a claim, may help are tried again."""
        now = self._clock.monotonic()
        event = device_news(self._cluster.devices, self._queue, now)
        if event:
            self._queue.on_event(event, now)
        self._wake()

    async def reserve(self, pending: Pending, reservations: tuple[Reservation | Grant, ...]) -> str | None:
        """None once the pod has all that it claims, else what went wrong: "" for a pod that was deleted meanwhile."""
        volumes = tuple(one for one in reservations if isinstance(one, Reservation))
        grants = tuple(one for one in reservations if isinstance(one, Grant))
        problem = await self._reserve(pending, volumes) if volumes else None
        if problem is not None:
            return problem and f'running PreBind plugin "VolumeBinding": binding volumes: {problem}'
        problem = await self.granting.grant(grants) if grants else ""
        return f'running PreBind plugin "DynamicResources": {problem}' if problem else None

    async def _reserve(self, pending: Pending, reservations: tuple[Reservation, ...]) -> str | None:
        """As `reserve`, for volumes."""
        changed = asyncio.Event()
        keys = {_claim_key(one.claim) for one in reservations}
        for key in keys:
            self._waiters.setdefault(key, set()).add(changed)
        try:
            return await self._reserve_and_wait(pending, reservations, changed)
        finally:
            for key in keys:
                self._waiters[key].discard(changed)
                if not self._waiters[key]:
                    del self._waiters[key]

    async def _reserve_and_wait(
        self, pending: Pending, reservations: tuple[Reservation, ...], changed: asyncio.Event
    ) -> str | None:
        problem = await self._write(reservations)
        deadline = self._clock.monotonic() + self._cluster.profile_of(pending.pod).arguments.bind_timeout_s
        while not problem:
            changed.clear()
            if self._queue.get(pending.pod.uid) is not pending:
                return ""
            state = self._cluster.volumes.bound(reservations)
            if state:
                return None
            if state is False:
                problem = "the claims changed"
            elif self._clock.monotonic() >= deadline:
                problem = "context deadline exceeded"
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLAIMS_LOOK_S):
                        await changed.wait()
        return problem

    async def _write(self, reservations: tuple[Reservation, ...]) -> str:
        """What went wrong; "" when all was written."""
        batch = [_written(one) for one in reservations if not one.assumed]
        try:
            results = await self._client.write(batch) if batch else []
        except ApiError as error:
            return str(error)
        failed = [result for result in results if result.code >= 400]
        return str(error_of_body(failed[0].body, failed[0].code)) if failed else ""


def _claim_key(claim: operations.Object) -> ClaimKey:
    return claim["metadata"]["namespace"], claim["metadata"]["name"]


def _written(reservation: Reservation) -> api_pb2.Operation:
    """A volume's reservation for a claim, or a claim's node; of exactly the state that was decided on."""
    claim, volume, node, _ = reservation
    metadata = claim["metadata"]
    if volume is None:
        body: operations.Object = {"metadata": {"annotations": {SELECTED_NODE: node}}}
        return operations.patch(
            CLAIMS,
            metadata["namespace"],
            metadata["name"],
            body,
            uid=metadata["uid"],
            resource_version=int(metadata.get("resourceVersion") or 0),
        )
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    body = {"spec": {"claimRef": reference}}
    if not volume["spec"].get("claimRef"):
        body["metadata"] = {"annotations": {BOUND_BY_CONTROLLER: "yes"}}
    meta = volume["metadata"]
    return operations.patch(
        VOLUMES, "", meta["name"], body, uid=meta["uid"], resource_version=int(meta.get("resourceVersion") or 0)
    )

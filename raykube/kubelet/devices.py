"""Has drivers prepare the devices of pods' ResourceClaims before their sandboxes, and takes them back at the end.

What drivers were asked for is written down before they are asked: whatever happens then, it is taken back. Drivers must
bear to be asked twice; nobody is asked again for what is known to be ready.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.deviceclaims import (
    Device,
    DevicesFailed,
    Prepared,
    cdi_names,
    digest,
    drivers_of,
    needed,
    parse,
)
from raykube.kubelet.core.pod import Object
from raykube.kubelet.cri import failure
from raykube.kubelet.drivers import Driver, Drivers
from raykube.pb import dra_pb2
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

CLAIMS = builtin("resource.k8s.io/v1", "ResourceClaim")
TIMEOUT_S = 45.0  # of a driver's answer
TIDY_S, LEFT_S = 60.0, 5.0
PREPARE, UNPREPARE = "prepare dynamic resources: ", "unprepare dynamic resources: "

Key = tuple[str, str]  # namespace, name


class Devices:
    """The claims of this node's pods. `wake(uid)`: a pod that waits for a driver, or for a claim's former devices to be
    given back, should look again.
    """

    def __init__(self, root: Path, client: ApiClient, node: str, wake: Callable[[str], None]) -> None:
        self._file = root / "prepared-claims.json"
        self._client = client
        self._wake = wake
        self._waiting: set[str] = set()
        self.drivers = Drivers(root, client, node, self._wake_waiting)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()  # those that somebody has or awaits
        self._prepared: dict[Key, Prepared] = {}
        self._read = False

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for uid in waiting:
            self._wake(uid)

    def _lock(self, key: Key) -> asyncio.Lock:
        """One for all who do something about the claim at the same time."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def prepare(self, pod: Object) -> None:
        """Raises DevicesFailed, ApiError (no apiserver says what the pod may use)."""
        if not pod["spec"].get("resourceClaims"):
            return
        self._recall()
        for one in needed(pod):
            key = pods.namespace(pod), one.claim
            async with self._lock(key):
                known = self._prepared.get(key)
                if known is not None and known.is_ready and pods.uid(pod) in known.pods:
                    continue
                claim = await self._claim(key)
                drivers = drivers_of(pod, one, claim)
                await self._ready(pods.uid(pod), claim, drivers)

    async def _claim(self, key: Key) -> Object:
        try:
            return await self._client.get(CLAIMS, *key)
        except ApiError as error:
            if error.code != 404:
                raise
            raise DevicesFailed(f"{PREPARE}fetch ResourceClaim {key[1]}: {error}") from None

    async def _ready(self, pod: str, claim: Object, drivers: Collection[str]) -> None:
        meta = claim["metadata"]
        key = meta["namespace"], meta["name"]
        known = self._prepared.get(key)
        if known is not None and known.uid != meta["uid"]:
            raise DevicesFailed(
                f"{PREPARE}old ResourceClaim with same name {meta['name']} and different UID still exists"
            )
        if known is not None and known.allocation != digest(claim):
            if known.pods - {pod}:
                self._waiting.add(pod)
                before = f"the devices that ResourceClaim {meta['name']} had before"
                raise DevicesFailed(f"{PREPARE}{before} are not given back yet")
            await self._take_back(known, pod)
            known = None
        if known is None:
            known = self._prepared[key] = Prepared(meta["uid"], *key, digest(claim), set(), dict.fromkeys(drivers))
        known.pods.add(pod)
        self._keep()
        for name, devices in sorted(known.drivers.items()):
            if devices is None:
                known.drivers[name] = await self._ask_to_prepare(self._driver(name, pod, PREPARE), known)
        self._keep()

    def _driver(self, name: str, pod: str, doing: str) -> Driver:
        driver = self.drivers.get(name)
        if driver is None:
            self._waiting.add(pod)
            raise DevicesFailed(f"{doing}DRA driver {name} is not registered")
        return driver

    async def _ask_to_prepare(self, driver: Driver, claim: Prepared) -> tuple[Device, ...]:
        request = dra_pb2.NodePrepareResourcesRequest(claims=[_wire(claim)])
        try:
            answer = await driver.stub.NodePrepareResources(request, timeout=TIMEOUT_S)
        except RpcError as error:
            raise DevicesFailed(f"{PREPARE}NodePrepareResources: {failure(error)}") from None
        if claim.uid not in answer.claims:
            raise DevicesFailed(f"{PREPARE}NodePrepareResources skipped 1 ResourceClaims")
        result = answer.claims[claim.uid]
        if result.error:
            raise DevicesFailed(f"{PREPARE}NodePrepareResources failed for ResourceClaim {claim.name}: {result.error}")
        return tuple(Device(tuple(one.request_names), tuple(one.cdi_device_ids)) for one in result.devices)

    def cdi_names(self, pod: Object, spec: Object) -> list[str]:
        """The CDI devices of a container of a pod that is prepared."""
        if not pod["spec"].get("resourceClaims"):
            return []
        namespace = pods.namespace(pod)
        mine = {name: one for (place, name), one in self._prepared.items() if place == namespace}
        return cdi_names(pod, spec, mine)

    def are_held(self, pod: Object) -> bool:
        """Whether some may still be prepared for the pod."""
        if not pod["spec"].get("resourceClaims"):
            return False
        self._recall()
        return any(pods.uid(pod) in known.pods for known in self._prepared.values())

    async def unprepare(self, uid: str) -> None:
        """Takes back what only this pod used. Raises DevicesFailed."""
        self._recall()
        for key, known in list(self._prepared.items()):
            if uid not in known.pods:
                continue
            async with self._lock(key):
                if len(known.pods) == 1:
                    await self._take_back(known, uid)
                    del self._prepared[key]
                    self._wake_waiting()
                known.pods.discard(uid)
                self._keep()
        self._waiting.discard(uid)

    async def _take_back(self, known: Prepared, pod: str) -> None:
        for name in sorted(known.drivers):
            await self._ask_to_unprepare(self._driver(name, pod, UNPREPARE), known)
            known.drivers[name] = None

    async def _ask_to_unprepare(self, driver: Driver, claim: Prepared) -> None:
        request = dra_pb2.NodeUnprepareResourcesRequest(claims=[_wire(claim)])
        try:
            answer = await driver.stub.NodeUnprepareResources(request, timeout=TIMEOUT_S)
        except RpcError as error:
            raise DevicesFailed(f"{UNPREPARE}NodeUnprepareResources failed: {failure(error)}") from None
        if claim.uid not in answer.claims:
            raise DevicesFailed(f"{UNPREPARE}NodeUnprepareResources skipped 1 ResourceClaims")
        problem = answer.claims[claim.uid].error
        if problem:
            raise DevicesFailed(f"{UNPREPARE}NodeUnprepareResources failed for ResourceClaim {claim.name}: {problem}")

    async def tidy_forever(self, here: Callable[[], Collection[str]], runs: Callable[[str], Awaitable[bool]]) -> None:
        """Takes back what was prepared for pods that are gone. Call once the list of pods is complete.

        `here`: uids of this node's pods; `runs`: whether something of a pod still does.
        """
        self._recall()
        while True:
            left = False
            for uid in {pod for known in self._prepared.values() for pod in known.pods} - set(here()):
                try:
                    if not await runs(uid):
                        await self.unprepare(uid)
                        continue
                except (DevicesFailed, RpcError) as problem:
                    log.warning("devices of pod %s, which is gone, are not given back yet: %s", uid, problem)
                left = True
            await asyncio.sleep(LEFT_S if left else TIDY_S)

    async def close(self) -> None:
        await self.drivers.close()

    # -- the file

    def _recall(self) -> None:
        if self._read:
            return
        self._read = True
        try:
            found: Any = orjson.loads(self._file.read_bytes())
            self._prepared = {(one.namespace, one.name): one for one in parse(found)}
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, so drivers are asked anew: %s", self._file, error)

    def _keep(self) -> None:
        """Raises DevicesFailed where nothing can be written: nobody is asked for what could be forgotten."""
        content = orjson.dumps({"claims": [one.to_object() for one in self._prepared.values()]})
        aside = self._file.with_suffix(".new")
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._file)
        except OSError as error:
            raise DevicesFailed(f"{PREPARE}checkpoint ResourceClaim state: {error.strerror or error}") from None


def _wire(claim: Prepared) -> dra_pb2.Claim:
    return dra_pb2.Claim(namespace=claim.namespace, uid=claim.uid, name=claim.name)

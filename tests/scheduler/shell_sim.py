"""Whole schedulers under a simulated clock, network and apiserver: the shipped Service, Binder and informers.

One seed is one life: schedulers crash at any point and start anew, watches lag, answers are lost, writes meet pods that
have changed. After every write the store is looked at:

    no node has more than it can give · no pod changes its node · no gang is placed by half

Then all heals, and every pod that fits somewhere must have a node.
"""

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.client.core.listwatch import WatchEvent
from raykube.pb import api_pb2
from raykube.scheduler import service
from raykube.scheduler.config import Config
from tests.kit.memory_api import MemoryStore
from tests.scheduler.objects import Object, node, pod

NODES, CPU = 4, 4


class _Instant(selectors.SelectSelector):
    """Waits no time: it passes."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            assert timeout is not None, "everybody waits for somebody else"
            self.loop.now += max(0.0, timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Instant()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class VirtualClock:
    def monotonic(self) -> float:
        return asyncio.get_event_loop().time()

    def now(self) -> float:
        return 1_800_000_000.0 + self.monotonic()


class NoHealth:
    def __init__(self, *_: Any) -> None: ...

    async def start(self, *_: Any) -> int:
        return 1

    async def stop(self) -> None: ...


class World:
    """The store, and what must hold of it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.store = MemoryStore()
        self.faults = True
        self.nodes_of: dict[str, str] = {}
        self.broken: list[str] = []  # what did not hold: an assertion would be lost in a task of the scheduler
        self.binds = self.conflicts = self.lost = self.crashes = 0

    def write(self, operations: list[api_pb2.Operation], together: bool) -> list[api_pb2.Result]:
        if together and not all(self._holds(op) for op in operations):
            self.conflicts += len(operations)
            return [api_pb2.Result(code=409, body=orjson.dumps({"message": "conflict"})) for _ in operations]
        results = []
        for op in operations:
            try:
                self.store.write(op)
            except ApiError as error:
                self.conflicts += error.code == 409
                results.append(api_pb2.Result(code=error.code, body=orjson.dumps(error.status())))
            else:
                self.binds += op.verb == api_pb2.BIND
                results.append(api_pb2.Result(code=200, resource_version=self.store.revision))
        self.check({op.name for op in operations if op.verb == api_pb2.BIND})
        return results

    def _holds(self, op: api_pb2.Operation) -> bool:
        there = self.store.objects.get(("pods", op.namespace, op.name))
        return (
            there is not None
            and not there["spec"].get("nodeName")
            and there["metadata"]["resourceVersion"] == str(op.resource_version)
            and there["metadata"]["uid"] == op.uid
        )

    # What must hold

    def pods(self) -> list[Object]:
        return [obj for (plural, _, _), obj in self.store.objects.items() if plural == "pods"]

    def free(self) -> Counter[str]:
        left = Counter({f"n{number}": CPU for number in range(NODES)})
        for obj in self.pods():
            where = obj["spec"].get("nodeName")
            if where:
                left[where] -= cpu(obj)
        return left

    def check(self, bound: set[str]) -> None:
        if min(self.free().values()) < 0:
            self.broken.append(f"overcommitted: {self.free()}")
        placed: Counter[str] = Counter()
        touched = set()
        for obj in self.pods():
            where = obj["spec"].get("nodeName", "")
            uid = obj["metadata"]["uid"]
            if self.nodes_of.setdefault(uid, where) not in ("", where):
                self.broken.append(f"{uid} was moved")
            self.nodes_of[uid] = where
            if where and "schedulingGroup" in obj["spec"]:
                group = obj["spec"]["schedulingGroup"]["podGroupName"]
                placed[group] += 1
                if obj["metadata"]["name"] in bound:
                    touched.add(group)
        for group in touched:
            needed = self.store.objects["podgroups", "d", group]["spec"]["schedulingPolicy"]["gang"]["minCount"]
            if placed[group] < needed:
                self.broken.append(f"{group} has {placed[group]} of {needed}")

    def forgotten(self) -> list[str]:
        """Pods that wait though there is room for them."""
        free = self.free()
        most = max(free.values())
        waiting = [obj for obj in self.pods() if not obj["spec"].get("nodeName")]
        found = [o["metadata"]["name"] for o in waiting if "schedulingGroup" not in o["spec"] and cpu(o) <= most]
        groups = Counter(
            o["spec"]["schedulingGroup"]["podGroupName"] for o in waiting if "schedulingGroup" in o["spec"]
        )
        for group, count in groups.items():
            needed = self.store.objects["podgroups", "d", group]["spec"]["schedulingPolicy"]["gang"]["minCount"]
            if count >= needed and free.total() >= needed:  # of one cpu each
                found.append(group)
        return found


def cpu(obj: Object) -> int:
    return int(obj["spec"]["containers"][0]["resources"]["requests"]["cpu"])


class SimClient:
    """What a scheduler takes for the apiservers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: dict[asyncio.Future[None], Callable[[], object]] = {}
        self.alive = True

    async def close(self) -> None: ...

    def crash(self) -> None:
        """Writes that are under way happen now, or never."""
        self.alive = False
        for apply in self._pending.values():
            if self._world.chance.random() < 0.5:
                apply()
        self._pending.clear()

    async def write(self, batch: Any, *, return_objects: bool = False) -> list[api_pb2.Result]:
        return await self._write(list(batch), together=False)

    async def write_together(self, batch: Any) -> list[api_pb2.Result]:
        return await self._write(list(batch), together=True)

    async def _write(self, batch: list[api_pb2.Operation], together: bool) -> list[api_pb2.Result]:
        world = self._world
        key: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[key] = lambda: world.write(batch, together)
        await asyncio.sleep(world.chance.choice((0.001, 0.01, 0.2)))
        if self._pending.pop(key, None) is None:
            raise asyncio.CancelledError
        fate = world.chance.random() if world.faults else 1.0
        if fate < 0.05:
            world.lost += 1
            raise unavailable()
        results = world.write(batch, together)
        await asyncio.sleep(world.chance.choice((0.001, 0.05)))
        if fate < 0.12:
            world.lost += 1
            raise unavailable()
        return results

    async def get(self, resource: Resource, namespace: str, name: str, **_: Any) -> Object:
        await asyncio.sleep(0.01)
        found = self._world.store.objects.get((resource.plural, namespace, name))
        if found is None:
            raise ApiError.not_found(resource, name)
        return found

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: int = 0,
        decode: Callable[[bytes], Any] = orjson.loads,
        **_: Any,
    ) -> AsyncIterator[list[WatchEvent]]:
        store = self._world.store
        # Of its own: a kind that nobody writes changes nothing for the others.
        chance = random.Random(f"{self._world.seed} {self._world.crashes} {resource.plural}")
        position = store.revision
        listed = [obj for (plural, _, _), obj in store.objects.items() if plural == resource.plural]
        events = [WatchEvent("ADDED", obj, int(obj["metadata"]["resourceVersion"]), False) for obj in listed]
        yield [*events, WatchEvent("BOOKMARK", None, position, True)]
        while self.alive:
            # Each watch lags by its own time: what one knows another does not.
            await asyncio.sleep(chance.choice((0.005, 0.05, 0.5)) if self._world.faults else 0.1)
            news = [entry for entry in store.log if entry[0] > position and entry[1][0] == resource.plural]
            position = store.revision
            found = []
            for revision, _, before, after in news:
                kind = "DELETED" if after is None else "MODIFIED" if before is not None else "ADDED"
                told = decode(orjson.dumps(after if after is not None else before))
                found.append(WatchEvent(kind, told, revision, False))
            if found:
                yield found


def unavailable() -> ApiError:
    return ApiError.from_status({"code": 503, "reason": "ServiceUnavailable", "message": "connection reset by peer"})


class Life:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self._client = SimClient(self.world)
        self._service: service.Service | None = None
        self._number = 0

    async def run(self) -> World:
        world, chance = self.world, self.world.chance
        for number in range(NODES):
            world.store.put(("nodes", "", f"n{number}"), node(f"n{number}", str(CPU)))
        await self._start()
        for _ in range(40):
            await asyncio.sleep(chance.choice((0.01, 0.1, 0.6)))
            step = chance.choice((self._create, self._create, self._gang, self._touch, self._end, self._crash))
            await step()
        world.faults = False
        await asyncio.sleep(60)  # less than the queue's own look at all pods
        if world.forgotten():
            world.broken.append(f"forgotten: {world.forgotten()}, free: {world.free()}")
        await self._stop()
        return world

    async def _start(self) -> None:
        self._client = SimClient(self.world)
        made = service.Service(Config(api_servers=["sim:1"], leader_elect=False, gang_patience=1e9))
        await made.start()
        self._service = made

    async def _stop(self) -> None:
        self._client.crash()
        assert self._service is not None
        await self._service.stop()

    @property
    def client(self) -> SimClient:
        return self._client

    async def _crash(self) -> None:
        self.world.crashes += 1
        await self._stop()
        await asyncio.sleep(self.world.chance.choice((0.0, 1.0)))
        await self._start()

    async def _create(self) -> None:
        for _ in range(self.world.chance.randint(1, 3)):
            self._put(str(self.world.chance.randint(1, 2)), priority=self.world.chance.choice((0, 0, 10)))

    async def _gang(self) -> None:
        self._number += 1
        size = self.world.chance.randint(2, 5)
        name = f"g{self._number}"
        group = {"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {}}
        group["spec"] = {"schedulingPolicy": {"gang": {"minCount": size}}}
        self.world.store.put(("podgroups", "d", name), group)
        for _ in range(size):
            self._put("1", schedulingGroup={"podGroupName": name})

    def _put(self, needs: str, **more: Any) -> None:
        self._number += 1
        made = pod(f"p{self._number}", needs, **more)
        self.world.store.put(("pods", "d", made["metadata"]["name"]), made)

    async def _touch(self) -> None:
        """Somebody else writes pods meanwhile: bindings of what was read before are refused."""
        for obj in self.world.pods():
            if self.world.chance.random() < 0.3:
                self.world.store.put(("pods", "d", obj["metadata"]["name"]), obj)

    async def _end(self) -> None:
        for obj in self.world.pods():
            if self.world.chance.random() < 0.3:
                self.world.store.put(("pods", "d", obj["metadata"]["name"]), None)


def live(seed: int, patch: Callable[[Any, str, Any], None]) -> World:
    """One whole life; `patch(owner, name, value)` replaces what reaches outside."""
    loop = VirtualLoop()
    life = Life(seed)
    patch(service, "ApiClient", lambda *_: life.client)
    patch(service, "SystemClock", VirtualClock)
    patch(service, "HealthServer", NoHealth)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(life.run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()

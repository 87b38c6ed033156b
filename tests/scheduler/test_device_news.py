"""Pods that wait for devices, or for what becomes of a claim, are tried again as soon as that may help them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.rpc.clock import SystemClock
from raykube.scheduler.binder import Binder, Decision, Rejection
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.intake import CLAIMS, DEVICES, Intake
from raykube.scheduler.core.queue import PodQueue
from tests.kit.waiting import until
from tests.scheduler.device_cluster import give, user
from tests.scheduler.device_objects import claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import Object, node
from tests.scheduler.test_device_races import merged


class Claims:
    """An API that has claims, and denies writes on demand."""

    def __init__(self, objects: list[Object]) -> None:
        self.claims = {one["metadata"]["name"]: one for one in objects}
        self.denies = False

    async def write_one(self, op: Any) -> Object:
        await asyncio.sleep(0)
        if self.denies:
            raise ApiError(403, "Forbidden", "not now")
        old = self.claims[op.name]
        found = merged(old, orjson.loads(op.body))
        found["metadata"]["resourceVersion"] = str(int(old["metadata"]["resourceVersion"]) + 1)
        self.claims[op.name] = found
        return found

    async def write(self, batch: list[Any]) -> list[Any]:
        return [SimpleNamespace(code=200) for _ in batch]


class Room:
    """A node with one device; what is decided of pods is carried out only when a test says so."""

    def __init__(self, *objects: Object) -> None:
        self.cluster, self.queue = Cluster(), PodQueue()
        for one in (node("a"), resource_slice("s", "a", [device("g0")]), device_class(), *objects):
            give(self.cluster, one)
        self.cluster.devices.news()
        self.intake = Intake(self.cluster, self.queue, {"default-scheduler"})
        self.api: Any = Claims(list(objects))
        self.woken = 0
        metrics: Any = SimpleNamespace(on_attempt=lambda *_: None, on_bound=lambda *_: None)
        recorders: Any = defaultdict(lambda: SimpleNamespace(record=lambda *_: None))
        pods = builtin("v1", "Pod")
        self.binder = Binder(
            self.api, pods, self.cluster, self.queue, recorders, metrics, SystemClock(), self.wake, lambda: True
        )

    def wake(self) -> None:
        self.woken += 1

    async def decide(self, *names: str) -> list[Decision]:
        decisions = []
        for name in names:
            (pending,) = (one for one in self.queue.pop(9, 1e9) if one.pod.name == name)
            found = self.cluster.schedule(pending.pod)
            if isinstance(found, Placement):
                decisions.append(Decision(pending, found.node, found.reservations))
            else:
                await self.binder.reject([Rejection(pending, found)])
        await until(lambda: not self.binder._tasks)
        return decisions

    async def come(self, name: str, claim: str, **more: Any) -> list[Decision]:
        self.intake.on_pod(user(name, claim, **more), 0.0, 0.0)
        return await self.decide(name)

    def gone(self, name: str) -> None:
        """As the service does it."""
        event = self.intake.on_pod_gone(f"uid-{name}") | self.intake.device_news(0.0)
        self.queue.on_event(event, 0.0)

    def waits(self, name: str) -> bool:
        pending = self.queue.get(f"uid-{name}")
        assert pending is not None
        return pending.place == "unschedulable"


@pytest.fixture
async def rooms() -> AsyncIterator[list[Room]]:
    found: list[Room] = []
    yield found
    for room in found:
        await room.binder.close()


def room_of(rooms: list[Room], *objects: Object) -> Room:
    rooms.append(Room(*objects))
    return rooms[-1]


OTHERS = pytest.mark.parametrize("others", ["c1", "c0"])  # it waits for the device, or for the same claim


@OTHERS
async def test_a_pod_that_goes_before_its_devices_are_written_lets_others_have_them(
    rooms: list[Room], others: str
) -> None:
    room = room_of(rooms, claim("c0", exactly()), claim("c1", exactly()))
    assert await room.come("p0", "c0") and not await room.come("p1", others)
    assert room.waits("p1")
    room.gone("p0")
    assert not room.waits("p1")


async def test_who_shares_a_claim_that_takes_nothing_from_others_is_told_too(rooms: list[Room]) -> None:
    room = room_of(rooms, claim("c0", exactly(adminAccess=True)))
    assert await room.come("p0", "c0") and not await room.come("p1", "c0")
    room.gone("p0")
    assert not room.waits("p1")


@OTHERS
@pytest.mark.parametrize("gone", [False, True])
async def test_devices_whose_write_is_denied_are_for_others(rooms: list[Room], others: str, gone: bool) -> None:
    room = room_of(rooms, claim("c0", exactly()), claim("c1", exactly()))
    (decision,) = await room.come("p0", "c0")
    assert not await room.come("p1", others)
    room.api.denies = True
    await room.binder.bind([decision])
    await asyncio.sleep(0)
    if gone:
        room.gone("p0")
        assert room.waits("p1"), "the write is on its way"
    room.woken = 0
    await until(lambda: not room.binder._tasks)
    assert not room.waits("p1") and room.woken


async def test_a_claim_that_has_its_devices_is_there_for_its_other_pods(rooms: list[Room]) -> None:
    """From the answer on: the watch may lag."""
    room = room_of(rooms, claim("c0", exactly()))
    decisions = await room.come("p0", "c0")
    assert not await room.come("p1", "c0") and room.waits("p1")
    await room.binder.bind(decisions)
    await until(lambda: not room.binder._tasks)
    assert not room.waits("p1")


async def test_devices_that_are_taken_back_are_for_all_whatever_comes_first(rooms: list[Room]) -> None:
    result = {"request": "gpu", "driver": "gpu.example.com", "pool": "a", "device": "g0"}
    names = {"key": "metadata.name", "operator": "In", "values": ["a"]}
    selector = {"nodeSelectorTerms": [{"matchFields": [names]}]}
    held = claim("c0", exactly(), status={"allocation": {"devices": {"results": [result]}, "nodeSelector": selector}})
    room = room_of(rooms, node("b"), held, claim("c1", exactly()))
    assert not await room.come("p1", "c1") and room.waits("p1")
    assert not await room.come("p0", "c0", nodeSelector={"kubernetes.io/hostname": "b"})
    assert not room.api.claims["c0"]["status"], "its pod cannot run where its device is"
    assert not room.waits("p1")
    # What the watch says after that is nothing new.
    now = room.api.claims["c0"]
    assert not room.intake.on_devices(DEVICES[CLAIMS], now["metadata"], now, 0.0)


async def test_a_gang_that_is_tried_wakes_nobody(rooms: list[Room]) -> None:
    """What it gives back was nobody's."""
    room = room_of(rooms, claim("c0", exactly()), claim("c1", exactly()))
    pod = room.cluster.read_pod(user("p0", "c0"))
    assert isinstance(room.cluster.schedule(pod), Placement)
    assert isinstance(room.cluster.schedule(room.cluster.read_pod(user("p1", "c1"))), Diagnosis)
    room.cluster.forget(pod.uid)
    assert not room.intake.device_news(0.0)
    assert isinstance(room.cluster.schedule(room.cluster.read_pod(user("p1", "c1"))), Placement)

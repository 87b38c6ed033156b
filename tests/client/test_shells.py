"""Workers, leader election and the event recorder on a running client."""

import asyncio
import random
from contextlib import suppress
from typing import cast

from raykube.api.errors import ApiError
from raykube.base.backoff import Backoff
from raykube.base.clock import FakeClock
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.client.leader import LeaderElector
from raykube.client.worker import Worker
from raykube.rpc.clock import SystemClock
from tests.client.test_api import config_map
from tests.client.test_informer import cluster
from tests.kit.waiting import until


async def test_workers_are_bounded_and_a_key_is_never_in_two() -> None:
    running: list[str] = []
    most = 0
    done: list[str] = []

    async def reconcile(key: str) -> None:
        nonlocal most
        assert key not in running
        running.append(key)
        most = max(most, len(running))
        await asyncio.sleep(0.002)
        running.remove(key)
        done.append(key)

    worker: Worker[str] = Worker("test", reconcile, workers=3)
    task = asyncio.create_task(worker.run())
    for round_ in range(5):
        for number in range(10):
            worker.add(f"k{number}")
        await asyncio.sleep(0.003 * round_)
    await until(lambda: worker.idle and len(done) >= 10)
    assert set(done) == {f"k{number}" for number in range(10)}
    assert most == 3
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_failing_key_comes_back_and_a_requeue_too() -> None:
    calls: dict[str, int] = {}

    async def reconcile(key: str) -> float | None:
        calls[key] = calls.get(key, 0) + 1
        if key == "bad" and calls[key] < 4:
            raise RuntimeError("not yet")
        return 0.01 if key == "again" and calls[key] < 3 else None

    worker: Worker[str] = Worker("test", reconcile, workers=1, backoff=Backoff(initial_s=0.01))
    task = asyncio.create_task(worker.run())
    worker.add("bad")
    worker.add("again")
    worker.add_after("later", 0.05)
    await until(lambda: calls == {"bad": 4, "again": 3, "later": 1})
    assert worker.retries == 3
    assert worker.queue.failures("bad") == 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_leads_and_the_other_takes_over() -> None:
    async with cluster() as (store, _, client):
        log: list[str] = []
        tasks = {}
        electors = {}
        for name in ("one", "two"):
            elector = electors[name] = LeaderElector(
                client,
                "tester",
                name,
                lease_duration=1.5,
                renew_deadline=1.0,
                retry_period=0.1,
                on_started=lambda name=name: log.append(f"{name} started"),
                on_stopped=lambda name=name: log.append(f"{name} stopped"),
            )
            tasks[name] = asyncio.create_task(elector.run())
            await asyncio.sleep(0.05)
        await until(lambda: len(log) == 1)
        first = log[0].split()[0]
        other = "two" if first == "one" else "one"
        tasks[first].cancel()
        await until(lambda: len(log) == 3)
        assert log == [f"{first} started", f"{first} stopped", f"{other} started"]
        assert electors[other].leading
        assert store.objects["leases", "kube-system", "tester"]["spec"]["holderIdentity"] == other
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


class JumpyClock(SystemClock):
    """The time of day is set by hours, forth and back, whenever somebody looks at it."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def now(self) -> float:
        return super().now() + 3600.0 * self._draw.randrange(3)


async def test_whoever_sets_a_clock_makes_no_leader_and_stops_none() -> None:
    async with cluster() as (_, _, client):
        log: list[str] = []
        tasks = [
            asyncio.create_task(
                LeaderElector(
                    client,
                    "tester",
                    name,
                    lease_duration=6,
                    renew_deadline=5,
                    retry_period=0.05,
                    on_started=lambda name=name: log.append(f"{name} started"),
                    on_stopped=lambda name=name: log.append(f"{name} stopped"),
                    clock=JumpyClock(seed),
                ).run()
            )
            for seed, name in enumerate(("one", "two"))
        ]
        await asyncio.sleep(1.2)
        assert len(log) == 1, log
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_that_was_long_on_its_way_makes_no_holder_older() -> None:
    clock = FakeClock()
    written = []

    class Client:
        takes_s = 9.0

        async def get(self, *_: object) -> dict[str, object]:
            clock.advance(self.takes_s)
            spec = {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "of a moment ago"}
            return {"metadata": {"name": "tester", "resourceVersion": "1"}, "spec": spec}

        async def write_one(self, operation: object) -> object:
            written.append(operation)
            raise ApiError(409, "Conflict", "somebody was faster")

    client = Client()
    elector = LeaderElector(cast(ApiClient, client), "tester", "one", clock=clock)
    await elector._round()
    client.takes_s = 0.0
    clock.advance(14.0)
    await elector._round()
    assert written == []
    clock.advance(2.0)
    await elector._round()
    assert len(written) == 1


async def test_a_leader_that_cannot_renew_stops_before_another_may_start() -> None:
    async with cluster() as (_, apis, client):
        stopped: list[float] = []
        loop = asyncio.get_running_loop()
        elector = LeaderElector(
            client,
            "tester",
            "one",
            lease_duration=1.0,
            renew_deadline=0.5,
            retry_period=0.1,
            on_stopped=lambda: stopped.append(loop.time()),
        )
        task = asyncio.create_task(elector.run())
        async with asyncio.timeout(5):
            await elector.led()
        died = loop.time()
        await apis[0].stop()
        await until(lambda: stopped)
        assert stopped[0] - died < 1.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_events_are_written_in_bulk_and_counted() -> None:
    async with cluster() as (store, apis, client):
        recorder = EventRecorder(client, "tester")
        task = asyncio.create_task(recorder.run())
        for number in range(300):
            recorder.record(config_map(f"a{number % 100}"), "Normal", "Did", "a thing")
        await until(lambda: len(store.objects) == 100)
        assert apis[0].requests < 5
        assert {event["count"] for event in store.objects.values()} == {3}
        recorder.record(config_map("a7"), "Normal", "Did", "a thing")
        await until(lambda: any(event["count"] == 4 for event in store.objects.values()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

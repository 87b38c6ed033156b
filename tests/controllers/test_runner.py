"""One controller's runner: what it holds back, retries and contains. The API and the caches are this test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from raykube.base.clock import Clock, FakeClock
from raykube.client.core.listwatch import Change
from raykube.controllers import runner
from raykube.controllers.caches import resource_table
from raykube.controllers.core import kinds
from raykube.controllers.core.patches import create_write, delete_write
from raykube.controllers.core.plan import Event, Obj, Plan, Read, View, key_of
from raykube.controllers.runner import Runner
from raykube.pb import api_pb2
from raykube.rpc.clock import SystemClock


class Caches:
    """Caches that show what the test says, at the revision that it says."""

    def __init__(self) -> None:
        self.resources = resource_table()
        self.seen = 0
        self.objects: list[Obj] = []

    async def synced(self, names: Iterable[str]) -> None:
        return None

    def revision_of(self, resource: str) -> int:
        return self.seen

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        return next((each for each in self.objects if each["metadata"]["name"] == name), None)

    def by_index(self, resource: str, index: str, value: str) -> Sequence[Obj]:
        return []

    def list(self, resource: str) -> Iterable[Obj]:
        return list(self.objects)


class Api:
    """Answers writes with `codes`, one after another, then 201."""

    def __init__(self, *codes: int) -> None:
        self.requests: list[list[api_pb2.Operation]] = []
        self.codes = list(codes)
        self.causes: list[Obj] = []
        self.revision = 10

    async def write(self, operations: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        self.requests.append(operations)
        results = []
        for _ in operations:
            code = self.codes.pop(0) if self.codes else 201
            self.revision += 1
            status = {"kind": "Status", "code": code, "message": f"refused with {code}", "reason": "Forbidden"}
            status["details"] = {"causes": self.causes}
            body = orjson.dumps(status) if code >= 400 else b""
            results.append(api_pb2.Result(code=code, body=body, resource_version=self.revision))
        return results

    async def list(self, resource: Any, namespace: str) -> tuple[list[Obj], int]:
        return [{"metadata": {"name": "found"}}], 1

    async def get(self, resource: Any, namespace: str, name: str) -> Obj:
        return {"metadata": {"name": name}}


class Recorder:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def record(self, obj: Obj, kind: str, reason: str, message: str) -> None:
        self.said.append((reason, message))


class Creates:
    """Creates a ConfigMap for each key, every time."""

    name = "creates"
    resources = (kinds.CONFIG_MAPS,)

    def __init__(self) -> None:
        self.reconciled: list[str] = []
        self.errors: list[str] = []
        self.fails: Callable[[str], bool] = lambda key: False
        self.reads: list[Read] = []
        self.answers: list[Any] = []
        self.copies = 1
        self.deletes: set[str] = set()  # keys of which it deletes the ConfigMap
        self.observed: list[Obj] = []

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        assert new is not None
        self.observed.append(new)
        return (key_of(new),)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        self.reconciled.append(key)
        self.errors.append(view.error)
        if self.fails(key):
            raise RuntimeError("planted")
        missing = [read for read in self.reads if view.answer(read) is None]
        if missing:
            return Plan(reads=missing)
        self.answers = [view.answer(read) for read in self.reads]
        done = Event({"metadata": {"name": key}}, "Normal", "Made", "made it")
        failed = Event({"metadata": {"name": key}}, "Warning", "NotMade", "why: {error}")
        body = {"metadata": {"name": key}}
        if key in self.deletes:
            return Plan([delete_write(kinds.CONFIG_MAPS, body)])
        return Plan([create_write(kinds.CONFIG_MAPS, body, done=done, failed=failed)] * self.copies)


class Bench:
    def __init__(self, *codes: int, clock: Clock | None = None) -> None:
        self.caches, self.api, self.recorder, self.controller = Caches(), Api(*codes), Recorder(), Creates()
        self.runner = Runner(self.controller, self.caches, self.api, self.recorder, clock or SystemClock())  # type: ignore[arg-type]  # this test's own

    def change(self, *names: str) -> None:
        changes = [Change("ADDED", None, {"metadata": {"name": name}}) for name in names]
        self.runner.on_changes(kinds.CONFIG_MAPS, changes)


@asynccontextmanager
async def running(*codes: int) -> AsyncIterator[Bench]:
    bench = Bench(*codes)
    task = asyncio.create_task(bench.runner.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if check():
                return
            await asyncio.sleep(0.001)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_many_keys_are_one_request() -> None:
    async with running() as bench:
        bench.change("a", "b", "c")
        await until(lambda: bool(bench.api.requests))
        assert [len(request) for request in bench.api.requests] == [3]
        assert bench.recorder.said == [("Made", "made it")] * 3


async def test_a_key_waits_until_the_caches_show_its_write() -> None:
    async with running() as bench:
        bench.change("a")
        await until(lambda: bool(bench.api.requests))
        bench.change("a")
        await turns()
        assert bench.controller.reconciled == ["a"], "the caches lack its own write"
        bench.change("b")
        await until(lambda: "b" in bench.controller.reconciled)
        bench.caches.seen = 11
        bench.change("c")
        await until(lambda: bench.controller.reconciled.count("a") == 2)


async def test_who_created_something_waits_long_for_caches_that_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """He would take it for missing, and create another one."""
    monkeypatch.setattr(runner, "HELD_MAX_S", 0.01)
    async with running() as bench:
        bench.controller.deletes = {"gone"}
        bench.change("made", "gone")
        await until(lambda: bool(bench.api.requests))
        bench.change("made", "gone")
        await until(lambda: bench.controller.reconciled.count("gone") == 2)
        assert bench.controller.reconciled.count("made") == 1
        bench.caches.seen = 99
        bench.change("other")
        await until(lambda: bench.controller.reconciled.count("made") == 2)


async def test_a_refusal_comes_back_with_its_reason() -> None:
    async with running(403) as bench:
        bench.change("a")
        await until(lambda: len(bench.controller.reconciled) == 2)
        assert bench.controller.errors == ["", "refused with 403"]
        assert bench.recorder.said[0] == ("NotMade", "why: refused with 403")
        assert bench.runner.counters.retries == 1


async def test_what_is_refused_together_is_told_once() -> None:
    async with running(403, 201, 403, 403) as bench:
        bench.controller.copies = 4
        bench.change("a")
        await until(lambda: len(bench.controller.reconciled) == 2)
        told = [reason for reason, _ in bench.recorder.said[:2]]
        assert told == ["NotMade", "Made"] and ("NotMade", "why: refused with 403") not in bench.recorder.said[1:]


async def test_what_has_no_place_in_a_namespace_that_goes_is_let_be() -> None:
    async with running(403) as bench:
        bench.api.causes = [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]
        bench.change("a")
        await until(lambda: bool(bench.api.requests))
        bench.change("b")
        await until(lambda: len(bench.api.requests) == 2)
        assert bench.controller.reconciled == ["a", "b"] and bench.runner.counters.retries == 0
        assert "NotMade" not in [reason for reason, _ in bench.recorder.said]


async def test_a_conflict_is_retried_without_a_word() -> None:
    async with running(409) as bench:
        bench.change("a")
        await until(lambda: len(bench.controller.reconciled) == 2)
        assert bench.controller.errors == ["", ""]
        assert bench.recorder.said == [("Made", "made it")] or bench.recorder.said == []


async def test_an_exception_is_contained() -> None:
    async with running() as bench:
        bench.controller.fails = lambda key: key == "bad"
        bench.change("bad", "good")
        await until(lambda: bench.controller.reconciled.count("bad") >= 3)
        assert [operation.name for request in bench.api.requests for operation in request] == ["good"]


async def test_reads_are_answered_within_one_turn() -> None:
    async with running() as bench:
        bench.controller.reads = [Read(kinds.PODS, "a"), Read(kinds.PODS, "a", "p")]
        bench.change("a")
        await until(lambda: bool(bench.api.requests))
        assert bench.controller.answers == [[{"metadata": {"name": "found"}}], [{"metadata": {"name": "p"}}]]


async def test_a_new_leader_looks_at_everything() -> None:
    bench = Bench()
    bench.caches.objects = [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]
    for _ in range(2):
        task = asyncio.create_task(bench.runner.run(anew=True))
        await until(lambda: len(bench.controller.reconciled) == 2)
        await ended(task)
        assert sorted(bench.controller.reconciled) == ["a", "b"]
        bench.controller.reconciled.clear()


async def test_a_look_at_everything_lets_others_run_and_sees_what_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "OBSERVED_AT_ONCE", 1)
    bench = Bench()
    bench.caches.objects = [{"metadata": {"name": name}} for name in ("a", "b", "c")]
    task = asyncio.create_task(bench.runner.run(anew=True))
    await turns(1)
    assert len(bench.controller.observed) == 1
    newer = {"metadata": {"name": "c", "labels": {"version": "2"}}}
    bench.caches.objects = [newer]
    await until(lambda: bool(bench.controller.reconciled))
    assert [each["metadata"]["name"] for each in bench.controller.observed] == ["a", "c"], "b is gone"
    assert bench.controller.observed[-1] is newer
    await ended(task)


async def test_a_standby_remembers_only_so_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STANDBY_MAX", 2)
    bench = Bench()
    bench.caches.objects = [{"metadata": {"name": name}} for name in ("a", "b", "c", "d")]
    bench.change("a", "b")
    assert bench.runner.depth == 2
    bench.change("c", "gone")
    assert bench.runner.depth == 0
    bench.change("d")
    task = asyncio.create_task(bench.runner.run())
    await until(lambda: len(bench.controller.reconciled) == 4)
    assert sorted(bench.controller.reconciled) == ["a", "b", "c", "d"]
    bench.change("e", "f", "g")
    await until(lambda: len(bench.controller.reconciled) == 7)
    await ended(task)
    # What waited when it stopped does not count.
    bench.caches.seen = 1000
    task = asyncio.create_task(bench.runner.run())
    await turns()
    bench.change("h", "i", "j")
    await ended(task)
    bench.change("k", "l")
    assert bench.runner.depth == 5
    bench.change("m")
    assert bench.runner.depth == 0


async def test_a_look_at_everything_that_was_cut_off_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "OBSERVED_AT_ONCE", 1)
    bench = Bench()
    bench.caches.objects = [{"metadata": {"name": name}} for name in ("a", "b", "c")]
    task = asyncio.create_task(bench.runner.run(anew=True))
    await turns(1)
    await ended(task)
    assert len(bench.controller.observed) == 1
    task = asyncio.create_task(bench.runner.run())
    await until(lambda: len(bench.controller.reconciled) == 3)
    await ended(task)


async def test_who_leads_again_goes_on_where_it_was() -> None:
    bench = Bench()
    answers = asyncio.Event()
    write = bench.api.write

    async def slowly(operations: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        await answers.wait()
        return await write(operations)

    task = asyncio.create_task(bench.runner.run())
    bench.change("held")
    await until(lambda: len(bench.api.requests) == 1)
    bench.api.write = slowly  # type: ignore[method-assign]
    bench.change("cut off")
    await until(lambda: bench.controller.reconciled == ["held", "cut off"])
    await ended(task)
    bench.change("meanwhile")
    answers.set()
    task = asyncio.create_task(bench.runner.run())
    await until(lambda: len(bench.controller.reconciled) >= 4)
    bench.change("held")
    await turns()
    assert sorted(bench.controller.reconciled[2:]) == ["cut off", "meanwhile"], "its writes are not seen yet"
    bench.caches.seen = 1000
    bench.change("seen")
    await until(lambda: len(bench.controller.reconciled) >= 6)
    assert sorted(bench.controller.reconciled[4:]) == ["held", "seen"]
    await ended(task)


async def test_a_key_that_was_long_rests_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_s, clock = 0.0, FakeClock()
    monkeypatch.setattr(runner.time, "thread_time", lambda: cpu_s)
    bench = Bench(clock=clock)
    bench.caches.seen = 1000
    plan = bench.controller.reconcile

    def reconcile(view: View, key: str, now: float) -> Plan:
        nonlocal cpu_s
        cpu_s += 0.02 if key == "long" else 0.0005
        return plan(view, key, now)

    monkeypatch.setattr(bench.controller, "reconcile", reconcile)
    task = asyncio.create_task(bench.runner.run())
    bench.change("long", "short")
    await until(lambda: len(bench.controller.reconciled) == 2)
    bench.change("long", "short", "long")
    await until(lambda: bench.controller.reconciled.count("short") == 2)
    await turns()
    assert bench.controller.reconciled.count("long") == 1, "the first reaction is at once, the next one is not"
    clock.advance(0.19)
    bench.change("short")
    await until(lambda: bench.controller.reconciled.count("short") == 3)
    assert bench.controller.reconciled.count("long") == 1
    clock.advance(0.02)
    bench.change("short")
    await until(lambda: bench.controller.reconciled.count("long") == 2)
    await ended(task)


async def test_a_key_that_writes_much_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_s = 0.0
    monkeypatch.setattr(runner.time, "thread_time", lambda: cpu_s)
    bench = Bench(clock=FakeClock())
    bench.caches.seen, bench.controller.copies = 1000, 500
    plan = bench.controller.reconcile

    def reconcile(view: View, key: str, now: float) -> Plan:
        nonlocal cpu_s
        cpu_s += 0.02
        return plan(view, key, now)

    monkeypatch.setattr(bench.controller, "reconcile", reconcile)
    task = asyncio.create_task(bench.runner.run())
    for number in (1, 2):
        bench.change("a")
        await until(lambda wanted=number: len(bench.controller.reconciled) == wanted)  # type: ignore[misc]
    await ended(task)

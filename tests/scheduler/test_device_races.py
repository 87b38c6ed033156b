"""Claims while watches lag, answers are lost, pods come and go and schedulers die: no device is ever given twice."""

from collections.abc import Coroutine, Generator
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import resource_claims
from raykube.api.errors import ApiError
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.devices import Grant
from raykube.scheduler.granting import CLAIMS, Granting
from tests.scheduler.device_cluster import give, user
from tests.scheduler.device_objects import claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import node

Object = dict[str, Any]
NODES, DEVICES, PODS = 2, 1, 6


def merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


class Turn:
    """Whoever awaits it goes on at his next step: all else may come in between."""

    def __await__(self) -> Generator[None]:
        yield


class Api:
    """Claims with revisions."""

    def __init__(self) -> None:
        self.revision = 10
        self.claims: dict[str, Object] = {}
        self.events: list[Object] = []

    def put(self, obj: Object) -> Object:
        self.revision += 1
        stored = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.revision)}}
        self.claims[obj["metadata"]["name"]] = stored
        self.events.append(stored)
        self.check()
        return stored

    def check(self) -> None:
        held: dict[tuple[str, str], str] = {}
        for name, one in self.claims.items():
            for result in ((resource_claims.allocation(one) or {}).get("devices") or {}).get("results") or ():
                place = result["pool"], result["device"]
                assert place not in held, f"{place} is {name}'s and {held[place]}'s"
                held[place] = name


class Client:
    """Requests and answers are under way for a step each; an answer can be lost before or after the write."""

    def __init__(self, api: Api, fails: list[str]) -> None:
        self.api = api
        self.fails = fails  # what becomes of the next writes

    async def get(self, resource: Any, namespace: str, name: str) -> Object:
        assert resource == CLAIMS
        await Turn()
        found = self.api.claims[name]
        await Turn()
        return found

    async def write_one(self, op: Any) -> Object:
        await Turn()
        try:
            return self._write(op)
        finally:
            await Turn()

    def _write(self, op: Any) -> Object:
        old = self.api.claims[op.name]
        fails = self.fails.pop(0) if self.fails else ""
        if fails == "denied":
            raise ApiError(403, "Forbidden", "not now")
        if fails == "before":
            raise ApiError(503, "ServiceUnavailable", "nobody answers")
        if int(old["metadata"]["resourceVersion"]) != op.resource_version:
            raise ApiError(409, "Conflict", "the object has been modified")
        stored = self.api.put(merged(old, orjson.loads(op.body)))
        if fails == "after":
            raise ApiError(504, "Timeout", "the answer was lost")
        return stored


class Write(NamedTuple):
    """A pod's grants while they are written, and whether its binding will be accepted."""

    work: Coroutine[None, None, str]
    node: str
    binds: bool


class Life:
    """A scheduler that sees the API late."""

    def __init__(self, api: Api, nodes: int) -> None:
        self.api = api
        self.nodes = nodes
        self.bound: dict[str, str] = {}
        self.ended: set[str] = set()
        self.writing: dict[str, Write] = {}
        self.start()

    def start(self) -> None:
        """Anew, from a list."""
        for one in self.writing.values():
            one.work.close()
        self.writing = {}
        self.cluster = Cluster()
        for number in range(self.nodes):
            give(self.cluster, node(f"n{number}"))
            devices = [device(f"g{each}") for each in range(DEVICES)]
            give(self.cluster, resource_slice(f"s{number}", f"n{number}", devices))
        give(self.cluster, device_class())
        for one in self.api.claims.values():
            give(self.cluster, one)
        self.read = len(self.api.events)
        for name, place in self.bound.items():
            self.cluster.on_pod(self.cluster.read_pod(user(name, f"c-{name}", nodeName=place)))
        self.flying: dict[str, Placement] = {}

    def schedule(self, name: str) -> None:
        known = name in self.flying or name in self.writing or name in self.bound or name in self.ended
        if known or f"c-{name}" not in self.api.claims:
            return
        found = self.cluster.schedule(self.cluster.read_pod(user(name, f"c-{name}")))
        if isinstance(found, Placement):
            self.flying[name] = found

    def begin(self, name: str, fails: list[str], binds: bool) -> None:
        """What the scheduler decided is on its way; the binding may be refused after that."""
        placed = self.flying.pop(name, None)
        if placed is None:
            return
        client: Any = Client(self.api, list(fails))
        granting = Granting(client, SimpleNamespace(devices=self.cluster.devices), lambda: None)  # type: ignore[arg-type]
        grants = tuple(one for one in placed.reservations if isinstance(one, Grant))
        self.writing[name] = Write(granting.grant(grants), placed.node, binds)
        self.go_on(name)

    def go_on(self, name: str) -> None:
        """One step of a write: a request comes to the API, or its answer to the scheduler."""
        one = self.writing.get(name)
        if one is None:
            return
        try:
            one.work.send(None)
        except StopIteration as done:
            del self.writing[name]
            if done.value or not one.binds or name in self.ended:
                self.cluster.refused(f"uid-{name}")
            else:
                self.bound[name] = one.node
                self.cluster.on_pod(self.cluster.read_pod(user(name, f"c-{name}", nodeName=one.node)))

    def write(self, name: str, fails: list[str], binds: bool) -> None:
        """From the decision to the binding, and nothing comes in between."""
        self.begin(name, fails, binds)
        while name in self.writing:
            self.go_on(name)

    def end(self, name: str) -> None:
        """The pod is gone, if anything was decided of it; a controller gives its devices back."""
        if not any(name in those for those in (self.flying, self.writing, self.bound)):
            return
        self.bound.pop(name, None)
        self.ended.add(name)
        self.cluster.on_pod_gone(f"uid-{name}")
        self.give_back(name)

    def give_back(self, name: str) -> None:
        one = self.api.claims.get(f"c-{name}")
        if one is not None and resource_claims.allocation(one) is not None:
            self.api.put(one | {"status": {}})

    def watch(self, count: int) -> None:
        for one in self.api.events[self.read : self.read + count]:
            give(self.cluster, one)
            self.read += 1


NAMES = st.sampled_from([f"p{number}" for number in range(PODS)])
FATES = st.lists(st.sampled_from(["", "", "before", "after", "denied"]), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("place"), NAMES, FATES, st.booleans()),
    st.tuples(st.just("schedule"), NAMES),
    st.tuples(st.just("write"), NAMES, FATES, st.booleans()),
    st.tuples(st.just("begin"), NAMES, FATES, st.booleans()),
    st.tuples(st.just("go on"), NAMES),
    st.tuples(st.just("end"), NAMES),
    st.tuples(st.just("watch"), st.integers(1, 2)),
    st.tuples(st.just("crash")),
)
CREATED = [("create", f"p{number}") for number in range(PODS)]


def live(steps: list[Any], nodes: int = NODES) -> Life:
    api = Api()
    life = Life(api, nodes)
    for step, *arguments in steps:
        if step == "create" and f"c-{arguments[0]}" not in api.claims:
            api.put(claim(f"c-{arguments[0]}", exactly()))
        elif step == "place":
            life.schedule(arguments[0])
            life.write(*arguments)
        elif step == "crash":
            life.start()
        elif step != "create":
            getattr(life, step.replace(" ", "_"))(*arguments)
    return life


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=50), st.integers(1, NODES))
def test_no_device_is_given_twice(steps: list[Any], nodes: int) -> None:
    life = live([*CREATED, ("watch", PODS), *steps], nodes)
    # When all is told, whoever can have a device gets one.
    for name in [*life.writing]:
        while name in life.writing:
            life.go_on(name)
    for name in [*life.flying]:
        life.write(name, [], True)
    for name in life.ended:
        life.give_back(name)
    life.watch(1000)
    for number in range(PODS):
        life.schedule(f"p{number}")
        life.write(f"p{number}", [], True)
    assert len(life.bound) == min(PODS - len(life.ended), nodes * DEVICES)


@pytest.mark.parametrize("fails", [["before"], ["after"], ["", "before"], ["", "after"]])
def test_a_lost_answer_is_found_out(fails: list[str]) -> None:
    life = live([("create", "p0"), ("watch", 1), ("schedule", "p0"), ("write", "p0", fails, True)])
    assert life.bound
    (one,) = life.api.claims.values()
    assert [each["name"] for each in resource_claims.reserved_for(one)] == ["p0"]


@pytest.mark.parametrize(
    "between",
    [
        [("watch", 1)],  # a state of p0's claim from before its devices
        [("watch", 2)],
        [("watch", 3)],
        [("crash",)],
        [],
    ],
)
@pytest.mark.parametrize("fails", [[], ["", "after"]])
def test_what_was_written_is_taken_however_far_the_watch_is(fails: list[str], between: list[Any]) -> None:
    both = [("place", "p0", fails, True), ("place", "p1", fails, True)]
    life = live([*CREATED, ("watch", PODS), *both, *between, ("place", "p2", [], True)])
    assert life.bound.keys() == {"p0", "p1"}


def test_a_scheduler_that_died_before_it_bound_goes_on_with_what_it_had_written() -> None:
    life = live([("create", "p0"), ("watch", 1), ("schedule", "p0"), ("write", "p0", [], False), ("crash",)])
    life.schedule("p0")
    placed = life.flying["p0"]
    assert not placed.reservations, "nothing is left to be written"
    life.write("p0", [], True)
    assert life.bound == {"p0": placed.node}


@pytest.mark.parametrize("steps", range(5))
def test_a_device_is_free_only_when_the_write_has_ended_that_may_have_given_it_away(steps: int) -> None:
    """The pod is deleted while what was decided for it is on its way: its device is not free before that ends."""
    both = [("schedule", "p0"), ("place", "p1", [], True)]
    life = live([*CREATED, ("watch", PODS), *both, ("begin", "p0", [], True), *[("go on", "p0")] * steps])
    life.end("p0")
    life.schedule("p2")
    if "p0" in life.writing:
        assert not life.flying, "its device may be given away"
    while "p0" in life.writing:
        life.go_on("p0")
    life.give_back("p0")
    life.watch(1000)
    life.schedule("p2")
    assert life.flying


def test_nothing_is_written_for_a_pod_that_went_before() -> None:
    life = live([*CREATED, ("watch", PODS), ("schedule", "p0"), ("end", "p0"), ("place", "p1", [], True)])
    life.write("p0", [], True)
    assert resource_claims.allocation(life.api.claims["c-p0"]) is None

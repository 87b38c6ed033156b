"""Pods that wait for their claims look again for their own; decisions that are not carried out are taken back."""

import asyncio
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.pb import api_pb2
from raykube.rpc.clock import SystemClock
from raykube.scheduler.binder import Binder, Decision, Rejection
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import NOTHING
from raykube.scheduler.core.gangs import BINDING, Gang, group_of
from raykube.scheduler.core.profile import Profile
from raykube.scheduler.core.queue import PodQueue
from raykube.scheduler.core.volumes import Reservation
from tests.kit.waiting import until
from tests.scheduler.objects import Object, node, pod
from tests.scheduler.test_gangs import member, pod_group

PODS = 50
POD = builtin("v1", "Pod")


async def test_a_claim_wakes_the_pods_that_wait_for_it() -> None:
    looked: Counter[str] = Counter()

    def bound(reservations: tuple[Reservation, ...]) -> None:
        looked[reservations[0].claim["metadata"]["name"]] += 1

    pods = {str(number): SimpleNamespace(pod=SimpleNamespace(uid=str(number))) for number in range(PODS)}
    nothing: Any = None
    cluster: Any = SimpleNamespace(
        volumes=SimpleNamespace(bound=bound), forget=lambda _uid: True, profile_of=lambda _pod: Profile()
    )
    queue: Any = SimpleNamespace(get=pods.get)
    binder = Binder(nothing, nothing, cluster, queue, nothing, nothing, SystemClock(), lambda: None, lambda: True)
    decisions: list[Any] = []
    for uid, pending in pods.items():
        claims = [{"metadata": {"namespace": "n", "name": name}} for name in (f"c{uid}", "shared")]
        reservations = tuple(Reservation(claim, None, "node", True) for claim in claims)
        decisions.append(Decision(pending, "node", reservations))  # type: ignore[arg-type]
    try:
        await binder.bind(decisions)
        await until(lambda: looked.total() == PODS)
        binder.reserving.on_claim(("n", "c7"))
        await until(lambda: looked["c7"] == 2)
        binder.reserving.on_claim(("other", "c8"))
        binder.reserving.on_claim(("n", "c9"))
        await until(lambda: looked["c9"] == 2)
        await asyncio.sleep(0)
        assert looked.total() == PODS + 2
        binder.reserving.on_claim(("n", "shared"))
        await until(lambda: looked.total() == 2 * PODS + 2)
    finally:
        await binder.close()
    assert not binder.reserving._waiters


class Records(dict[str, Any]):
    """Writes down what is written and told."""

    def __init__(self) -> None:
        self.written: list[api_pb2.Operation] = []
        self.fails = False

    def record(self, *_: Any) -> None: ...

    async def write(self, batch: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        await asyncio.sleep(0)
        if self.fails:
            raise KeyError("a fault")
        self.written += batch
        return [api_pb2.Result(code=200) for _ in batch]


@pytest.mark.parametrize("when", ["before", "while it is said"])
@pytest.mark.parametrize("what", ["gone", "another leads", "nothing"])
async def test_nobody_leaves_for_a_pod_that_is_gone_or_anothers(when: str, what: str) -> None:
    api: Any = Records()
    leads = True
    cluster, queue = Cluster(), PodQueue()
    cluster.on_node(node("n", "1"))
    cluster.on_pod(cluster.read_pod(pod("weak", "1", nodeName="n")))
    strong = cluster.read_pod(pod("strong", "1", priority=10))
    cluster.on_waiting(strong)
    queue.add(strong, 0.0)
    (pending,) = queue.pop(1, 0.0)
    metrics: Any = SimpleNamespace(preemptions=0, victims=0, on_attempt=lambda *_: None)
    recorders: Any = defaultdict(Records)
    binder = Binder(api, POD, cluster, queue, recorders, metrics, SystemClock(), lambda: None, lambda: leads)
    found = cluster.schedule(strong)
    assert isinstance(found, Diagnosis)
    assert found.eviction is not None
    try:
        if when != "before":
            await binder.reject([Rejection(pending, found)])
        if what == "gone":
            queue.remove(strong.uid)
            cluster.on_settled(strong.uid)
        leads = what != "another leads"
        if when == "before":
            await binder.reject([Rejection(pending, found)])
        await until(lambda: not binder._tasks)
        victims = [op.name for op in api.written if op.verb == api_pb2.DELETE]
        assert victims == (["weak"] if what == "nothing" else [])
        # Later it may be a victim again.
        if what != "nothing":
            leads = True
            other = cluster.schedule(cluster.read_pod(pod("other", "1", priority=20)))
            assert isinstance(other, Diagnosis)
            assert other.eviction is not None
            assert [one.name for one in other.eviction.victims] == ["weak"]
    finally:
        await binder.close()


async def test_a_fault_while_binding_takes_the_decisions_back() -> None:
    nothing: Any = None
    api: Any = Records()
    api.fails = True
    cluster, queue = Cluster(), PodQueue()
    cluster.on_node(node("n", "1"))
    one = cluster.read_pod(pod("one", "1"))
    queue.add(one, 0.0)
    (pending,) = queue.pop(1, 0.0)
    metrics: Any = SimpleNamespace(on_attempt=lambda *_: None)
    binder = Binder(api, nothing, cluster, queue, nothing, metrics, SystemClock(), lambda: None, lambda: True)
    assert isinstance(cluster.schedule(one), Placement)
    try:
        await binder.bind([Decision(pending, "n")])
        await until(lambda: not cluster.assumed(one.uid))
        assert pending.place == "backoff"
    finally:
        await binder.close()


class SlowApi:
    """Refuses what is to go together; of what became of it each pod is told at another time."""

    def __init__(self) -> None:
        self.told = 0
        self.left = asyncio.Event()

    async def write_together(self, batch: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        return [api_pb2.Result(code=409) for _ in batch]

    async def get(self, _resource: Resource, _namespace: str, name: str) -> Object:
        if name != "a-0":
            await self.left.wait()
        self.told += 1
        return member("a", 0)


async def test_a_gang_that_was_refused_is_let_go_of_as_a_whole() -> None:
    nothing: Any = None
    api: Any = SlowApi()
    cluster, queue = Cluster(), PodQueue()
    cluster.on_node(node("n", "10"))
    cluster.gangs.on_group(("d", "a"), group_of(pod_group("a", 3)))
    for number in range(4):
        one = cluster.read_pod(member("a", number))
        cluster.on_waiting(one)
        queue.add(one, 0.0)
    taken = queue.pop(4, 0.0)
    late = taken.pop()
    metrics: Any = SimpleNamespace(conflicts=0, on_attempt=lambda *_: None)
    binder = Binder(api, nothing, cluster, queue, nothing, metrics, SystemClock(), lambda: None, lambda: True)
    for pending in taken:
        assert isinstance(cluster.schedule(pending.pod), Placement)
    assert late.pod.gang is not None
    assert cluster.gangs.gang(late.pod.gang) == BINDING
    queue.on_unschedulable(late, Diagnosis(BINDING, frozenset(), NOTHING), 0.0)
    try:
        await binder.bind_together([Decision(pending, "n") for pending in taken])
        await until(lambda: api.told == 1)
        assert all(cluster.assumed(pending.pod.uid) for pending in taken)
        assert cluster.gangs.gang(late.pod.gang) == BINDING
        api.left.set()
        await until(lambda: not cluster.assumed(taken[0].pod.uid))
        assert not any(cluster.assumed(pending.pod.uid) for pending in taken)
        assert isinstance(cluster.gangs.gang(late.pod.gang), Gang)
        assert late.place != "unschedulable"
    finally:
        await binder.close()


@pytest.mark.parametrize("fate", ["bound", "refused", "lost, bound", "lost, refused", "one is gone"])
async def test_others_of_a_gang_are_bound_once_enough_are(fate: str) -> None:
    bound: list[str] = []
    cluster, queue = Cluster(), PodQueue()
    cluster.on_node(node("n", "10"))
    for number in range(5):
        queue.add(cluster.read_pod(member("a", number)), 0.0)
    taken = queue.pop(5, 0.0)

    class Api:
        async def write_together(self, batch: list[api_pb2.Operation]) -> list[api_pb2.Result]:
            assert len(batch) == 3
            assert not bound
            if fate.startswith("lost"):
                raise ApiError.bad_request("lost")
            codes = [200] * 3 if fate == "bound" else [409] * 3 if fate == "refused" else [404, 409, 409]
            return [api_pb2.Result(code=code) for code in codes]

        async def write(self, batch: list[api_pb2.Operation]) -> list[api_pb2.Result]:
            bound.extend(op.name for op in batch)
            return [api_pb2.Result(code=200) for _ in batch]

        async def get(self, _resource: Resource, _namespace: str, name: str) -> Object:
            if fate == "one is gone" and name == "a-0":
                raise ApiError.not_found(POD, name)
            more = {"nodeName": "n"} if fate == "lost, bound" else {}
            return member("a", int(name.removeprefix("a-")), **more)

    api: Any = Api()
    metrics: Any = SimpleNamespace(conflicts=0, on_attempt=lambda *_: None, on_bound=lambda *_: None)
    recorders: Any = defaultdict(Records)
    binder = Binder(api, POD, cluster, queue, recorders, metrics, SystemClock(), lambda: None, lambda: True)
    for pending in taken:
        assert isinstance(cluster.schedule(pending.pod), Placement)
    decisions = [Decision(pending, "n") for pending in taken]
    try:
        await binder.bind_together(decisions[:3], decisions[3:])
        await until(lambda: not binder._tasks)
        assert bound == (["a-3", "a-4"] if fate.endswith("bound") else [])
        assert len(queue) == (0 if bound else 4 if fate == "one is gone" else 5)
        assert all(bool(cluster.assumed(pending.pod.uid)) == bool(bound) for pending in taken)
    finally:
        await binder.close()

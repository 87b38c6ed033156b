"""The service against an API over a dict: binds, says why not, wakes up, elects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError

from raykube.api import slowdowns
from raykube.apiserver.bulk import OPERATIONS_MAX
from raykube.pb import api_pb2
from raykube.scheduler import service as service_module
from raykube.scheduler.binder import Decision, Rejection
from raykube.scheduler.config import Config
from raykube.scheduler.core import gangs
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.gangs import TOGETHER_MAX, group_of
from raykube.scheduler.core.interference import CLASS_LABEL
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.service import Service
from tests.kit.memory_api import MemoryApi, MemoryStore
from tests.kit.waiting import until
from tests.scheduler.objects import Object, node, pod, pod_affinity, pod_term
from tests.scheduler.test_gangs import pod_group


class Api:
    """The store, and shorthands."""

    def __init__(self, store: MemoryStore, api: MemoryApi, address: str) -> None:
        self.store = store
        self.api = api
        self.address = address

    async def put(self, obj: Object) -> None:
        plural = obj["kind"].lower() + "s"
        key = (plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        self.store.put(key, obj)
        await self.notify()

    async def delete(self, plural: str, name: str) -> None:
        self.store.put((plural, "d" if plural == "pods" else "", name), None)
        await self.notify()

    async def notify(self) -> None:
        async with self.store.changed:
            self.store.changed.notify_all()

    def node_of(self, name: str) -> str:
        return str(self.store.objects["pods", "d", name]["spec"].get("nodeName", ""))

    def conditions(self, name: str) -> list[Object]:
        return list(self.store.objects["pods", "d", name]["status"].get("conditions", []))

    def events(self, reason: str) -> list[str]:
        return [o["message"] for (p, _, _), o in self.store.objects.items() if p == "events" and o["reason"] == reason]


@asynccontextmanager
async def running(schedulers: int = 1, config: Path | None = None) -> AsyncIterator[tuple[Api, list[Service]]]:
    store = MemoryStore()
    api = MemoryApi(store)
    address = await api.start()
    services = [
        Service(
            Config(
                api_servers=[address],
                secure_port=0,
                config=config,
                leader_elect_lease_duration=1.5,
                leader_elect_renew_deadline=1.0,
                leader_elect_retry_period=0.1,
            )
        )
        for _ in range(schedulers)
    ]
    for service in services:
        await service.start()
    try:
        yield Api(store, api, address), services
    finally:
        for service in services:
            await service.stop()
        await api.stop()


async def test_an_object_that_makes_no_sense_stops_no_other_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Objects that no apiserver would let in, read together with others by a list."""
    async with running(0) as (api, services):
        broken = pod("a-broken", "1") | {"spec": {}}
        await api.put(node("a-broken") | {"status": {"allocatable": {"cpu": "many"}}})
        await api.put(node("n", cpu="3"))
        for obj in (broken, pod("b-bound", "2", nodeName="n"), pod("c-fits", "1"), pod("d-large", "2")):
            await api.put(obj)
        services.append(Service(Config(api_servers=[api.address], secure_port=0, leader_elect=False)))
        await services[0].start()
        await until(lambda: api.node_of("c-fits") == "n")
        await until(lambda: bool(api.conditions("d-large")))
        assert not api.node_of("d-large")
        assert "Pod d/a-broken cannot be taken in" in caplog.text
        assert "Node /a-broken cannot be taken in" in caplog.text


async def test_a_pod_that_no_decision_can_be_made_on_pauses_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, attempts = Cluster.schedule, []

    def failing(self: Cluster, one: Pod, preempts: bool = True) -> Placement | Diagnosis:
        found = schedule(self, one, preempts)
        if one.name.startswith("bad"):
            attempts.append(one.name)
            if len(attempts) < 3:
                raise OverflowError("a fault in a filter")
        return found

    monkeypatch.setattr(Cluster, "schedule", failing)
    async with running() as (api, _):
        await api.put(pod("bad", "1"))
        await api.put(pod_group("gang", 1))
        await api.put(pod("bad-member", "1", schedulingGroup={"podGroupName": "gang"}))
        await api.put(pod("good", "2"))
        await api.put(node("n", "4"))
        await until(lambda: all(api.node_of(name) == "n" for name in ("good", "bad", "bad-member")))
    assert len(attempts) == 4
    assert "no decision on pod d/bad\n" in caplog.text
    assert "no decision on pod d/bad-member\n" in caplog.text


async def test_pods_are_bound_and_the_event_says_so() -> None:
    async with running() as (api, _):
        await api.put(node("a"))
        await api.put(node("b"))
        for number in range(20):
            await api.put(pod(f"p{number}", "100m"))
        await until(lambda: all(api.node_of(f"p{number}") for number in range(20)))
        assert {api.node_of(f"p{number}") for number in range(20)} == {"a", "b"}
        await until(lambda: len(api.events("Scheduled")) == 20)
        assert f"Successfully assigned d/p3 to {api.node_of('p3')}" in api.events("Scheduled")


async def test_a_pod_that_fits_nowhere_says_why_and_is_bound_when_it_can_be() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        await api.put(pod("first", "800m"))
        await until(lambda: api.node_of("first") == "a")
        await api.put(pod("second", "800m"))
        await until(lambda: api.conditions("second"))
        (condition,) = api.conditions("second")
        message = (
            "0/1 nodes are available: 1 Insufficient cpu. "
            "no new claims to deallocate, preemption: 0/1 nodes are available: "
            "1 No preemption victims found for incoming pod."
        )
        assert condition["type"] == "PodScheduled"
        assert condition["status"] == "False"
        assert condition["reason"] == "Unschedulable"
        assert condition["message"] == message
        await until(lambda: api.events("FailedScheduling") == [message])
        await api.delete("pods", "first")
        await until(lambda: api.node_of("second") == "a")


async def test_ended_pods_free_their_node_and_a_new_node_is_used() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        await api.put(pod("done", "1", nodeName="a", phase="Running"))
        await api.put(pod("one", "1"))
        await until(lambda: api.conditions("one"))
        await api.put(pod("done", "1", nodeName="a", phase="Succeeded"))
        await until(lambda: api.node_of("one") == "a")
        await api.put(pod("two", "1"))
        await until(lambda: api.conditions("two"))
        await api.put(node("b", cpu="1"))
        await until(lambda: api.node_of("two") == "b")


async def test_a_pod_that_needs_another_is_bound_when_that_one_is() -> None:
    async with running() as (api, _):
        await api.put(node("a"))
        of_team = {"namespaceSelector": {"matchLabels": {"team": "1"}}}
        near = pod_affinity(near=[pod_term("kubernetes.io/hostname", {"app": "db"}, **of_team)])
        await api.put(pod("web", affinity=near))
        await until(lambda: api.conditions("web"))
        await api.put(pod("db", labels={"app": "db"}))
        await until(lambda: api.node_of("db"))
        namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "d", "labels": {"team": "1"}}}
        await api.put(namespace)
        await until(lambda: api.node_of("web") == "a")
        await api.put(pod("app", affinity=pod_affinity(near=[pod_term("kubernetes.io/hostname", {"app": "cache"})])))
        await until(lambda: api.conditions("app"))
        await api.put(pod("cache", labels={"app": "cache"}))
        await until(lambda: api.node_of("app") == "a")


async def test_gated_and_others_pods_are_left_alone() -> None:
    async with running() as (api, _):
        await api.put(node("a"))
        await api.put(pod("gated", schedulingGates=[{"name": "wait"}]))
        await api.put(pod("theirs", schedulerName="other"))
        await api.put(pod("ours"))
        await until(lambda: api.node_of("ours"))
        assert not api.node_of("gated")
        assert not api.node_of("theirs")
        await api.put(pod("gated"))
        await until(lambda: api.node_of("gated"))


async def test_a_binding_whose_answer_was_lost_is_found_out() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        await until(lambda: ("leases", "kube-system", "kube-scheduler") in api.store.objects)
        api.api.lose_answers = 1
        await api.put(pod("one", "1"))
        await until(lambda: api.node_of("one") == "a")
        await api.put(pod("two", "1"))
        await until(lambda: api.conditions("two"))
        assert "Insufficient cpu" in api.conditions("two")[0]["message"]


async def test_a_refused_binding_is_decided_again_and_holds_nothing_meanwhile() -> None:
    async with running() as (api, (service,)):
        await api.put(node("a", cpu="1"))
        api.api.refuse_bindings = 1
        await api.put(pod("one", "1", priority=5))
        await until(lambda: service._queue.counts["backoff"] == 1)
        await api.put(pod("two", "1"))  # takes the place while the first one waits for its back-off
        await until(lambda: api.node_of("two") == "a")
        await until(lambda: api.conditions("one"))


async def test_every_binding_is_conditional() -> None:
    async with running() as (api, _):
        await api.put(node("a"))
        await api.put(pod("one"))
        await until(lambda: api.node_of("one"))
        (bind,) = [op for op in api.store.operations if op.verb == api_pb2.BIND]
        assert bind.resource_version > 0
        assert bind.uid


async def test_a_standby_takes_over_and_only_the_leader_binds() -> None:
    async with running(2) as (api, services):
        await api.put(node("a"))
        await until(lambda: sorted(str(s.status()["role"]) for s in services) == ["leader", "standby"])
        for number in range(10):
            await api.put(pod(f"p{number}"))
        await until(lambda: all(api.node_of(f"p{number}") for number in range(10)))
        assert len([op for op in api.store.operations if op.verb == api_pb2.BIND]) == 10
        leader = next(s for s in services if s.status()["role"] == "leader")
        await leader.stop()
        await api.put(pod("late"))
        await until(lambda: api.node_of("late"))


async def test_health_and_metrics() -> None:
    async with running() as (api, (service,)):
        await api.put(node("a"))
        await api.put(pod("one"))
        await until(lambda: api.events("Scheduled"))  # written once the scheduler has the answer to its binding
        await until(lambda: service.status()["healthy"])
        addresses = service.status()["addresses"]
        assert isinstance(addresses, dict)
        async with aiohttp.ClientSession(f"http://{addresses['health']}") as session:
            async with session.get("/healthz") as response:
                assert (response.status, await response.text()) == (200, "ok")
            async with session.get("/metrics") as response:
                text = await response.text()
        assert 'scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1' in text
        assert 'scheduler_pending_pods{queue="active"} 0' in text


async def test_profiles_schedule_the_pods_that_name_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}
"""
    )
    async with running(config=path) as (api, services):
        await api.put(node("a"))
        await api.put(node("b"))
        await api.put(pod("other", schedulerName="nobody"))
        for number in range(4):
            await api.put(pod(f"spread-{number}", "500m", "1Gi"))
            await until(lambda number=number: api.node_of(f"spread-{number}"))
        for number in range(3):
            await api.put(pod(f"packed-{number}", "100m", "200Mi", schedulerName="packing"))
            await until(lambda number=number: api.node_of(f"packed-{number}"))
        assert len({api.node_of(f"spread-{number}") for number in range(4)}) == 2
        assert len({api.node_of(f"packed-{number}") for number in range(3)}) == 1
        assert not api.node_of("other")
        await until(lambda: len(api.events("Scheduled")) == 7)
        sources = {o.get("source", {}).get("component") for (p, _, _), o in api.store.objects.items() if p == "events"}
        assert sources == {"default-scheduler", "packing"}
        addresses = services[0].status()["addresses"]
        assert isinstance(addresses, dict)
        session = aiohttp.ClientSession(f"http://{addresses['health']}")
        async with session, session.get("/metrics") as response:
            text = await response.text()
        assert 'scheduler_schedule_attempts_total{profile="packing",result="scheduled"} 3' in text


def test_flags_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="--leader-elect-lease-duration must be longer"):
        Config(api_servers=["127.0.0.1:1"], leader_elect_lease_duration=5)
    with pytest.raises(ValidationError, match="not host:port"):
        Config(api_servers=["nonsense"])


async def test_what_kubelets_tell_of_slow_pods_keeps_others_off() -> None:
    async with running() as (api, (service,)):
        for name in ("a", "b"):
            await api.put(node(name))
        for name, at in (("hog", "a"), ("batch", "b")):
            await api.put(pod(name, "500m", nodeName=at, phase="Running", labels={CLASS_LABEL: name}))
        await api.put(pod("web", "500m", nodeName="a", phase="Running", labels={CLASS_LABEL: "web"}))
        await api.put(pod("filler", "500m", nodeName="b", phase="Running"))
        lease: Object = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": {}}
        for number in range(20):
            told = {slowdowns.ANNOTATION: slowdowns.written({"uid-web": 3.0, "uid-nobody": 9.0})}
            metadata = {"name": "a", "namespace": "kube-node-lease", "annotations": told | {"n": str(number)}}
            await api.put(lease | {"metadata": metadata})
            await asyncio.sleep(0)
        await until(lambda: service._cluster.slowdowns.weight("d/web", "d/hog") > 1.0)
        # All else is equal, and of equal nodes the first is taken.
        await api.put(pod("other", "100m"))
        await until(lambda: api.node_of("other") == "a")
        await api.put(pod("more", "100m", nodeName="b", phase="Running"))
        await api.put(pod("web-2", "100m", labels={CLASS_LABEL: "web"}))
        await until(lambda: api.node_of("web-2") == "b")


async def test_a_pod_that_goes_while_a_gang_is_written_is_not_decided_on() -> None:
    service = Service(Config(api_servers=["127.0.0.1:1"]))
    cluster, queue = service._cluster, service._queue
    cluster.on_node(node("a"))
    group = {"spec": {"schedulingPolicy": {"gang": {"minCount": 1}}}, "metadata": {"uid": "g"}}
    cluster.gangs.on_group(("d", "g"), group_of(group))
    for obj in (pod("first", priority=9, schedulingGroup={"podGroupName": "g"}), pod("gone"), pod("there")):
        one = cluster.read_pod(obj)
        cluster.on_waiting(one)
        queue.add(one, 0.0)
    bound: list[str] = []

    class Slow:
        async def bind_together(self, *_: list[Decision]) -> None:
            await asyncio.sleep(0)
            service._intake.on_pod_gone("uid-gone")

        async def bind(self, decisions: list[Decision]) -> None:
            bound.extend(decision.pending.pod.name for decision in decisions)

        async def tell_group(self, *_: object) -> None: ...

    service._binder = Slow()  # type: ignore[assignment]
    await service._round()
    assert bound == ["there"]
    assert not cluster.assumed("uid-gone")


async def test_a_gang_too_large_for_one_step_is_bound_as_far_as_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TOGETHER_MAX == OPERATIONS_MAX
    for module in (service_module, gangs):
        monkeypatch.setattr(module, "TOGETHER_MAX", 4)
    service = Service(Config(api_servers=["127.0.0.1:1"]))
    cluster, queue = service._cluster, service._queue
    cluster.on_node(node("a"))
    for name, minimum, count in (("exact", 4, 4), ("more", 3, 6), ("large", 5, 5)):
        group = {"spec": {"schedulingPolicy": {"gang": {"minCount": minimum}}}, "metadata": {"uid": name}}
        cluster.gangs.on_group(("d", name), group_of(group))
        for number in range(count):
            one = cluster.read_pod(pod(f"{name}-{number}", schedulingGroup={"podGroupName": name}))
            cluster.on_waiting(one)
            queue.add(one, 0.0)
    bound: list[tuple[int, int]] = []
    said: set[str] = set()

    class Binder:
        async def bind_together(self, decisions: list[Decision], then: list[Decision]) -> None:
            bound.append((len(decisions), len(then)))

        async def reject(self, rejections: list[Rejection]) -> None:
            said.update(rejection.found.message for rejection in rejections)

        async def tell_group(self, *_: object) -> None: ...

    service._binder = Binder()  # type: ignore[assignment]
    await service._round()
    assert bound == [(4, 0), (3, 3)]
    assert said == {'pod group "large" is larger than one step: it needs 5 pods at once, 4 can be bound together'}

"""The service against an API over a dict: binds, says why not, wakes up, elects."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from pydantic import ValidationError

from raykube.pb import api_pb2
from raykube.scheduler.config import Config
from raykube.scheduler.service import Service
from tests.kit.memory_api import MemoryApi, MemoryStore
from tests.kit.waiting import until
from tests.scheduler.objects import Object, node, pod, pod_affinity, pod_term


class Api:
    """The store, and shorthands."""

    def __init__(self, store: MemoryStore, api: MemoryApi) -> None:
        self.store = store
        self.api = api

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
async def running(schedulers: int = 1) -> AsyncIterator[tuple[Api, list[Service]]]:
    store = MemoryStore()
    api = MemoryApi(store)
    address = await api.start()
    services = [
        Service(
            Config(
                api_servers=[address],
                secure_port=0,
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
        yield Api(store, api), services
    finally:
        for service in services:
            await service.stop()
        await api.stop()


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
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
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
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        api.api.refuse_bindings = 1
        await api.put(pod("one", "1", priority=5))
        await until(lambda: not api.api.refuse_bindings)
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


def test_flags_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="--leader-elect-lease-duration must be longer"):
        Config(api_servers=["127.0.0.1:1"], leader_elect_lease_duration=5)
    with pytest.raises(ValidationError, match="not host:port"):
        Config(api_servers=["nonsense"])

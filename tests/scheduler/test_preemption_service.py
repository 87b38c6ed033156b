"""The service preempts: promises before it deletes, tells the victims, and takes up what another scheduler began."""

import orjson

from raykube.pb import api_pb2
from tests.kit.waiting import until
from tests.scheduler.objects import Object, node, pod
from tests.scheduler.test_service import Api, running


def status(api: Api, name: str) -> Object:
    found: Object = api.store.objects["pods", "d", name]["status"]
    return found


def budget(name: str, label: str, allowed: int) -> Object:
    return {
        "kind": "PodDisruptionBudget",
        "apiVersion": "policy/v1",
        "metadata": {"name": name, "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"app": label}}},
        "status": {"disruptionsAllowed": allowed},
    }


async def test_a_stronger_pod_takes_the_place_of_a_weaker_one() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        await api.put(pod("weak", "1"))
        await until(lambda: api.node_of("weak") == "a")
        await api.put(pod("strong", "1", priority=100))
        await until(lambda: api.node_of("strong") == "a")
        assert ("pods", "d", "weak") not in api.store.objects
        said = [
            (op.verb, op.name, op.subresource, orjson.loads(op.body) if op.body else {})
            for op in api.store.operations
            if op.resource.plural == "pods" and op.verb != api_pb2.BIND
        ]
        promise, mark, deletion = said
        assert promise[:3] == (api_pb2.PATCH, "strong", "status")
        assert promise[3]["status"]["nominatedNodeName"] == "a"
        (condition,) = promise[3]["status"]["conditions"]
        assert condition["message"] == "0/1 nodes are available: 1 Insufficient cpu."
        assert mark[:3] == (api_pb2.PATCH, "weak", "status")
        (condition,) = mark[3]["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("DisruptionTarget", "True")
        assert condition["reason"] == "PreemptionByScheduler"
        assert condition["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
        assert deletion[:2] == (api_pb2.DELETE, "weak")
        await until(lambda: api.events("Preempted") == ["Preempted by pod uid-strong on node a"])


async def test_a_promise_that_another_scheduler_made_is_kept() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        theirs = pod("theirs", "1", priority=100, schedulingGates=[{"name": "wait"}])
        theirs["status"]["nominatedNodeName"] = "a"
        await api.put(pod("weak", "1", nodeName="a", phase="Running"))
        await api.put(theirs)
        del theirs["spec"]["schedulingGates"]
        await api.put(theirs)
        await until(lambda: api.node_of("theirs") == "a")  # it had to ask again: nobody had gone


async def test_the_weakest_promise_gives_way_and_is_withdrawn() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        slow = pod("slow", "1", nodeName="a", phase="Running")
        slow["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        await api.put(slow)  # it takes its time to go
        first = pod("first", "1", priority=10)
        first["status"]["nominatedNodeName"] = "a"
        await api.put(first)
        await until(lambda: "terminating pod on the nominated node" in str(api.conditions("first")))
        await api.put(pod("second", "1", priority=20))
        await until(lambda: status(api, "second").get("nominatedNodeName") == "a")
        await until(lambda: "nominatedNodeName" not in status(api, "first"))
        await api.delete("pods", "slow")
        await until(lambda: api.node_of("second") == "a")
        assert not api.node_of("first")


async def test_budgets_are_respected_while_others_can_go() -> None:
    async with running() as (api, _):
        for name in ("a", "b"):
            await api.put(node(name, cpu="1"))
        await api.put(budget("db", "db", 0))
        await api.put(pod("db", "1", nodeName="a", labels={"app": "db"}))
        await api.put(pod("web", "1", nodeName="b", labels={"app": "web"}, priority=50))
        await api.put(pod("strong", "1", priority=100))
        await until(lambda: api.node_of("strong") == "b")
        assert ("pods", "d", "db") in api.store.objects


async def test_who_never_preempts_waits() -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        await api.put(pod("weak", "1", nodeName="a"))
        await api.put(pod("polite", "1", priority=100, preemptionPolicy="Never"))
        await until(lambda: "preemptionPolicy=Never" in str(api.conditions("polite")))
        assert ("pods", "d", "weak") in api.store.objects
        await api.delete("pods", "weak")
        await until(lambda: api.node_of("polite") == "a")

"""What a measurement on a cluster that stays takes away: what it made, and nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.bench.core.scenario import Scenario
from raykube.bench.plane import NAMESPACES, NODES, PODS, ControlPlane, create, ready
from raykube.bench.runner import Runner
from raykube.bench.site import CONFIGMAPS, DEPLOYMENTS, BenchError
from raykube.client.api import ApiClient
from raykube.client.kubeconfig import Connection

pytestmark = pytest.mark.integration

CLASSES = builtin("scheduling.k8s.io/v1", "PriorityClass")
KEPT: dict[str, Any] = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "kept"},
    "value": 1,
}
MADE = KEPT | {"metadata": {"name": "made"}}


class Silent:
    def begin(self, title: str, total: int) -> None: ...
    def at(self, done: int, words: str = "") -> None: ...
    def end(self, words: str) -> None: ...


def pod(name: str, namespace: str = "default") -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "x"}], "nodeSelector": {"none": "such"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def scenario(*objects: dict[str, Any], **step: Any) -> Scenario:
    return Scenario.model_validate({"about": "x", "pods": 4, "nodes": 2, "objects": list(objects), "steps": [step]})


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[ApiClient, Connection]]:
    """A control plane with two hollow machines, that stays when a measurement ends."""
    plane = ControlPlane(folder)
    try:
        plane.start()
        plane.start_controllers()
        async with ApiClient(plane.api_addresses, plane.tls("admin")) as client:
            await ready(plane, client, own_account=False)
            plane.start_hollow("hollow", nodes=2, pod_cidr="100.64.0.0/11")
            await until(lambda: two_nodes(client))
            yield client, Connection(plane.api_addresses, plane.tls("admin"), "default")
    finally:
        plane.stop()


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 60
    while not await check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def two_nodes(client: ApiClient) -> bool:
    return len(await names(client, NODES)) == 2


async def names(client: ApiClient, resource: Any, namespace: str = "") -> set[str]:
    """Those that are not being deleted."""
    found, _ = await client.list(resource, namespace)
    return {each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]}


async def run(wanted: Scenario, connection: Connection, namespace: str = "") -> Any:
    return await Runner(wanted, Silent(), connection=connection, namespace=namespace).run()


async def has_deployments(client: ApiClient) -> bool:
    return bool(await names(client, DEPLOYMENTS))


async def space_of_the_run(client: ApiClient) -> str:
    """The namespace that a run made for itself, once it has Deployments there."""
    await until(lambda: has_deployments(client))
    found, _ = await client.list(DEPLOYMENTS)
    return str(found[0]["metadata"]["namespace"])


async def test_a_run_has_a_namespace_of_its_own_which_goes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (client, connection):
        before = await names(client, NAMESPACES)
        await create(client, [KEPT, pod("bench-mine"), pod("bench-s1-0")])
        with pytest.raises(RuntimeError, match="already exists"):
            await run(scenario(KEPT, MADE, create="100%"), connection)
        assert {"kept"} == {"kept", "made"} & await names(client, CLASSES)
        assert await names(client, NAMESPACES) == before

        # While it measures, somebody else's pods come, one of them even where it measures.
        running = asyncio.create_task(run(scenario(MADE, deploy="100%"), connection))
        space = await space_of_the_run(client)
        await create(client, [pod("bench-other"), pod("bench-s1-1", space)])
        report = await running
        assert report["steps"][0]["pods"] == 4
        assert await names(client, PODS, space) == {"bench-s1-1"}
        assert await names(client, PODS, "default") == {"bench-mine", "bench-s1-0", "bench-other"}
        assert not await names(client, DEPLOYMENTS)
        assert "made" not in await names(client, CLASSES)

        # It is ended midway.
        running = asyncio.create_task(run(scenario(MADE, deploy="100%"), connection))
        await space_of_the_run(client)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await names(client, NAMESPACES) == before | {space}
        assert not await names(client, DEPLOYMENTS)


async def test_a_namespace_that_was_asked_for_is_made_and_stays(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (client, connection):
        report = await run(scenario(create="100%"), connection, "mine")
        assert report["steps"][0]["pods"] == 4
        assert "mine" in await names(client, NAMESPACES)
        assert await names(client, CONFIGMAPS, "mine") <= {"kube-root-ca.crt"}
        await until(lambda: is_empty(client, "mine"))

        await create(client, [pod("other", "mine")])
        with pytest.raises(BenchError, match="namespace mine has pods"):
            await run(scenario(create="100%"), connection, "mine")
        assert await names(client, PODS, "mine") == {"other"}


async def is_empty(client: ApiClient, namespace: str) -> bool:
    return not await names(client, PODS, namespace)

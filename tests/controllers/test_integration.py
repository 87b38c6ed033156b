"""The controller-manager against a real store and apiserver, all in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.controllers.core.plan import Obj
from tests.controllers.plane import Plane

pytestmark = pytest.mark.integration

PODS = builtin("v1", "Pod")
REPLICA_SETS = builtin("apps/v1", "ReplicaSet")
DEPLOYMENTS = builtin("apps/v1", "Deployment")
JOBS = builtin("batch/v1", "Job")
SLICES = builtin("discovery.k8s.io/v1", "EndpointSlice")
ENDPOINTS = builtin("v1", "Endpoints")


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as found:
        yield found


async def until(check: Callable[[], Awaitable[Any]], timeout_s: float = 30) -> Any:
    """The first truthy answer of `check`."""
    last: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    last = await check()
                    if last:
                        return last
                except ApiError as error:
                    if error.code != 404:
                        raise
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s; last: {last}") from None


async def listed(plane: Plane, resource: Resource, **selectors: str) -> list[Obj]:
    return (await plane.client.list(resource, "default", **selectors))[0]  # type: ignore[arg-type]  # selectors only


def template(labels: dict[str, str], image: str = "web:1", **spec: Any) -> Obj:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}], **spec}}


def deployment(replicas: int = 3) -> Obj:
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template(labels)},
    }


async def set_pods(plane: Plane, phase: str, number: int = 1000) -> int:
    """What kubelets report: pending pods reach `phase`; pods being deleted are gone."""
    changed = 0
    for pod in await listed(plane, PODS):
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            await plane.client.delete(PODS, "default", meta["name"], grace_period_s=0)
            changed += 1
        elif pod["status"].get("phase") in ("Pending", "Running") and pod["status"]["phase"] != phase:
            if changed >= number:
                break
            ready = str(phase == "Running")
            stamp = "2026-01-01T00:00:00Z"
            status: Obj = {
                "phase": phase,
                "podIP": f"127.9.9.{changed + 1}",
                "podIPs": [{"ip": f"127.9.9.{changed + 1}"}],
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": stamp}],
            }
            await plane.client.patch(PODS, "default", meta["name"], {"status": status}, subresource="status")
            changed += 1
    return changed


async def test_deployment_rolls_out_and_is_served(plane: Plane) -> None:
    await plane.manager()
    await plane.client.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }
    )
    await plane.client.create(deployment())

    async def complete() -> bool:
        await set_pods(plane, "Running")
        found = await plane.client.get(DEPLOYMENTS, "default", "web")
        status = found["status"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("updatedReplicas") == status.get("availableReplicas") == status.get("replicas") == 3
        )

    await until(complete)

    async def ready_endpoints() -> bool:
        slices = await listed(plane, SLICES, label_selector="kubernetes.io/service-name=web")
        ready = [entry for each in slices for entry in each["endpoints"] if entry["conditions"]["ready"]]
        (endpoints,) = [each for each in await listed(plane, ENDPOINTS) if each["metadata"]["name"] == "web"]
        return len(ready) == 3 and len(endpoints["subsets"][0]["addresses"]) == 3

    await until(ready_endpoints)
    await plane.client.patch(DEPLOYMENTS, "default", "web", {"spec": {"template": template({"app": "web"}, "web:2")}})
    await until(complete)
    sizes = {
        each["spec"]["template"]["spec"]["containers"][0]["image"]: each["spec"]["replicas"]
        for each in await listed(plane, REPLICA_SETS)
    }
    assert sizes == {"web:1": 0, "web:2": 3}
    (events, _) = await plane.client.list(builtin("v1", "Event"), "default")
    assert {"ScalingReplicaSet", "SuccessfulCreate"} <= {event["reason"] for event in events}


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
async def test_job_completes_with_exact_counts(plane: Plane, mode: str) -> None:
    await plane.manager()
    await plane.client.create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "sum", "namespace": "default"},
            "spec": {
                "completions": 7,
                "parallelism": 3,
                "completionMode": mode,
                "template": template({}, restartPolicy="Never"),
            },
        }
    )

    async def complete() -> bool:
        await set_pods(plane, "Succeeded", 1)
        found = await plane.client.get(JOBS, "default", "sum")
        return any(each["type"] == "Complete" for each in found["status"].get("conditions", []))

    await until(complete)
    status = (await plane.client.get(JOBS, "default", "sum"))["status"]
    assert status["succeeded"] == 7 and "failed" not in status and status["completionTime"]
    pods = await listed(plane, PODS)
    assert len(pods) == 7 and not any(pod["metadata"].get("finalizers") for pod in pods)


async def test_many_pods_are_created_once(plane: Plane) -> None:
    manager = await plane.manager()
    await plane.client.create(deployment(600))

    async def all_there() -> bool:
        found = await plane.client.get(DEPLOYMENTS, "default", "web")
        return bool(found["status"].get("replicas") == 600)

    await until(all_there)
    assert len(await listed(plane, PODS)) == 600
    (event,) = [counters for counters in [manager._runners] if counters]  # every runner is there
    created = next(runner for runner in event if runner.name == "replicaset-controller").counters
    assert created.retries == 0, "no write was refused, so none was made twice"


async def test_a_standby_takes_over(plane: Plane) -> None:
    flags = {"leader_elect_lease_duration": 3, "leader_elect_renew_deadline": 2, "leader_elect_retry_period": 0.2}
    first = await plane.manager(**flags)

    async def leads() -> bool:
        return first.status()["role"] == "leader"

    await until(leads)
    second = await plane.manager(**flags)
    await plane.client.create(deployment(2))

    async def pods(count: int) -> bool:
        return len(await listed(plane, PODS)) == count

    await until(lambda: pods(2))
    assert second.status()["role"] == "standby"
    await first.stop()
    await plane.client.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": 4}})
    await until(lambda: pods(4))
    assert second.status()["role"] == "leader"

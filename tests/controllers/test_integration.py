"""The controller-manager against a real store and apiserver, all in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.client import operations
from raykube.controllers.core.plan import Obj
from raykube.controllers.runner import Runner
from tests.controllers.plane import Plane

pytestmark = pytest.mark.integration

PODS = builtin("v1", "Pod")
REPLICA_SETS = builtin("apps/v1", "ReplicaSet")
DEPLOYMENTS = builtin("apps/v1", "Deployment")
JOBS = builtin("batch/v1", "Job")
SLICES = builtin("discovery.k8s.io/v1", "EndpointSlice")
ENDPOINTS = builtin("v1", "Endpoints")
BUDGETS = builtin("policy/v1", "PodDisruptionBudget")
LEASES = builtin("coordination.k8s.io/v1", "Lease")


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
    assert manager.status()["healthy"]


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


async def test_who_lost_the_lease_to_nobody_goes_on_where_it_was(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"leader_elect_lease_duration": 3, "leader_elect_renew_deadline": 2, "leader_elect_retry_period": 0.2}
    anew: list[bool] = []
    run = Runner.run

    async def noted(runner: Runner, **how: bool) -> None:
        if runner.name == "replicaset-controller":
            anew.append(how["anew"])
        await run(runner, **how)

    monkeypatch.setattr(Runner, "run", noted)
    manager = await plane.manager(**flags)
    elector = manager._elector
    assert elector is not None

    async def leads() -> bool:
        return elector.leading

    async def pods(count: int) -> bool:
        return len(await listed(plane, PODS)) == count

    await until(leads)
    assert anew == [True]
    await plane.client.create(deployment(2))
    await until(lambda: pods(2))
    for taken_meanwhile in (False, True):
        elector._election.leading = False  # as when it was too busy to renew
        elector._announce()
        assert manager.status()["role"] == "standby"
        if taken_meanwhile:
            since = "2026-01-01T00:00:00.000000Z"
            taken = {"holderIdentity": "another", "acquireTime": since, "leaseDurationSeconds": 1}
            await plane.client.patch(LEASES, "kube-system", "kube-controller-manager", {"spec": taken})
        replicas = 3 + taken_meanwhile
        await plane.client.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": replicas}})
        await until(leads)
        await until(partial(pods, replicas))
        assert anew[-1] is taken_meanwhile


async def create_node(plane: Plane, name: str, ready: str = "True") -> None:
    condition = {
        "type": "Ready",
        "status": ready,
        "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        "reason": "KubeletReady",
    }
    await plane.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    status = {"conditions": [condition], "capacity": {"pods": "10"}}
    await plane.client.patch(builtin("v1", "Node"), "", name, {"status": status}, subresource="status")


async def test_deleting_a_deployment_deletes_its_pods(plane: Plane) -> None:
    await plane.manager()
    for policy in ("Background", "Foreground"):
        await plane.client.create(deployment(3))

        async def pods(count: int) -> bool:
            return len(await listed(plane, PODS)) == count

        await until(lambda: pods(3))  # called before the next turn of the loop
        await plane.client.delete(DEPLOYMENTS, "default", "web", propagation=policy)

        async def gone() -> bool:
            return not await listed(plane, DEPLOYMENTS) and not await listed(plane, REPLICA_SETS)

        await until(gone)
        await until(lambda: pods(0))  # called before the next turn of the loop


async def test_orphaned_pods_stay(plane: Plane) -> None:
    await plane.manager()
    await plane.client.create(deployment(2))

    async def pods() -> list[Obj]:
        found = await listed(plane, PODS)
        return found if len(found) == 2 else []

    await until(pods)
    await plane.client.delete(DEPLOYMENTS, "default", "web", propagation="Orphan")

    async def orphaned() -> bool:
        sets = await listed(plane, REPLICA_SETS)
        return not await listed(plane, DEPLOYMENTS) and not sets[0]["metadata"].get("ownerReferences")

    await until(orphaned)
    assert len(await pods()) == 2


async def test_a_finished_job_is_deleted_with_its_pods(plane: Plane) -> None:
    await plane.manager()
    spec = {"ttlSecondsAfterFinished": 1, "template": template({}, restartPolicy="Never")}
    meta = {"name": "sum", "namespace": "default"}
    await plane.client.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})

    async def gone() -> bool:
        await set_pods(plane, "Succeeded")
        return not await listed(plane, JOBS) and not await listed(plane, PODS)

    async def started() -> bool:
        return bool(await listed(plane, PODS))

    await until(started)
    await until(gone)


async def test_a_service_without_a_selector_leads_where_its_endpoints_say(plane: Plane) -> None:
    await plane.manager()
    meta = {"name": "db", "namespace": "default"}
    ports = [{"port": 5432}]
    await plane.client.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}})
    subsets = [{"addresses": [{"ip": "10.9.0.1"}], "notReadyAddresses": [{"ip": "10.9.0.2"}], "ports": ports}]
    await plane.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})

    async def ready() -> dict[str, bool]:
        found = await listed(plane, SLICES, label_selector="kubernetes.io/service-name=db")
        return {one["addresses"][0]: one["conditions"]["ready"] for each in found for one in each["endpoints"]}

    assert await until(ready) == {"10.9.0.1": True, "10.9.0.2": False}
    await plane.client.delete(ENDPOINTS, "default", "db")

    async def gone() -> bool:
        return not await ready()

    await until(gone)


async def test_a_namespace_gets_what_it_needs_and_goes_with_everything(plane: Plane, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("PEM")
    await plane.manager(root_ca_file=ca)
    await plane.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "room"}})
    found = await until(lambda: plane.client.get(builtin("v1", "ConfigMap"), "room", "kube-root-ca.crt"))
    assert found["data"] == {"ca.crt": "PEM"}
    await until(lambda: plane.client.get(builtin("v1", "ServiceAccount"), "room", "default"))
    body = deployment(2)
    body["metadata"]["namespace"] = "room"
    await plane.client.create(body)

    async def pods(count: int) -> bool:
        return len((await plane.client.list(PODS, "room"))[0]) == count

    await until(lambda: pods(2))
    await plane.client.delete(builtin("v1", "Namespace"), "", "room")

    async def gone() -> bool:
        names = {each["metadata"]["name"] for each in (await plane.client.list(builtin("v1", "Namespace")))[0]}
        return "room" not in names

    await until(gone)
    assert not (await plane.client.list(DEPLOYMENTS, "room"))[0] and not (await plane.client.list(PODS, "room"))[0]


async def test_pods_of_a_silent_node_are_replaced(plane: Plane) -> None:
    await plane.manager(node_monitor_grace_period=1.5, node_startup_grace_period=3, node_monitor_period=0.2)
    for name in ("one", "two", "three", "four"):
        await create_node(plane, name)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    living = ("two", "three", "four")
    for name in living:
        await plane.client.create(lease | {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {}})
    body = deployment(1)
    tolerations = [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]
    body["spec"]["template"]["spec"]["tolerations"] = tolerations
    await plane.client.create(body)
    (pod,) = await until(lambda: listed(plane, PODS))
    name = pod["metadata"]["name"]
    (result,) = await plane.client.write([operations.bind("default", name, "one")])
    assert result.code < 300, result
    await set_pods(plane, "Running")
    beat = 0

    async def replaced() -> bool:
        nonlocal beat
        beat += 1
        stamp = f"2026-01-01T00:00:00.{beat:06}Z"
        for each in living:
            await plane.client.patch(LEASES, "kube-node-lease", each, {"spec": {"renewTime": stamp}})
        pods = await listed(plane, PODS)
        lost = next((each for each in pods if each["metadata"]["name"] == name), None)
        return len(pods) == 2 and lost is not None and "deletionTimestamp" in lost["metadata"]

    await until(replaced, 40)
    node = await plane.client.get(builtin("v1", "Node"), "", "one")
    assert {"node.kubernetes.io/unreachable"} == {taint["key"] for taint in node["spec"]["taints"]}
    other = await plane.client.get(builtin("v1", "Node"), "", "two")
    assert not (other.get("spec") or {}).get("taints")


async def test_evictions_within_a_budget_go_on_as_pods_are_replaced(plane: Plane) -> None:
    await plane.manager()
    await plane.client.create(deployment(2))
    body = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    meta = {"name": "web", "namespace": "default"}
    await plane.client.create(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": body}
    )

    async def healthy(count: int) -> list[Obj]:
        status = (await plane.client.get(BUDGETS, "default", "web")).get("status") or {}
        pods = [pod for pod in await listed(plane, PODS) if "deletionTimestamp" not in pod["metadata"]]
        return pods if status.get("currentHealthy") == count and status["disruptionsAllowed"] == count - 1 else []

    async def replaced() -> list[Obj]:
        await set_pods(plane, "Running")
        return await healthy(2)

    old = {pod["metadata"]["name"]: pod for pod in await until(replaced)}
    for pod in old.values():
        pods = await until(replaced)
        (result,) = await plane.client.write([operations.evict(pod)])
        assert result.code < 300, result
        await until(lambda: healthy(1))
        other = next(each for each in pods if each["metadata"]["name"] != pod["metadata"]["name"])
        (result,) = await plane.client.write([operations.evict(other)])
        (cause,) = orjson.loads(result.body)["details"]["causes"]
        assert (result.code, cause["message"]) == (
            429,
            "The disruption budget web needs 1 healthy pods and has 1 currently",
        )
        spared = await plane.client.get(PODS, "default", other["metadata"]["name"])
        assert "deletionTimestamp" not in spared["metadata"]
    left = await until(replaced)
    assert len(left) == 2 and not old.keys() & {pod["metadata"]["name"] for pod in left}


async def test_a_broken_controller_stops_no_other(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr("raykube.controllers.core.deployment.DeploymentController.observe", fails)
    monkeypatch.setattr("raykube.controllers.core.job.JobController.reconcile", fails)
    manager = await plane.manager()
    meta = {"name": "sum", "namespace": "default"}
    spec = {"template": template({}, restartPolicy="Never")}
    await plane.client.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})
    body = deployment(2)
    body["kind"] = "ReplicaSet"
    await plane.client.create(body)

    async def pods() -> bool:
        return len(await listed(plane, PODS)) == 2

    await until(pods)
    assert manager.status()["healthy"]


async def test_controllers_flag(plane: Plane) -> None:
    await plane.manager(controllers=["*", "-replicaset-controller"])
    await plane.client.create(deployment(2))
    await until(lambda: listed(plane, REPLICA_SETS))
    await until(lambda: plane.client.get(builtin("v1", "ServiceAccount"), "default", "default"))
    await asyncio.sleep(0.5)  # nothing to wait for: nobody may create pods
    assert not await listed(plane, PODS)

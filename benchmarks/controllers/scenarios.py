"""What happens in a measurement: objects are made, and their pods live, `step` of them at a time."""

from __future__ import annotations

from benchmarks.controllers.manager import Manager
from benchmarks.controllers.world import Obj, World
from raykube.controllers.core import kinds
from raykube.pb import api_pb2


def template(labels: dict[str, str]) -> Obj:
    env = [{"name": f"VARIABLE_{number}", "value": f"value {number}"} for number in range(3)]
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    container = {"name": "c", "image": "web:1", "env": env, "ports": [{"containerPort": 80}], "resources": resources}
    spec = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}
    return {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "schedulerName": "default-scheduler", **spec},
    }


def deployment(name: str, replicas: int) -> Obj:
    labels = {"app": name, "tier": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(labels),
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        },
    }


async def to_running(manager: Manager, count: int, step: int) -> None:
    """Until so many pods have been started."""
    world, started = manager.world, 0

    def start() -> None:
        nonlocal started
        started += world.start(step)

    while started < count:
        await manager.step(start, lambda: world.bind(step))


async def one_deployment(manager: Manager, pods: int, step: int) -> None:
    manager.world.create(kinds.DEPLOYMENTS, deployment("web", pods))
    await to_running(manager, pods, step)


async def many_deployments(manager: Manager, pods: int, step: int) -> None:
    sets = max(1, pods // 33)
    for number in range(sets):
        manager.world.create(kinds.DEPLOYMENTS, deployment(f"web-{number}", pods // sets))
    await to_running(manager, pods // sets * sets, step)


async def daemon_set(manager: Manager, pods: int, step: int) -> None:
    for number in range(len(manager.world.nodes), pods):
        add_node(manager.world, number)
    labels = {"app": "agent"}
    spec = {
        "selector": {"matchLabels": labels},
        "template": template(labels),
        "updateStrategy": {"type": "RollingUpdate"},
    }
    body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "default"}}
    manager.world.create(kinds.DAEMON_SETS, {**body, "spec": spec})
    await to_running(manager, max(pods, len(manager.world.nodes)), step)


async def job(manager: Manager, pods: int, step: int, **more: str) -> None:
    world, ended = manager.world, 0
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "default"}}
    form = template({"app": "work"})
    form["spec"]["restartPolicy"] = "Never"
    spec = {"completions": pods, "parallelism": min(1000, pods), "backoffLimit": 6, "template": form}
    world.create(kinds.JOBS, {**body, "spec": spec | more})

    def end() -> None:
        nonlocal ended
        if len(world.running) > pods // 20 or not world.bound:
            ended += world.end(step)

    while ended < pods:
        await manager.step(end, lambda: world.start(step), lambda: world.bind(step))


async def indexed_job(manager: Manager, pods: int, step: int) -> None:
    await job(manager, pods, step, completionMode="Indexed")


async def stateful_set(manager: Manager, pods: int, step: int) -> None:
    labels = {"app": "store"}
    spec = {
        "replicas": pods,
        "selector": {"matchLabels": labels},
        "template": template(labels),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
    }
    body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "store", "namespace": "default"}}
    manager.world.create(kinds.STATEFUL_SETS, {**body, "spec": spec})
    await to_running(manager, pods, step)


async def service(manager: Manager, pods: int, step: int) -> None:
    spec = {
        "selector": {"app": "web"},
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "clusterIP": "10.96.0.9",
    }
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": spec}
    manager.world.create(kinds.SERVICES, body)
    await one_deployment(manager, pods, step)


async def quota(manager: Manager, pods: int, step: int) -> None:
    hard = {"pods": "100000", "requests.cpu": "100k", "requests.memory": "100Ti", "count/deployments.apps": "10"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "default"}}
    manager.world.create(kinds.RESOURCE_QUOTAS, {**body, "spec": {"hard": hard}, "status": {"hard": hard, "used": {}}})
    await one_deployment(manager, pods, step)


async def budget(manager: Manager, pods: int, step: int) -> None:
    body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"}}
    spec = {"maxUnavailable": "10%", "selector": {"matchLabels": {"app": "web"}}}
    manager.world.create(kinds.POD_DISRUPTION_BUDGETS, {**body, "spec": spec})
    await one_deployment(manager, pods, step)


async def rolling(manager: Manager, pods: int, step: int) -> None:
    """The figures are those of the update alone: a new pod and an old one's end."""
    await one_deployment(manager, pods, step)
    manager.meter.reset()
    manager.world.writes.clear()
    found = manager.world.objects[kinds.DEPLOYMENTS]["default", "web"]
    form = {**found["spec"]["template"], "metadata": {"labels": {"app": "web", "tier": "web", "version": "2"}}}
    new = {**found, "spec": {**found["spec"], "template": form}}
    new["metadata"] = {**found["metadata"], "generation": 2}
    manager.world.put(kinds.DEPLOYMENTS, new, api_pb2.MODIFIED)
    manager.world.running.clear()
    await to_running(manager, pods, step)


async def deleted(manager: Manager, pods: int, step: int) -> None:
    """The figures are those of the end alone: a Deployment is deleted, its pods are collected."""
    await one_deployment(manager, pods, step)
    manager.meter.reset()
    manager.world.writes.clear()
    manager.world.remove(kinds.DEPLOYMENTS, ("default", "web"))
    while manager.world.objects[kinds.PODS]:
        await manager.step()


SCENARIOS = {
    "deployment": one_deployment,
    "deployments": many_deployments,
    "daemonset": daemon_set,
    "job": job,
    "indexed-job": indexed_job,
    "statefulset": stateful_set,
    "service": service,
    "quota": quota,
    "budget": budget,
    "rolling": rolling,
    "deleted": deleted,
}


def add_node(world: World, number: int) -> None:
    name = f"node-{number}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3}"}
    conditions = [{"type": "Ready", "status": "True"}]
    meta = {"name": name, "labels": labels}
    world.create(
        kinds.NODES, {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"conditions": conditions}}
    )
    world.nodes.append(name)

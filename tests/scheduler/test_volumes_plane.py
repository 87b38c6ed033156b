"""The scheduler with the controller-manager on a real store and apiserver: from a claim that waits to a bound pod."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from raykube.api import volumes
from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.scheduler.config import Config
from raykube.scheduler.service import Service
from tests.controllers.plane import Plane
from tests.controllers.test_volumes import claim, storage_class, volume

pytestmark = pytest.mark.integration
Object = dict[str, Any]

PODS, CLAIMS, VOLUMES = builtin("v1", "Pod"), builtin("v1", "PersistentVolumeClaim"), builtin("v1", "PersistentVolume")


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as plane:
        await plane.manager(leader_elect=False)
        service = Service(Config(api_servers=[plane.grpc], secure_port=0, leader_elect=False))
        await service.start()
        try:
            yield plane
        finally:
            await service.stop()


async def sees(plane: Plane, resource: Resource, name: str, check: Callable[[Object], object]) -> Object:
    namespace = "default" if resource.namespaced else ""
    found: Object = {}
    for _ in range(600):
        found = await plane.client.get(resource, namespace, name)
        if check(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def create(plane: Plane, obj: Object) -> None:
    """Once the namespace and its account are there."""
    obj["metadata"].setdefault("namespace", "default")
    for _ in range(600):
        try:
            await plane.client.create(obj)
            return
        except ApiError as error:
            if error.code not in (403, 404):
                raise
        await asyncio.sleep(0.05)
    raise AssertionError(obj)


def node(name: str) -> Object:
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


def user(name: str, claim_name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": claim_name}}],
        },
    }


def local(name: str, node_name: str) -> Object:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name]}]}
    return volume(name, nodeAffinity={"required": {"nodeSelectorTerms": [term]}})


async def test_pods_get_volumes_and_nodes_together(plane: Plane) -> None:
    waits = storage_class(mode="WaitForFirstConsumer") | {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}
    await plane.client.create(waits)
    for name in ("n1", "n2", "n3"):
        await plane.client.create(node(name))
    for index in range(6):
        await plane.client.create(local(f"v{index}", f"n{index % 3 + 1}"))
        await create(plane, claim(f"c{index}"))
    for index in range(6):
        await create(plane, user(f"p{index}", f"c{index}"))
    where = {}
    for index in range(6):
        bound = await sees(plane, PODS, f"p{index}", lambda pod: pod["spec"].get("nodeName"))
        # The phase is written after what the binding waits for.
        has = await sees(plane, CLAIMS, f"c{index}", lambda claim: volumes.phase(claim) == "Bound")
        disk = await plane.client.get(VOLUMES, "", has["spec"]["volumeName"])
        assert volumes.on_node(disk, {"kubernetes.io/hostname": bound["spec"]["nodeName"]}, "")
        where[disk["metadata"]["name"]] = bound["spec"]["nodeName"]
    assert len(where) == 6


async def test_a_pod_waits_for_a_volume_and_goes_on_when_it_comes(plane: Plane) -> None:
    waits = storage_class(mode="WaitForFirstConsumer") | {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}
    await plane.client.create(waits)
    await plane.client.create(node("n1"))
    await create(plane, claim("c"))
    await create(plane, user("p", "c"))

    def said(pod: Object) -> bool:
        text = "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."
        return any(one.get("message", "").startswith(text) for one in pod["status"].get("conditions") or ())

    await sees(plane, PODS, "p", said)
    await plane.client.create(local("v", "n1"))
    await sees(plane, PODS, "p", lambda pod: pod["spec"].get("nodeName") == "n1")

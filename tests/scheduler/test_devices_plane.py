"""The scheduler with the controller-manager on a real store and apiserver: from a template to a bound pod, and back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from raykube.api import resource_claims
from raykube.api.errors import ApiError
from raykube.api.resource_claims import FINALIZER
from raykube.api.resources import Resource, builtin
from raykube.client import operations
from raykube.scheduler.config import Config
from raykube.scheduler.core.configuration import Settings
from raykube.scheduler.planner import Planner
from raykube.scheduler.service import Service
from tests.controllers.plane import Plane
from tests.scheduler.device_objects import claim, device, device_class, exactly, resource_slice
from tests.scheduler.test_volumes_plane import create, node, sees

pytestmark = pytest.mark.integration
Object = dict[str, Any]

PODS, CLAIMS = builtin("v1", "Pod"), builtin("resource.k8s.io/v1", "ResourceClaim")


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


def new(obj: Object) -> Object:
    """As a user would send it."""
    namespace = {"namespace": "default"} if "namespace" in obj["metadata"] else {}
    return {key: value for key, value in obj.items() if key != "status"} | {
        "metadata": {"name": obj["metadata"]["name"]} | namespace
    }


def template(name: str) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"spec": {"devices": {"requests": [exactly()]}}},
    }


def user(name: str, **entry: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}],
            "tolerations": [{"operator": "Exists"}],
            "resourceClaims": [{"name": "gpu"} | entry],
        },
    }


async def devices(plane: Plane, *nodes: str, each: int) -> None:
    await plane.client.create(new(device_class("gpu", 'device.attributes["gpu.example.com"].model == "A100"')))
    for name in nodes:
        await plane.client.create(node(name))
        gpus = [device(f"gpu-{number}", model="A100") for number in range(each)]
        await plane.client.create(new(resource_slice(f"{name}-gpu", name, gpus)))


async def claim_of(plane: Plane, pod: str) -> Object:
    """The claim that was made for a pod, once it is allocated and the pod bound."""
    found = await sees(plane, PODS, pod, lambda pod: pod["spec"].get("nodeName"))
    (told,) = found["status"]["resourceClaimStatuses"]
    stored = await plane.client.get(CLAIMS, "default", told["resourceClaimName"])
    assert resource_claims.is_reserved_for(stored, found["metadata"]["uid"])
    assert FINALIZER in stored["metadata"]["finalizers"]
    return stored


def said(text: str) -> Callable[[Object], object]:
    return lambda pod: any(text in one.get("message", "") for one in pod["status"].get("conditions") or ())


async def gone(plane: Plane, resource: Resource, name: str) -> None:
    for _ in range(600):
        try:
            await plane.client.get(resource, "default", name)
        except ApiError as error:
            assert error.code == 404
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} is still there")


async def test_pods_get_devices_of_their_own_and_give_them_back(plane: Plane) -> None:
    await devices(plane, "n1", "n2", each=2)
    await create(plane, template("gpu"))
    for number in range(5):
        await create(plane, user(f"p{number}", resourceClaimTemplateName="gpu"))
    bound: dict[str, Object] = {}
    while len(bound) < 4:
        await asyncio.sleep(0.05)
        pods, _ = await plane.client.list(PODS, "default")
        bound = {pod["metadata"]["name"]: pod for pod in pods if pod["spec"].get("nodeName")}
    taken = set()
    for name, pod in bound.items():
        (one,) = (await claim_of(plane, name))["status"]["allocation"]["devices"]["results"]
        assert one["pool"] == pod["spec"]["nodeName"]
        taken.add((one["pool"], one["device"]))
    assert len(taken) == 4
    (left,) = {f"p{number}" for number in range(5)} - bound.keys()
    await sees(plane, PODS, left, said("2 cannot allocate all claims"))

    first = next(iter(bound))
    stored = await claim_of(plane, first)
    status = {"status": {"phase": "Succeeded"}}
    await plane.client.write_one(operations.patch(PODS, "default", first, status, subresource="status"))
    await gone(plane, CLAIMS, stored["metadata"]["name"])
    (now,) = (await claim_of(plane, left))["status"]["allocation"]["devices"]["results"]
    (before,) = stored["status"]["allocation"]["devices"]["results"]
    assert (now["pool"], now["device"]) == (before["pool"], before["device"])


async def test_many_pods_share_one_claim(plane: Plane) -> None:
    await devices(plane, "n1", "n2", each=1)
    await create(plane, new(claim("shared", exactly())))
    for number in range(8):
        await create(plane, user(f"p{number}", resourceClaimName="shared"))
    where = set()
    for number in range(8):
        pod = await sees(plane, PODS, f"p{number}", lambda pod: pod["spec"].get("nodeName"))
        where.add(pod["spec"]["nodeName"])
    assert len(where) == 1
    stored = await plane.client.get(CLAIMS, "default", "shared")
    assert len(resource_claims.reserved_for(stored)) == 8


async def test_a_pod_waits_for_what_is_missing_and_goes_on_when_it_comes(plane: Plane) -> None:
    await plane.client.create(node("n1"))
    await create(plane, user("p", resourceClaimTemplateName="gpu"))
    await sees(plane, PODS, "p", said("ResourceClaim not created yet"))
    await create(plane, template("gpu"))
    await sees(plane, PODS, "p", said("request gpu: device class gpu does not exist"))
    await plane.client.create(new(device_class()))
    await sees(plane, PODS, "p", said("1 cannot allocate all claims"))
    await plane.client.create(new(resource_slice("s", "n1", [device("g0")])))
    await claim_of(plane, "p")


async def test_idle_devices_are_given_back_for_others(plane: Plane) -> None:
    """The claim has a device of a node that its only pod cannot run on."""
    await devices(plane, "n1", "n2", each=1)
    await create(plane, new(claim("c", exactly())))
    selector = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}
    result = {"request": "gpu", "driver": "gpu.example.com", "pool": "n1", "device": "gpu-0"}
    status = {"allocation": {"devices": {"results": [result]}, "nodeSelector": selector}}
    await plane.client.write_one(operations.patch(CLAIMS, "default", "c", {"status": status}, subresource="status"))
    picky = user("p", resourceClaimName="c")
    picky["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "n2"}
    await create(plane, picky)
    await sees(plane, PODS, "p", lambda pod: pod["spec"].get("nodeName") == "n2")
    stored = await plane.client.get(CLAIMS, "default", "c")
    assert stored["status"]["allocation"]["devices"]["results"][0]["pool"] == "n2"


async def test_a_plan_gives_devices_to_pods_of_templates_that_are_not_there_yet(plane: Plane) -> None:
    await devices(plane, "n1", "n2", each=1)
    await create(plane, template("there"))
    planner = Planner(plane.client, Settings())
    await planner.read()
    objects = [template("new"), *(user(f"p{number}", resourceClaimTemplateName="new") for number in range(2))]
    planned = await planner.plan([*objects, user("q", resourceClaimTemplateName="there")])
    assert {one.node for one in planned[:2]} == {"n1", "n2"}
    assert planned[2].why.startswith("0/2 nodes are available: 2 cannot allocate all claims.")
    pods, _ = await plane.client.list(CLAIMS, "default")
    assert pods == [], "nothing is written"


async def test_who_may_use_a_claim_is_written_only_with_its_devices(plane: Plane) -> None:
    await create(plane, new(claim("c", exactly())))
    entry = {"resource": "pods", "name": "p", "uid": "u"}
    write = operations.patch(CLAIMS, "default", "c", {"status": {"reservedFor": [entry]}}, subresource="status")
    with pytest.raises(ApiError, match="may not be specified when `allocated` is not set"):
        await plane.client.write_one(write)

"""Claims and volumes against a real store and apiserver: admission, binding, protection."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.api import volumes
from raykube.api.resources import builtin
from tests.controllers.plane import Plane
from tests.controllers.test_integration import until
from tests.controllers.test_volumes import claim, storage_class, volume

pytestmark = pytest.mark.integration

CLAIMS, VOLUMES = builtin("v1", "PersistentVolumeClaim"), builtin("v1", "PersistentVolume")
Object = dict[str, Any]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as found:
        yield found


async def test_from_a_claim_without_a_class_to_a_released_volume(plane: Plane) -> None:
    await plane.manager(leader_elect=False)
    default = storage_class(default=True) | {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}
    await plane.client.create(default)
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}
    affinity = {"required": {"nodeSelectorTerms": [term]}}
    await plane.client.create(volume("v", nodeAffinity=affinity))

    async def made() -> Object | None:
        wanted = claim("c", storageClassName=None)
        wanted["metadata"]["namespace"] = "default"
        return await plane.client.create(wanted)

    created = await until(made)  # the namespace is made meanwhile
    assert created["spec"]["storageClassName"] == "disks"
    assert created["metadata"]["finalizers"] == [volumes.CLAIM_FINALIZER]

    async def phase(resource: Any, namespace: str, name: str, wanted: str) -> Object:
        async def check() -> Object | None:
            found = await plane.client.get(resource, namespace, name)
            return found if volumes.phase(found) == wanted else None

        found: Object = await until(check)
        return found

    bound = await phase(CLAIMS, "default", "c", "Bound")
    assert bound["status"]["capacity"] == {"storage": "10Gi"}
    found = await phase(VOLUMES, "", "v", "Bound")
    assert found["metadata"]["finalizers"] == [volumes.VOLUME_FINALIZER]
    await plane.client.delete(CLAIMS, "default", "c")
    released = await phase(VOLUMES, "", "v", "Released")
    assert released["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]

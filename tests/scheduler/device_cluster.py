"""A Cluster with devices for tests, and what it says, in short."""

from typing import Any

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.devices import Grant
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.scheduler.device_objects import device
from tests.scheduler.objects import pod

Object = dict[str, Any]


def cluster(*objects: Object) -> Cluster:
    found = Cluster()
    for one in objects:
        give(found, one)
    return found


def give(found: Cluster, one: Object) -> None:
    meta = one["metadata"]
    if one["kind"] == "Node":
        found.on_node(one)
    elif one["kind"] == "ResourceSlice":
        found.devices.set_slice(meta["name"], one)
    elif one["kind"] == "DeviceClass":
        found.devices.set_class(meta["name"], one)
    else:
        found.devices.set_claim((meta["namespace"], meta["name"]), one)


def user(name: str, *claims: str, **more: Any) -> Object:
    entries = [{"name": f"c{number}", "resourceClaimName": one} for number, one in enumerate(claims)]
    return pod(name, resourceClaims=entries, **more)


def schedule(found: Cluster, obj: Object) -> Placement | Diagnosis:
    return found.schedule(found.read_pod(obj))


def grants(found: Placement | Diagnosis) -> list[Grant]:
    assert isinstance(found, Placement), found
    return [one for one in found.reservations if isinstance(one, Grant)]


def results(found: Placement | Diagnosis) -> list[str]:
    """request=device of all that a pod gets."""
    return [
        f"{one['request']}={one['device']}"
        for grant in grants(found)
        if grant.allocation is not None
        for one in grant.allocation["devices"]["results"]
    ]


def why(found: Placement | Diagnosis) -> str:
    assert isinstance(found, Diagnosis), found
    return found.message.partition(": ")[2].partition(". still")[0]


def gpus(*names: str, **attributes: Any) -> list[Object]:
    return [device(name, **attributes) for name in names]

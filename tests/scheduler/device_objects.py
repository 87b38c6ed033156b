"""ResourceSlices, DeviceClasses and ResourceClaims for tests, as the API has them."""

from typing import Any

Object = dict[str, Any]

DRIVER = "gpu.example.com"


def attribute(value: Any) -> Object:
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "string"
    return {kind: value}


def device(name: str, capacity: dict[str, str] | None = None, **attributes: Any) -> Object:
    found: Object = {"name": name, "attributes": {key: attribute(value) for key, value in attributes.items()}}
    if capacity:
        found["capacity"] = {key: {"value": value} for key, value in capacity.items()}
    return found


def resource_slice(name: str, node: str = "", devices: tuple[Object, ...] | list[Object] = (), **more: Any) -> Object:
    """`pool` (default: the node's name), `generation`, `count`, `driver`; others go into the spec."""
    pool = {
        "name": more.pop("pool", node or name),
        "generation": more.pop("generation", 1),
        "resourceSliceCount": more.pop("count", 1),
    }
    spec: Object = {"driver": more.pop("driver", DRIVER), "pool": pool} | more
    if devices:
        spec["devices"] = list(devices)
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": spec,
    }


def device_class(name: str = "gpu", *expressions: str, **spec: Any) -> Object:
    found = {"selectors": [{"cel": {"expression": one}} for one in expressions]} if expressions else {}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": found | spec,
    }


def exactly(name: str = "gpu", count: int = 1, *expressions: str, **more: Any) -> Object:
    return {"name": name, "exactly": option(count, *expressions, **more)}


def option(count: int = 1, *expressions: str, **more: Any) -> Object:
    """`count` 0: all."""
    mode: Object = {"allocationMode": "ExactCount", "count": count} if count else {"allocationMode": "All"}
    found = {"deviceClassName": more.pop("device_class", "gpu")} | mode
    if expressions:
        found["selectors"] = [{"cel": {"expression": one}} for one in expressions]
    return found | more


def claim(name: str, *requests: Object, **more: Any) -> Object:
    """`constraints`, `config`, `namespace`, `status`, `revision`, `owner` (the pod's uid)."""
    metadata: Object = {
        "name": name,
        "namespace": more.pop("namespace", "d"),
        "uid": f"uid-{name}",
        "resourceVersion": str(more.pop("revision", 1)),
    }
    if owner := more.pop("owner", ""):
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "uid": owner, "controller": True}]
    status = more.pop("status", {})
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": {"devices": {"requests": list(requests)} | more},
        "status": status,
    }

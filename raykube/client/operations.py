"""Makes the `Operation`s of a bulk write, and the objects' JSON for them."""

from typing import Any

import orjson

from raykube.api.resources import Resource, by_kind
from raykube.api.selectors import LabelSelector
from raykube.pb import api_pb2

Object = dict[str, Any]
Operation = api_pb2.Operation
Result = api_pb2.Result
PatchType = api_pb2.PatchType  # api_pb2.JSON, MERGE, STRATEGIC or APPLY
_PODS = api_pb2.Resource(version="v1", plural="pods")


def wire(resource: Resource) -> api_pb2.Resource:
    return api_pb2.Resource(group=resource.group, version=resource.version, plural=resource.plural)


def resource_of(obj: Object) -> Resource:
    """The resource that an object's apiVersion and kind name. Raises ValueError for an unknown kind."""
    api_version, kind = str(obj.get("apiVersion", "")), str(obj.get("kind", ""))
    group, _, version = api_version.rpartition("/")
    resource = by_kind(group, version, kind)
    if resource is None:
        raise ValueError(f'no matches for kind "{kind}" in version "{api_version}"')
    return resource


def create(obj: Object, *, field_manager: str = "", strict: bool = False, dry_run: bool = False) -> Operation:
    metadata = obj.get("metadata") or {}
    return Operation(
        verb=api_pb2.CREATE,
        resource=wire(resource_of(obj)),
        namespace=metadata.get("namespace", ""),
        name=metadata.get("name", ""),
        body=orjson.dumps(obj),
        field_manager=field_manager,
        strict=strict,
        dry_run=dry_run,
    )


def update(obj: Object, subresource: str = "", *, field_manager: str = "", strict: bool = False) -> Operation:
    """Replaces the object (or its status); its metadata.resourceVersion, when there, is the precondition."""
    metadata = obj["metadata"]
    return Operation(
        verb=api_pb2.UPDATE,
        resource=wire(resource_of(obj)),
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        subresource=subresource,
        body=orjson.dumps(obj),
        resource_version=int(metadata.get("resourceVersion") or 0),
        field_manager=field_manager,
        strict=strict,
    )


def patch(
    resource: Resource,
    namespace: str,
    name: str,
    body: Object | list[Any] | bytes,
    patch_type: PatchType = api_pb2.MERGE,
    subresource: str = "",
    *,
    field_manager: str = "",
    force: bool = False,
    resource_version: int = 0,
    uid: str = "",
    strict: bool = False,
    dry_run: bool = False,
) -> Operation:
    return Operation(
        verb=api_pb2.PATCH,
        resource=wire(resource),
        namespace=namespace,
        name=name,
        subresource=subresource,
        body=body if isinstance(body, bytes) else orjson.dumps(body),
        patch_type=patch_type,
        field_manager=field_manager,
        force=force,
        resource_version=resource_version,
        uid=uid,
        strict=strict,
        dry_run=dry_run,
    )


def delete(
    resource: Resource,
    namespace: str,
    name: str,
    *,
    uid: str = "",
    resource_version: int = 0,
    grace_period_s: int | None = None,
    propagation: str = "",
) -> Operation:
    options: Object = {}
    if grace_period_s is not None:
        options["gracePeriodSeconds"] = grace_period_s
    if propagation:
        options["propagationPolicy"] = propagation
    if options:
        options = {"kind": "DeleteOptions", "apiVersion": "v1"} | options
    return Operation(
        verb=api_pb2.DELETE,
        resource=wire(resource),
        namespace=namespace,
        name=name,
        uid=uid,
        resource_version=resource_version,
        body=orjson.dumps(options) if options else b"",
    )


def bind(namespace: str, name: str, node: str, *, uid: str = "", resource_version: int = 0) -> Operation:
    """Sets a pod's spec.nodeName."""
    return Operation(
        verb=api_pb2.BIND,
        resource=_PODS,
        namespace=namespace,
        name=name,
        uid=uid,
        resource_version=resource_version,
        node=node,
    )


def evict(pod: Object) -> Operation:
    """Deletes a pod as far as its disruption budgets allow; the answer's code is 429 where they do not."""
    metadata = pod["metadata"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    }
    return Operation(
        verb=api_pb2.CREATE,
        resource=api_pb2.Resource(group="", version="v1", plural="pods"),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        subresource="eviction",
        body=orjson.dumps(eviction),
    )


def selector_text(selector: Object | None) -> str:
    """The query text of a workload's `spec.selector`: a LabelSelector object, or a plain map of labels."""
    if not selector:
        return ""
    if "matchLabels" in selector or "matchExpressions" in selector:
        return str(LabelSelector.from_object(selector))
    return str(LabelSelector.from_map(selector))

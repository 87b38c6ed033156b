"""A controller's Write as the Operation of a bulk request."""

import orjson

from raykube.api.resources import Resource
from raykube.client.operations import Operation, wire
from raykube.controllers.core.plan import Write
from raykube.pb import api_pb2

FIELD_MANAGER = "kube-controller-manager"
VERBS = {"create": api_pb2.CREATE, "update": api_pb2.UPDATE, "patch": api_pb2.PATCH, "delete": api_pb2.DELETE}
PATCHES = {"merge": api_pb2.MERGE, "json": api_pb2.JSON, "strategic": api_pb2.STRATEGIC}


def operation_of(resource: Resource, write: Write) -> Operation:
    """The operation that carries `write` out."""
    body = write.body
    if isinstance(body, dict) and write.verb in ("create", "update"):
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
    elif isinstance(body, dict) and write.verb == "delete":
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **body}
    return Operation(
        verb=VERBS[write.verb],
        resource=wire(resource),
        namespace=write.namespace,
        name=write.name,
        subresource=write.subresource,
        body=orjson.dumps(body) if body is not None else b"",
        patch_type=PATCHES[write.patch] if write.verb == "patch" else api_pb2.PATCH_TYPE_UNSPECIFIED,
        field_manager=FIELD_MANAGER if write.verb != "delete" else "",
        resource_version=write.resource_version,
        uid=write.uid,
    )

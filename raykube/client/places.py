"""Which object a call means: its resource, namespace and name, out of what the caller wrote."""

from collections.abc import Iterable
from typing import Any

from raykube.api.resources import Resource
from raykube.client import operations
from raykube.client.kinds import resource_named, split_name
from raykube.client.objects import Object

Place = tuple[Resource, str, str]  # resource, namespace, name


def scope_of(resource: Resource, namespace: str, all_namespaces: bool = False) -> str:
    """Where objects of a resource are looked for: `namespace`, or "" where there are none or all are meant."""
    return "" if all_namespaces or not resource.namespaced else namespace


def place_of(kind: str | Object, name: str, namespace: str) -> Place:
    """`place_of("deploy", "web", …)`, `place_of("deploy/web", "", …)`, or the place of an Object. Raises ValueError."""
    if isinstance(kind, Object):
        resource = operations.resource_of(kind.raw)
        return resource, kind.namespace or scope_of(resource, namespace), kind.name
    if not name:
        kind, name = split_name(kind)
    resource = resource_named(kind)
    return resource, scope_of(resource, namespace), name


def placed(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The object with its namespace filled in. Raises ValueError for an unknown kind."""
    resource = operations.resource_of(obj)
    metadata = obj.get("metadata") or {}
    if not resource.namespaced or metadata.get("namespace"):
        return obj
    return obj | {"metadata": metadata | {"namespace": namespace}}


def typed(obj: dict[str, Any], resource: Resource) -> dict[str, Any]:
    """The object with its kind, should the server have left it out."""
    return obj if obj.get("kind") else {"kind": resource.kind, "apiVersion": resource.api_version} | obj


def named(place: Place) -> str:
    return f"{place[0].kind.lower()}/{place[2]}"


def summary(places: Iterable[Place]) -> str:
    """What a progress bar calls them."""
    found = list(places)
    return named(found[0]) if len(found) == 1 else f"{len(found)} objects"

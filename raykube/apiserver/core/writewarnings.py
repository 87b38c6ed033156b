"""Of what whoever writes an object is warned: fields that mean something else than it seems, kinds nobody acts on."""

from collections.abc import Iterator
from typing import Any

from raykube.api.resources import Resource
from raykube.api.validation.podwarnings import pod_warnings
from raykube.api.validation.servicewarnings import service_warnings
from raykube.apiserver.core import unserved


def warnings_of(resource: Resource, obj: dict[str, Any], old: dict[str, Any] | None) -> Iterator[str]:
    """Of `obj` in place of `old` (None: it is new), in upstream's words where it has some."""
    if old is None or obj["metadata"].get("generation") != old["metadata"].get("generation"):
        yield from pod_warnings(resource, obj, is_new=old is None)
    text = unserved.warning(resource)
    if text:
        yield text
    if resource.plural == "services" and not resource.group:
        yield from service_warnings(obj)

"""Versions of one resource: one is stored, the others are views of it.

    events                     core/v1 is stored; events.k8s.io/v1 renames a handful of fields
    horizontalpodautoscalers   autoscaling/v2 is stored; v1 has fewer fields (`autoscaling`)

Only `events` has two groups; it lives under /registry/events whatever the group a client speaks.
"""

from raykube.api.resources import Resource, by_path
from raykube.apiserver.core import autoscaling
from raykube.apiserver.core.strategy import Object

_EVENT_FIELDS = (  # core/v1, events.k8s.io/v1
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
)
_TO_EVENTS = dict(_EVENT_FIELDS)
_TO_CORE = {new: old for old, new in _EVENT_FIELDS}


def stored(resource: Resource) -> Resource:
    """The resource whose objects are stored for `resource`: itself, unless it is a view."""
    if resource.view_of is None:
        return resource
    found = by_path(*resource.view_of)
    assert found is not None, resource.view_of
    return found


def convert(obj: Object, source: Resource, target: Resource) -> Object:
    """`obj` of version `source` as version `target`; the same object when they are one."""
    if source is target or source.api_version == target.api_version:
        return obj
    if source.plural == "events":
        names = _TO_EVENTS if target.group else _TO_CORE
        converted = {names.get(key, key): value for key, value in obj.items()}
    else:
        converted = autoscaling.to_v2(obj) if target.version == "v2" else autoscaling.to_v1(obj)
    converted["apiVersion"] = target.api_version
    converted["kind"] = target.kind
    return converted

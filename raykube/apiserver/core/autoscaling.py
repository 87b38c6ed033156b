"""HorizontalPodAutoscalers of autoscaling/v1 (what `kubectl autoscale` posts) as views of the stored autoscaling/v2.

    spec.targetCPUUtilizationPercentage     ↔  the first metric that is the pods' use of cpu, in percent of requests
    status.currentCPUUtilizationPercentage  ↔  the same metric's current value
    what v1 has no field for                ↔  annotations with upstream's names; their values are v2's own JSON

There and back is the identity but for the order of metrics: cpu comes first.
"""

from typing import Any

import orjson

from raykube.api import schema
from raykube.api.errors import ApiError
from raykube.api.resources import builtin

Object = dict[str, Any]

_PREFIX = "autoscaling.alpha.kubernetes.io/"
# field of v1 → (part of the object, list of metrics in v2, what a metric's value is called there)
_PERCENTAGES = {
    "targetCPUUtilizationPercentage": ("spec", "metrics", "target"),
    "currentCPUUtilizationPercentage": ("status", "currentMetrics", "current"),
}
# annotation → the v2 field that it carries
_CARRIED = {
    _PREFIX + "metrics": ("spec", "metrics"),
    _PREFIX + "behavior": ("spec", "behavior"),
    _PREFIX + "current-metrics": ("status", "currentMetrics"),
    _PREFIX + "conditions": ("status", "conditions"),
}
_FIRST_TARGET_PERCENT = 80
_V2 = builtin("autoscaling/v2", "HorizontalPodAutoscaler")


def to_v1(obj: Object) -> Object:
    """A v2 object as v1, but for its apiVersion. `obj` is left as it is."""
    seen = _copied(obj)
    for field, (part, metrics, value) in _PERCENTAGES.items():
        rest = list((seen.get(part) or {}).pop(metrics, None) or ())
        found = next((each for each in rest if _is_cpu(each, value)), None)
        if found is not None:
            rest.remove(found)
            seen[part][field] = found["resource"][value]["averageUtilization"]
        if rest:
            seen[part][metrics] = rest
    for annotation, (part, field) in _CARRIED.items():
        value = (seen.get(part) or {}).pop(field, None)
        if value:
            seen["metadata"].setdefault("annotations", {})[annotation] = orjson.dumps(value).decode()
    return seen


def to_v2(obj: Object) -> Object:
    """A v1 object as v2, but for its apiVersion. `obj` is left as it is. An annotation whose value v2 could not
    have there is dropped."""
    made = _copied(obj)
    annotations = made["metadata"].get("annotations") or {}
    for annotation, (part, field) in _CARRIED.items():
        value = _fitting(part, field, annotations.pop(annotation, ""))
        if value:
            made.setdefault(part, {})[field] = value
    if "annotations" in made["metadata"] and not annotations:
        del made["metadata"]["annotations"]
    for name, (part, metrics, value) in _PERCENTAGES.items():
        percent = (made.get(part) or {}).pop(name, None)
        if percent is None and part == "spec" and not (made.get(part) or {}).get(metrics):
            percent = _FIRST_TARGET_PERCENT
        if percent is not None:
            amount = {"averageUtilization": percent} | ({"type": "Utilization"} if value == "target" else {})
            cpu = {"type": "Resource", "resource": {"name": "cpu", value: amount}}
            made.setdefault(part, {})[metrics] = [cpu, *(made[part].get(metrics) or ())]
    return made


def _is_cpu(metric: Object, value: str) -> bool:
    """Whether all that the metric says fits into v1's percentage."""
    resource = metric.get("resource") or {}
    amount = resource.get(value) or {}
    return (
        metric.get("type") == "Resource"
        and resource.get("name") == "cpu"
        and amount.get("averageUtilization") is not None
        and (value == "current" or amount.get("type") == "Utilization")
    )


def _copied(obj: Object) -> Object:
    """A copy down to what the conversion changes."""
    copy = dict(obj)
    for part in ("metadata", "spec", "status"):
        if isinstance(copy.get(part), dict):
            copy[part] = dict(copy[part])
    if isinstance(copy["metadata"].get("annotations"), dict):
        copy["metadata"]["annotations"] = dict(copy["metadata"]["annotations"])
    return copy


def _fitting(part: str, field: str, text: str) -> Any:
    """The value that an annotation carries for a field of v2; None where there is none, or one of another type: clients
    write annotations as they like, and nothing behind this looks at the field again."""
    if not text:
        return None
    smallest: Object = {"spec": {"maxReplicas": 1, "scaleTargetRef": {"kind": "", "name": ""}}, "status": {}}
    try:
        smallest[part][field] = orjson.loads(text)
        unknown = schema.conform(_V2, smallest)
    except (orjson.JSONDecodeError, ApiError):
        return None
    return smallest[part].get(field) if not unknown and not schema.validate(_V2, smallest) else None

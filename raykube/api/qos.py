"""A pod's quality of service, as its spec gives it."""

from typing import Any

from raykube.api import quantity

Object = dict[str, Any]
COMPUTE = ("cpu", "memory")


def qos_class(spec: Object) -> str:
    """Guaranteed: all cpu and memory limited, requests equal. BestEffort: nothing asked for. Else Burstable.

    What is said of the pod as a whole (`spec.resources`) stands above what is said of its containers.
    """
    whole = spec.get("resources")
    asked, guaranteed = False, True
    for each in [spec] if whole else [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources = each.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in COMPUTE:
            limit = quantity.parse(limits.get(name, 0))
            request = quantity.parse(requests.get(name, limits.get(name, 0)))  # as defaulted
            asked = asked or limit > 0 or request > 0
            guaranteed = guaranteed and limit > 0 and request == limit
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"

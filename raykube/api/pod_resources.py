"""What a pod asks for, and may use, in sum: by resource, as canonical quantities.

Containers and sidecars count together; an init container counts with the sidecars started before it, if that is more.
What is said of the pod as a whole stands above the sum. (KEP-753, KEP-2837)
"""

from collections.abc import Mapping
from typing import Any

from raykube.api import quantity

Object = dict[str, Any]
Amounts = dict[str, str]  # resource → canonical quantity

_OF_WHOLE_PODS = ("cpu", "memory")
HUGE_PAGES = "hugepages-"


def pod_requests(spec: Object, *, overhead: bool = True) -> Amounts:
    """The sum of requests of a pod's spec, with its runtime's `overhead`."""
    total = _total(spec, "requests")
    return add(total, spec.get("overhead") or {}) if overhead else total


def pod_limits(spec: Object, *, overhead: bool = True) -> Amounts:
    """The sum of limits. Overhead is added where there is a limit."""
    total = _total(spec, "limits")
    if not overhead:
        return total
    return add(
        total, {name: text for name, text in (spec.get("overhead") or {}).items() if total.get(name, "0") != "0"}
    )


def _total(spec: Object, kind: str) -> Amounts:
    total: Amounts = {}
    for container in spec.get("containers") or ():
        total = add(total, _of(container, kind))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = _of(container, kind)
        if container.get("restartPolicy") == "Always":
            total, sidecars = add(total, own), add(sidecars, own)
            own = sidecars
        else:
            own = add(own, sidecars)
        peak = largest(peak, own)
    total = largest(total, peak)
    for name, text in _of(spec, kind).items():
        if name in _OF_WHOLE_PODS or name.startswith(HUGE_PAGES):
            total[name] = quantity.canonical(text)
    return total


def _of(container: Object, kind: str) -> Mapping[str, Any]:
    return (container.get("resources") or {}).get(kind) or {}


def add(first: Mapping[str, Any], second: Mapping[str, Any]) -> Amounts:
    """Both together."""
    if not second:
        return {name: quantity.canonical(text) for name, text in first.items()}
    total = {name: quantity.canonical(text) for name, text in first.items()}
    for name, text in second.items():
        total[name] = quantity.add(total[name], text) if name in total else quantity.canonical(text)
    return total


def largest(first: Amounts, second: Amounts) -> Amounts:
    """Of each resource the larger amount."""
    found = dict(first)
    for name, text in second.items():
        if name not in found or quantity.parse(text) > quantity.parse(found[name]):
            found[name] = text
    return found

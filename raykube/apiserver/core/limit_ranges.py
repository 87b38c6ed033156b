"""LimitRanges: what containers get that say nothing of their resources, and what pods and claims may ask for.

    fill    before a pod's own rules: defaults of requests and limits
    check   when all is known: minimum, maximum, and how far limits may be above requests

Messages are upstream's (plugin LimitRanger), those of one LimitRange in the order of resource names.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raykube.api import pod_resources, quantity
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.strategy import Object

ANNOTATION = "kubernetes.io/limit-ranger"
_CONTAINER, _POD, _CLAIM = "Container", "Pod", "PersistentVolumeClaim"

Amounts = Mapping[str, Any]


def is_limited(resource: Resource) -> bool:
    """Whether LimitRanges say anything about objects of this resource."""
    return not resource.group and resource.plural in ("pods", "persistentvolumeclaims")


def fill(pod: Object, limit_ranges: Iterable[Object]) -> None:
    """Gives the containers of a new pod the defaults that they lack."""
    for limit_range in limit_ranges:
        requests: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for item in _items(limit_range, _CONTAINER):
            requests |= item.get("defaultRequest") or {}
            limits |= item.get("default") or {}
        notes: list[str] = []
        for field, what in (("containers", "container"), ("initContainers", "init container")):
            for container in (pod.get("spec") or {}).get(field) or ():
                notes += _fill(container, requests, limits, what)
        if notes:
            annotations = pod["metadata"].get("annotations") or {}
            note = f"LimitRanger plugin set: {'; '.join(notes)}"
            pod["metadata"]["annotations"] = {**annotations, ANNOTATION: note}


def _fill(container: Object, requests: Amounts, limits: Amounts, what: str) -> list[str]:
    resources = container.get("resources") or {}
    notes = []
    for field, defaults, noun in (("requests", requests, "request"), ("limits", limits, "limit")):
        given = resources.get(field) or {}
        added = {name: amount for name, amount in defaults.items() if name not in given}
        if added:
            container["resources"] = resources = {**resources, field: {**given, **added}}
            notes.append(f"{', '.join(sorted(added))} {noun} for {what} {container.get('name', '')}")
    return notes


def check(resource: Resource, obj: Object, limit_ranges: Iterable[Object], old: Object | None = None) -> None:
    """Raises ApiError (403) for the first LimitRange that `obj`, a pod or a claim, does not keep to.

    What is as in `old` is not looked at: nobody has to obey a LimitRange that came later."""
    problems_of = _pod_problems if resource.plural == "pods" else _claim_problems
    before = (old.get("spec") or {}) if old is not None else None
    for limit_range in limit_ranges:
        problems = list(dict.fromkeys(problems_of(obj.get("spec") or {}, before, limit_range)))
        if problems:
            text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise ApiError.forbidden(resource, obj["metadata"].get("name", ""), text)


def _items(limit_range: Object, kind: str) -> Iterator[Object]:
    for item in (limit_range.get("spec") or {}).get("limits") or ():
        if item.get("type") == kind:
            yield item


def _containers(spec: Object) -> list[Object]:
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]


def _amounts(owner: Object) -> tuple[Amounts, Amounts]:
    """(requests, limits)."""
    resources = owner.get("resources") or {}
    return resources.get("requests") or {}, resources.get("limits") or {}


def _sums(spec: Object) -> tuple[Amounts, Amounts]:
    return pod_resources.pod_requests(spec, overhead=False), pod_resources.pod_limits(spec, overhead=False)


def _pod_problems(spec: Object, before: Object | None, limit_range: Object) -> Iterator[str]:
    stored = {container.get("name"): _amounts(container) for container in _containers(before or {})}
    for item in _items(limit_range, _CONTAINER):
        for container in _containers(spec):
            yield from _problems(item, _amounts(container), stored.get(container.get("name")))
    for item in _items(limit_range, _POD):
        yield from _problems(item, _sums(spec), _sums(before) if before is not None else None)


def _claim_problems(spec: Object, before: Object | None, limit_range: Object) -> Iterator[str]:
    requests, stored = _amounts(spec)[0], _amounts(before or {})[0]
    for item in _items(limit_range, _CLAIM):
        for name, bound in _sorted(item.get("min")):
            if name not in requests or not _is_same(name, requests, stored):
                yield from _below(_CLAIM, name, bound, requests, {})
        for name, bound in _sorted(item.get("max")):
            if name in requests and _is_same(name, requests, stored):
                continue
            head = f"maximum {name} usage per {_CLAIM} is {quantity.canonical(bound)}"
            if name not in requests:
                yield f"{head}. No request is specified"
            elif _exceeds(requests[name], bound):
                yield f"{head}, but request is {quantity.canonical(requests[name])}"


def _problems(item: Object, amounts: tuple[Amounts, Amounts], stored: tuple[Amounts, Amounts] | None) -> Iterator[str]:
    requests, limits = amounts
    for field, problem in (("min", _below), ("max", _above), ("maxLimitRequestRatio", _too_far)):
        for name, bound in _sorted(item.get(field)):
            if stored and _is_same(name, requests, stored[0]) and _is_same(name, limits, stored[1]):
                continue
            yield from problem(item["type"], name, bound, requests, limits)


def _is_same(name: str, first: Amounts, second: Amounts) -> bool:
    """Whether both say nothing of a resource, or the same."""
    if name not in first or name not in second:
        return name not in first and name not in second
    return bool(quantity.parse(first[name]) == quantity.parse(second[name]))


def _sorted(amounts: Any) -> list[tuple[str, Any]]:
    return sorted((amounts or {}).items())


def _exceeds(amount: Any, bound: Any) -> bool:
    return bool(quantity.parse(amount) > quantity.parse(bound))


def _below(kind: str, name: str, bound: Any, requests: Amounts, limits: Amounts) -> Iterator[str]:
    head = f"minimum {name} usage per {kind} is {quantity.canonical(bound)}"
    if name not in requests:
        yield f"{head}. No request is specified"
    elif _exceeds(bound, requests[name]):
        yield f"{head}, but request is {quantity.canonical(requests[name])}"
    elif name in limits and _exceeds(bound, limits[name]):
        yield f"{head}, but limit is {quantity.canonical(limits[name])}"


def _above(kind: str, name: str, bound: Any, requests: Amounts, limits: Amounts) -> Iterator[str]:
    head = f"maximum {name} usage per {kind} is {quantity.canonical(bound)}"
    if name not in limits:
        yield f"{head}. No limit is specified"
    elif _exceeds(limits[name], bound):
        yield f"{head}, but limit is {quantity.canonical(limits[name])}"
    elif name in requests and _exceeds(requests[name], bound):
        yield f"{head}, but request is {quantity.canonical(requests[name])}"


def _too_far(kind: str, name: str, bound: Any, requests: Amounts, limits: Amounts) -> Iterator[str]:
    head = f"{name} max limit to request ratio per {kind} is {quantity.canonical(bound)}"
    request, limit = quantity.parse(requests.get(name, 0)), quantity.parse(limits.get(name, 0))
    if not request:
        yield f"{head}, but no request is specified or request is 0"
    elif not limit:
        yield f"{head}, but no limit is specified or limit is 0"
    elif limit > request * quantity.parse(bound):
        yield f"{head}, but provided ratio is {float(limit / request):f}"

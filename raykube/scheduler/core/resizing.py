"""A pod that is being resized in place counts with all that it may have: what its spec asks for, and what its machine
has promised it and given it so far.

    spec 1, promised 4              being made smaller: 4 until its kubelet says that it has less
    spec 4, promised 1              being made larger: 4, so that the room for it goes to nobody else
    spec 90, promised 1, Infeasible 1: the machine will never give it that, and what is asked for in vain costs nobody
"""

from collections.abc import Iterable, Sequence
from typing import Any

from raykube.scheduler.core.requests import amount

Object = dict[str, Any]

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
INFEASIBLE = "Infeasible"


def is_told_of(status: Object) -> bool:
    """Whether a kubelet says that a resize is under way, or waits."""
    return any(one.get("type") in (PENDING, IN_PROGRESS) for one in status.get("conditions") or ())


def counted(pod: Object) -> Object:
    """The pod with the requests that count for its containers; itself where the spec says them."""
    status, spec = pod.get("status") or {}, dict(pod["spec"])
    in_vain = any(
        one.get("type") == PENDING and one.get("reason") == INFEASIBLE for one in status.get("conditions") or ()
    )
    for group, found in (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")):
        if spec.get(group) and status.get(found):
            spec[group] = _counted(spec[group], status[found], in_vain)
    same = all(spec.get(group) is pod["spec"].get(group) for group in ("containers", "initContainers"))
    return pod if same else pod | {"spec": spec}


def _counted(containers: Sequence[Object], statuses: Iterable[Object], in_vain: bool) -> Sequence[Object]:
    by_name = {one["name"]: one for one in statuses}
    found = [_largest(container, by_name.get(container["name"]) or {}, in_vain) for container in containers]
    return containers if all(a is b for a, b in zip(found, containers, strict=True)) else found


def _largest(container: Object, status: Object, in_vain: bool) -> Object:
    asked: Object = (container.get("resources") or {}).get("requests") or {}
    promised, given = status.get("allocatedResources"), (status.get("resources") or {}).get("requests")
    said = [each for each in (promised, given) if each and each != asked]
    if not said:
        return container
    largest = dict(asked)
    if in_vain:
        largest |= promised or given or {}
    for each in said:
        for name, quantity in each.items():
            if name not in largest or amount(name, quantity) > amount(name, largest[name]):
                largest[name] = quantity
    if all(name in asked and amount(name, asked[name]) == amount(name, most) for name, most in largest.items()):
        return container
    return container | {"resources": {**(container.get("resources") or {}), "requests": largest}}

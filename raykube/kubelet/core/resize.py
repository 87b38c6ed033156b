"""Resizing pods in place: what a pod asks for, what the machine has promised it, what its containers really have.

    spec (wanted) ── decide ──► allocated ── steps ──► applied, or the container restarts
                        └─ Deferred: not now; Infeasible: never on this machine

What is allocated stands for the pod wherever the machine counts: in admission, control groups, and quality of service.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.admission import shortage
from raykube.kubelet.core.observed import ObservedPod
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import pod_requests

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
CONDITIONS = (PENDING, IN_PROGRESS)

Sizes = Mapping[str, Object]  # by container: its resources


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str  # Deferred, Infeasible
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """One running container that has other resources than it should."""

    name: str
    container_id: str
    restart: bool  # its resizePolicy wants that


def resizable(pod: Object) -> list[Object]:
    """The containers whose resources may change: those that run beside each other."""
    return [spec for spec in pods.init_containers(pod) if pods.is_sidecar(spec)] + pods.containers(pod)


def sizes(pod: Object) -> dict[str, Object]:
    """What the spec asks for."""
    return {spec["name"]: spec.get("resources") or {} for spec in resizable(pod)}


def reported(pod: Object) -> dict[str, Object]:
    """What the status says that containers have: an earlier kubelet's word. None for those that it does not tell of."""
    status = pod.get("status") or {}
    every = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return {one["name"]: one["resources"] for one in every if one.get("resources") is not None}


def sized(pod: Object, allocated: Sizes) -> Object:
    """The pod with the resources that it has been promised."""
    spec = dict(pod["spec"])
    for group in ("initContainers", "containers"):
        if spec.get(group):
            spec[group] = [
                one | {"resources": allocated[one["name"]]} if one["name"] in allocated else one for one in spec[group]
            ]
    return pod | {"spec": spec}


def same(left: Object, right: Object) -> bool:
    """Whether two resources are equal, however their amounts are written."""
    return not _changed(left, right)


def _changed(left: Object, right: Object) -> set[str]:
    """The names of resources that differ."""
    found = set()
    for kind in ("requests", "limits"):
        mine, theirs = left.get(kind) or {}, right.get(kind) or {}
        for name in mine.keys() | theirs.keys():
            amounts = [None if name not in one else quantity.parse(one[name]) for one in (mine, theirs)]
            if amounts[0] != amounts[1]:
                found.add(name)
    return found


def wants_resize(pod: Object, allocated: Sizes) -> bool:
    return any(not same(wanted, allocated.get(name, wanted)) for name, wanted in sizes(pod).items())


def decide(pod: Object, others: Iterable[Object], node: Object) -> Refusal | None:
    """None when the machine can give the pod what its spec asks for, beside `others` (as they are allocated)."""
    if pods.is_static(pod):
        return Refusal("Infeasible", "In-place resize of static-pods is not supported")
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    requests = pod_requests(pod)
    for name in ("memory", "cpu"):
        unit = 1000 if name == "cpu" else 1
        wanted, have = requests.get(name, 0), quantity.parse(allocatable.get(name, "0"))
        if name in allocatable and wanted > have:
            shown = f"{name}, requested: {ceil(wanted * unit)}, capacity: {int(have * unit)}"
            return Refusal("Infeasible", f"Node didn't have enough capacity: {shown}")
    missing = shortage(pod, others, node)
    return Refusal("Deferred", missing[1]) if missing is not None else None


def steps(pod: Object, allocated: Sizes, applied: Sizes, observed: ObservedPod) -> list[Step]:
    """What is left to do, `applied` being by container id."""
    found = []
    for spec in resizable(pod):
        run = observed.latest(spec["name"])
        if run is None or run not in observed.running or run.id not in applied:
            continue
        changed = _changed(applied[run.id], allocated.get(spec["name"], {}))
        if changed:
            policies = {one["resourceName"]: one["restartPolicy"] for one in spec.get("resizePolicy") or ()}
            restart = any(policies.get(name) == "RestartContainer" for name in changed)
            found.append(Step(spec["name"], run.id, restart))
    return found

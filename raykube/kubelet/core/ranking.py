"""Who goes first when the machine runs short, and what is said of it; also who is over a limit of its own on disk.

Order: who uses more than it asked for, then who has less priority, then who uses most above its request. A pod that
nobody could measure goes before those that are measured.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.qos import pod_requests, qos_class
from raykube.kubelet.core.status import Verdict
from raykube.kubelet.core.thresholds import DISK_PRESSURE, MEMORY_PRESSURE, Observations, Threshold
from raykube.kubelet.core.usage import ContainerUsage, PodUsage

REASON = "Evicted"
DISRUPTION_REASON = "TerminationByKubelet"
CRITICAL_PRIORITY = 2_000_000_000
GRACE_HARD_S = 1
MEMORY_TAINT = "node.kubernetes.io/memory-pressure"

Find = Callable[[str], PodUsage | None]


def is_critical(pod: Object) -> bool:
    """Static and system pods, which are never evicted and always admitted."""
    return pods.is_static(pod) or priority(pod) >= CRITICAL_PRIORITY


def priority(pod: Object) -> int:
    return int(pod["spec"].get("priority") or 0)


def _container_disk(one: ContainerUsage, with_rootfs: bool = True) -> int:
    parts = (one.rootfs if with_rootfs else None, one.logs)
    return sum(part.used for part in parts if part is not None)


def _disk(usage: PodUsage, signal: str, own_image_fs: bool) -> tuple[int, int]:
    """(bytes, inodes) that count for the file system that is short."""
    parts = []
    for one in usage.containers:
        if not (own_image_fs and signal.startswith("nodefs")):
            parts.append(one.rootfs)
        if not (own_image_fs and not signal.startswith("nodefs")):
            parts.append(one.logs)
    if not (own_image_fs and not signal.startswith("nodefs")):
        parts.extend(usage.volumes.values())
    known = [part for part in parts if part is not None]
    return sum(part.used for part in known), sum(part.inodes_used for part in known)


def _used(usage: PodUsage, threshold: Threshold, own_image_fs: bool) -> int | None:
    match threshold.resource:
        case "memory":
            return usage.memory.working_set if usage.memory is not None else None
        case "pids":
            return usage.processes
        case "inodes":
            return _disk(usage, threshold.signal, own_image_fs)[1]
        case _:
            return _disk(usage, threshold.signal, own_image_fs)[0]


def ranked(members: Iterable[Object], find: Find, threshold: Threshold, own_image_fs: bool) -> list[Object]:
    """The pods in the order in which they are to go."""

    def place(pod: Object) -> tuple[bool, bool, int, int]:
        usage = find(pods.uid(pod))
        used = _used(usage, threshold, own_image_fs) if usage is not None else None
        if used is None:
            return False, False, priority(pod), 0
        # Nobody asks for inodes or processes.
        request = int(pod_requests(pod).get(threshold.resource, 0))
        exceeds = used > request if threshold.resource in ("memory", "ephemeral-storage") else True
        return True, not exceeds, priority(pod), request - used

    return sorted(members, key=place)


def _shown(amount: int) -> str:
    return quantity.format_quantity(amount, quantity.BINARY)


def eviction(
    pod: Object, usage: PodUsage | None, threshold: Threshold, observations: Observations, grace_s_max: int
) -> Verdict:
    """What becomes of a pod that goes because of a threshold. `grace_s_max`: of soft thresholds."""
    resource = threshold.resource
    message = f"The node was low on resource: {resource}. "
    seen = observations.get(threshold.signal)
    if seen is not None:
        wanted = threshold.amount.of(seen.capacity)
        message += f"Threshold quantity: {_shown(wanted)}, available: {_shown(seen.available)}. "
    for one in usage.containers if usage is not None else ():
        spec = pods.container(pod, one.name)
        if spec is None:
            continue
        request = ((spec.get("resources") or {}).get("requests") or {}).get(resource, "0")
        if resource == "memory":
            used = one.memory.working_set if one.memory is not None else None
        elif resource == "ephemeral-storage":
            used = _container_disk(one)
        else:
            used = None
        if used is not None and used > quantity.value(request):
            message += (
                f"Container {one.name} was using {_shown(used)}, request is {request}, "
                f"has larger consumption of {resource}. "
            )
    grace_s = min(pods.grace_s(pod), grace_s_max) if threshold.soft else GRACE_HARD_S
    return Verdict("Failed", REASON, message, DISRUPTION_REASON, grace_s)


# -- limits of a pod's own


@dataclass(frozen=True, slots=True)
class Excess:
    signal: str  # as evictions are counted by
    message: str

    def verdict(self) -> Verdict:
        return Verdict("Failed", REASON, self.message, DISRUPTION_REASON, GRACE_HARD_S)


def _storage_limit(spec: Object) -> str | None:
    return ((spec.get("resources") or {}).get("limits") or {}).get("ephemeral-storage")


def has_disk_limit(pod: Object) -> bool:
    """Whether the pod's use of the disk must be looked at."""
    sized = any((volume.get("emptyDir") or {}).get("sizeLimit") for volume in pod["spec"].get("volumes") or ())
    return sized or any(_storage_limit(spec) is not None for spec in pods.all_containers(pod))


def _pod_storage_limit(pod: Object) -> int | None:
    """The containers' limits together, or the largest init container's where that is more."""
    own = [quantity.value(limit) for spec in pods.containers(pod) if (limit := _storage_limit(spec)) is not None]
    sidecars, largest = 0, 0
    for spec in pods.init_containers(pod):
        limit = _storage_limit(spec)
        if limit is None:
            continue
        if pods.is_sidecar(spec):
            sidecars += quantity.value(limit)
        else:
            largest = max(largest, quantity.value(limit) + sidecars)
    if not own and not sidecars and not largest:
        return None
    return max(sum(own) + sidecars, largest)


def excess(pod: Object, usage: PodUsage, own_image_fs: bool) -> Excess | None:
    """The limit on disk that a pod is over, if it is."""
    for volume in pod["spec"].get("volumes") or ():
        source = volume.get("emptyDir") or {}
        limit, used = source.get("sizeLimit"), usage.volumes.get(volume["name"])
        if limit and source.get("medium") != "Memory" and used is not None and 0 < quantity.value(limit) < used.used:
            text = f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{quantity.canonical(limit)}". '
            return Excess("emptydirfs.limit", text)
    total = _pod_storage_limit(pod)
    disk = usage.disk
    if total is not None and disk is not None and disk.used > total:
        text = f"Pod ephemeral local storage usage exceeds the total limit of containers {_shown(total)}. "
        return Excess("ephemeralpodfs.limit", text)
    for one in usage.containers:
        spec = pods.container(pod, one.name)
        limit = _storage_limit(spec) if spec is not None else None
        if limit is not None and _container_disk(one, not own_image_fs) > quantity.value(limit):
            shown = quantity.canonical(limit)
            text = f'Container {one.name} exceeded its local ephemeral storage limit "{shown}". '
            return Excess("ephemeralcontainerfs.limit", text)
    return None


# -- who may still come


def _tolerates_memory(toleration: Object) -> bool:
    key, effect = toleration.get("key") or "", toleration.get("effect") or ""
    if effect not in ("", "NoSchedule") or key not in ("", MEMORY_TAINT):
        return False
    return toleration.get("operator") == "Exists" or (key != "" and not toleration.get("value"))


def admit_under_pressure(pod: Object, conditions: frozenset[str]) -> Verdict | None:
    """None where the pod may start though the node has these conditions."""
    if not conditions or is_critical(pod):
        return None
    tolerates = any(map(_tolerates_memory, pod["spec"].get("tolerations") or ()))
    if conditions == {MEMORY_PRESSURE} and (tolerates or qos_class(pod) != "BestEffort"):
        return None
    shown = " ".join(sorted(conditions, key=(MEMORY_PRESSURE, DISK_PRESSURE, "PIDPressure").index))
    return Verdict("Failed", REASON, f"Pod was rejected: The node had condition: [{shown}]. ")

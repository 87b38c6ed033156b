"""What only pods have: being bound to a node, and who may be evicted."""

from raykube.api import meta
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core.strategy import Object


def bind(resource: Resource, pod: Object, node: str, binding: Object | None, stamp: str) -> None:
    """Assigns the pod to `node`, in place, at the time `stamp`. Raises Conflict when it can't be assigned any more."""
    metadata, spec = pod["metadata"], pod["spec"]
    name = metadata["name"]
    if not node:
        raise ApiError.bad_request("a binding needs the name of its target node")
    if metadata.get("deletionTimestamp"):
        raise _conflict(resource, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        raise _conflict(resource, name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
    if spec.get("schedulingGates"):
        raise _conflict(resource, name, f"pod {name} has non-empty .spec.schedulingGates")
    spec["nodeName"] = node
    annotations = ((binding or {}).get("metadata") or {}).get("annotations")
    if annotations:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
    status = pod.setdefault("status", {})
    status.pop("nominatedNodeName", None)
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp}
    if metadata.get("generation"):
        scheduled["observedGeneration"] = metadata["generation"]
    kept = [condition for condition in status.get("conditions") or () if condition.get("type") != "PodScheduled"]
    status["conditions"] = [*kept, scheduled]


def tell(pod: Object, condition: Object, now: float) -> bool:
    """Puts a condition into the pod's status, in place; whether that changed anything."""
    generation = pod["metadata"].get("generation")
    seen = {"observedGeneration": generation} if generation else {}
    return meta.set_condition(
        pod.setdefault("status", {}).setdefault("conditions", []), {"lastProbeTime": None, **condition, **seen}, now
    )


def _conflict(resource: Resource, name: str, message: str) -> ApiError:
    status = ApiError.conflict(resource, name, message).status()
    status["message"] = f'Operation cannot be fulfilled on pods/binding "{name}": {message}'
    status["details"] = {"name": name, "kind": "pods/binding"}
    return ApiError.from_status(status)


def ready(pod: Object) -> bool:
    """Whether the pod counts as healthy for a disruption budget."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def evictable_at_once(pod: Object) -> bool:
    """Pods that have ended, wait for a node or are being deleted disturb no budget."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))

"""What controllers ask of a pod: is it active, ready, available; which one is the first to go."""

from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import conditions
from raykube.controllers.core.plan import Obj


def phase(pod: Obj) -> str:
    """`status.phase`, "Pending" when there is none."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminal(pod: Obj) -> bool:
    """Whether all containers have ended for good."""
    return phase(pod) in ("Succeeded", "Failed")


def is_terminating(pod: Obj) -> bool:
    """Whether deletion was asked for."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Obj) -> bool:
    """Whether the pod counts as a replica: neither ended nor being deleted."""
    return not is_terminal(pod) and not is_terminating(pod)


def ready_since(pod: Obj) -> float | None:
    """When the pod became ready; None when it is not. A condition without a time counts as ready for ever."""
    condition = conditions.find((pod.get("status") or {}).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    moment = condition.get("lastTransitionTime")
    return parse_rfc3339(moment) if moment else 0.0


def is_ready(pod: Obj) -> bool:
    """Whether the Ready condition is true."""
    return conditions.is_true((pod.get("status") or {}).get("conditions"), "Ready")


def available_in(pod: Obj, min_ready_s: int, now: float) -> float | None:
    """Seconds until the pod has been ready for `min_ready_s`: 0 is available now, None is not ready."""
    since = ready_since(pod)
    if since is None:
        return None
    return max(0.0, since + min_ready_s - now) if min_ready_s else 0.0


def restarts(pod: Obj) -> int:
    """The largest restart count of its containers."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(status.get("restartCount", 0)) for status in statuses), default=0)


def node_name(pod: Obj) -> str:
    """Where the pod runs; "" before it is bound."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def deletion_rank(pod: Obj, neighbours: int, now: float) -> tuple[float, ...]:
    """Sort key of who goes first when there are too many: those whose loss costs least.

    Unassigned before assigned, pending before running, not ready before ready, cheaper `pod-deletion-cost` first,
    then those with more `neighbours` (replicas of the same set on the same node), ready for a shorter time (compared by
    magnitude, so that small differences do not decide), more restarts, younger."""
    meta = pod["metadata"]
    since = ready_since(pod)
    ready_for = int(max(now - since, 0.0)).bit_length() if since is not None else 0
    created = meta.get("creationTimestamp")
    return (
        1 if node_name(pod) else 0,
        PHASE_RANK.get(phase(pod), 0),
        0 if since is None else 1,
        _deletion_cost(meta.get("annotations") or {}),
        -neighbours,
        ready_for,
        -restarts(pod),
        -(parse_rfc3339(created) if created else now),
    )


def _deletion_cost(annotations: dict[str, str]) -> int:
    try:
        return int(annotations.get("controller.kubernetes.io/pod-deletion-cost", "0"))
    except ValueError:
        return 0


def from_template(template: Obj, owner: Obj, namespace: str, name: str) -> Obj:
    """A pod made of `template`: its labels, annotations, finalizers and spec, owned by `owner` (a reference)."""
    meta = template.get("metadata") or {}
    metadata: Obj = {"name": name, "namespace": namespace, "ownerReferences": [owner]}
    for field in ("labels", "annotations", "finalizers"):
        if meta.get(field):
            metadata[field] = list(meta[field]) if field == "finalizers" else dict(meta[field])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}

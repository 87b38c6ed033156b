"""What controllers ask of a pod: is it active, ready, available; which one is the first to go."""

from collections.abc import Iterable

from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import conditions, kinds
from raykube.controllers.core.plan import Obj, View

JOB_FINALIZER = "batch.kubernetes.io/job-tracking"  # holds a pod until its Job has counted it


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
    if not min_ready_s:
        return 0.0 if is_ready(pod) else None
    since = ready_since(pod)
    return None if since is None else max(0.0, since + min_ready_s - now)


def restarts(pod: Obj) -> int:
    """The largest restart count of its containers."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(status.get("restartCount", 0)) for status in statuses), default=0)


def node_name(pod: Obj) -> str:
    """Where the pod runs; "" before it is bound."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def named(view: View, namespace: str, names: Iterable[str]) -> list[Obj]:
    """Those of the pods that there are."""
    found = (view.get(kinds.PODS, namespace, name) for name in names)
    return [pod for pod in found if pod is not None]


def burst(view: View, most: int) -> int:
    """How many pods one plan may create: while they are refused, one at a time asks whether that is over."""
    return 1 if view.error else most


REQUIRED_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"
NAME_FIELD = "metadata.name"


def target_node(pod: Obj) -> str:
    """Where a pod of a DaemonSet runs, or is meant to by its node affinity; "" when nothing says so."""
    required = (((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED_AFFINITY) or {}
    if node_name(pod) or not required:
        return node_name(pod)
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == NAME_FIELD and field.get("operator") == "In" and len(field.get("values") or ()) == 1:
                return str(field["values"][0])
    return ""


PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def deletion_rank(pod: Obj, neighbours: int, now: float) -> tuple[float, ...]:
    """Sort key of who goes first when there are too many: those whose loss costs least.

    Unassigned before assigned, pending before running, not ready before ready, cheaper `pod-deletion-cost` first,
    then those with more `neighbours` (replicas of the same set on the same node), ready for a shorter time (compared by
    magnitude, so that small differences do not decide), more restarts, younger."""
    return (*deletion_group(pod), -neighbours, *deletion_order(pod, now))


def deletion_group(pod: Obj) -> tuple[float, ...]:
    """The first part of `deletion_rank`, which neither time nor neighbours move."""
    return (
        1 if node_name(pod) else 0,
        PHASE_RANK.get(phase(pod), 0),
        1 if is_ready(pod) else 0,
        _deletion_cost(pod["metadata"].get("annotations") or {}),
    )


def deletion_order(pod: Obj, now: float) -> tuple[float, ...]:
    """The last part of `deletion_rank`: who goes first of those that are alike and have as many neighbours."""
    since = ready_since(pod)
    ready_for = int(max(now - since, 0.0)).bit_length() if since is not None else 0
    created = pod["metadata"].get("creationTimestamp")
    return ready_for, -restarts(pod), -(parse_rfc3339(created) if created else now)


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

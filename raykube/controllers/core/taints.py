"""Taints of nodes, and how long a pod may stay with them."""

from collections.abc import Callable, Sequence

from raykube.controllers.core.plan import Obj

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
NO_EXECUTE, NO_SCHEDULE = "NoExecute", "NoSchedule"


def taints_of(node: Obj | None, effect: str = "") -> list[Obj]:
    """The taints of a node, of one effect when it is given."""
    taints = ((node or {}).get("spec") or {}).get("taints") or []
    return [taint for taint in taints if not effect or taint.get("effect") == effect]


def tolerates(toleration: Obj, taint: Obj) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if not key:
        return bool(operator == "Exists")
    if key != taint.get("key"):
        return False
    return bool(operator == "Exists" or (toleration.get("value") or "") == (taint.get("value") or ""))


def leaves_at(pod: Obj, taints: Sequence[Obj], since: Callable[[Obj], float]) -> float | None:
    """When the pod has to leave a node with these NoExecute taints: -inf is at once, None never.

    `since(taint)` says when the taint came. The first taint whose tolerance ends decides."""
    tolerations = (pod.get("spec") or {}).get("tolerations") or ()
    earliest: float | None = None
    for taint in taints:
        covering = [toleration for toleration in tolerations if tolerates(toleration, taint)]
        if not covering:
            return float("-inf")
        limits = [int(each["tolerationSeconds"]) for each in covering if each.get("tolerationSeconds") is not None]
        if limits:
            moment = since(taint) + max(min(limits), 0)
            earliest = moment if earliest is None else min(earliest, moment)
    return earliest

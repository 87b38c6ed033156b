"""What `Client.wait` waits for: a goal judges one object as reached, not yet, or never.

    "Available", "Ready", "Complete", …   a condition with status True (or `Ready=False`)
    "deleted"                             the object is gone
    "exists"                              it is there
    a function of Object                  it returned true
    None                                  what its kind is for: a Deployment or StatefulSet rolled out, a Pod Ready or
                                          Succeeded, a Job Complete, a Node Ready; else that it exists

A condition that its controller wrote for an older generation of the object does not count.
"""

from collections.abc import Callable

from raykube.client.objects import Object

Goal = str | Callable[[Object], bool] | None


class Unreachable(Exception):
    """The goal cannot be reached any more; the message says why."""


def reached(goal: Goal, obj: Object | None) -> bool:
    """Whether `obj` (None: there is none) has reached the goal. Raises Unreachable."""
    if goal == "deleted":
        return obj is None
    if obj is None:
        return False
    if callable(goal):
        return bool(goal(obj))
    if goal is None:
        return _usual(obj)
    if goal == "exists":
        return True
    kind, _, status = goal.partition("=")
    return _condition(obj, kind, status or "True")


def _condition(obj: Object, kind: str, wanted: str) -> bool:
    if int(obj.status.get("observedGeneration") or 0) < int(obj.metadata.get("generation") or 0) and (
        "observedGeneration" in obj.status
    ):
        return False
    conditions: list[dict[str, str]] = obj.status.get("conditions") or []
    found = next((c for c in conditions if c.get("type", "").lower() == kind.lower()), {})
    if str(found.get("status", "")).lower() == wanted.lower():
        return True
    if obj.kind == "Job" and kind.lower() == "complete" and obj.condition("Failed").get("status") == "True":
        failed = obj.condition("Failed")
        raise Unreachable(f"{obj} failed: {failed.get('reason', '')} {failed.get('message', '')}".strip())
    if obj.kind == "Pod" and kind.lower() == "ready" and obj.phase in ("Succeeded", "Failed"):
        raise Unreachable(f"{obj} has ended: {obj.phase}")
    return False


def _usual(obj: Object) -> bool:
    if obj.kind == "Pod":
        return obj.phase == "Succeeded" or _condition(obj, "Ready", "True")
    if obj.kind == "Job":
        return _condition(obj, "Complete", "True")
    if obj.kind == "Node":
        return _condition(obj, "Ready", "True")
    if obj.kind == "Deployment":
        wanted = int(obj.get("spec.replicas", 1))
        return (
            int(obj.status.get("observedGeneration") or 0) >= int(obj.metadata.get("generation") or 0)
            and int(obj.status.get("updatedReplicas") or 0) == wanted
            and int(obj.status.get("replicas") or 0) == wanted
            and int(obj.status.get("availableReplicas") or 0) == wanted
        )
    if obj.kind == "StatefulSet":
        wanted = int(obj.get("spec.replicas", 1))
        kept = min(int(obj.get("spec.updateStrategy.rollingUpdate.partition", 0)), wanted)
        by_hand = obj.get("spec.updateStrategy.type", "") == "OnDelete"
        return (
            int(obj.status.get("observedGeneration") or 0) >= int(obj.metadata.get("generation") or 0)
            and int(obj.status.get("availableReplicas") or 0) == wanted
            and (by_hand or int(obj.status.get("updatedReplicas") or 0) >= wanted - kept)
        )
    if obj.kind == "DaemonSet":
        wanted = int(obj.status.get("desiredNumberScheduled") or 0)
        by_hand = obj.get("spec.updateStrategy.type", "") == "OnDelete"
        return (
            int(obj.status.get("observedGeneration") or 0) >= int(obj.metadata.get("generation") or 0)
            and int(obj.status.get("numberAvailable") or 0) == wanted
            and (by_hand or int(obj.status.get("updatedNumberScheduled") or 0) == wanted)
        )
    if obj.kind == "ReplicaSet":
        return int(obj.status.get("readyReplicas") or 0) == int(obj.get("spec.replicas", 1))
    return True

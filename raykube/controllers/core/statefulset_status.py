"""What a StatefulSet's status says of its pods, and when a roll-out is complete."""

from collections.abc import Sequence

from raykube.controllers.core import pods, statefulset_pods
from raykube.controllers.core.plan import Draft, Obj
from raykube.controllers.core.revisions import desired_of


def status_of(
    stateful_set: Obj, owned: Sequence[Obj], current: str, update: str, collisions: int, draft: Draft, now: float
) -> Obj:
    """The status. `current` and `update` are names of revisions; `draft` is woken when a ready pod gets available."""
    counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"), 0)
    for pod in owned:
        counts["replicas"] += 1
        if statefulset_pods.is_ready(pod):
            counts["readyReplicas"] += 1
            wait_s = statefulset_pods.available_in(pod, stateful_set, now)
            if wait_s == 0:
                counts["availableReplicas"] += 1
            elif wait_s is not None:
                draft.wake_after(wait_s)
        if not pods.is_terminating(pod):
            revision = statefulset_pods.revision_of(pod)
            counts["currentReplicas"] += revision == current
            counts["updatedReplicas"] += revision == update
    if _is_rolled_out(stateful_set, counts):
        current = update
        counts["currentReplicas"] = counts["updatedReplicas"]
    always = ("replicas", "availableReplicas")
    return {
        **{field: count for field, count in counts.items() if count or field in always},
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": collisions,
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
    }


def _is_rolled_out(stateful_set: Obj, counts: dict[str, int]) -> bool:
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    whole = desired_of(stateful_set)
    return strategy.get("type", "RollingUpdate") == "RollingUpdate" and (
        counts["updatedReplicas"] == counts["readyReplicas"] == counts["replicas"] == whole
    )

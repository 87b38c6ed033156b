"""The status of a Deployment: counts over its ReplicaSets, and the conditions Available, Progressing, ReplicaFailure.

Progressing tells how the roll-out goes: True while something got better within `progressDeadlineSeconds` of the last
time (`lastUpdateTime`), False with ProgressDeadlineExceeded after that, True with NewReplicaSetAvailable once complete.
"""

from collections.abc import Sequence

from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.controllers.core import conditions
from raykube.controllers.core.plan import Draft, Obj
from raykube.controllers.core.revisions import desired_of, fenceposts

NO_DEADLINE = 2**31 - 1
AVAILABLE, PROGRESSING, REPLICA_FAILURE = "Available", "Progressing", "ReplicaFailure"
COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")


def count(deployment: Obj, new: Obj | None, old: Sequence[Obj]) -> Obj:
    """The counts of the status, all present; `observedGeneration` too."""
    everything = [*old, new] if new is not None else list(old)

    def sum_of(field: str) -> int:
        return sum(int((replica_set.get("status") or {}).get(field) or 0) for replica_set in everything)

    available = sum_of("availableReplicas")
    wanted = sum(desired_of(replica_set) for replica_set in everything)
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": sum_of("replicas"),
        "updatedReplicas": int(((new or {}).get("status") or {}).get("replicas") or 0),
        "readyReplicas": sum_of("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, wanted - available),
    }


def is_complete(deployment: Obj, status: Obj) -> bool:
    """Whether all replicas are of the new template and available, and nothing else is left."""
    desired = desired_of(deployment)
    return bool(
        status.get("updatedReplicas", 0) == desired
        and status.get("replicas", 0) == desired
        and status.get("availableReplicas", 0) == desired
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def deadline_s(deployment: Obj) -> int | None:
    """`progressDeadlineSeconds`; None when roll-outs may take for ever."""
    seconds = deployment["spec"].get("progressDeadlineSeconds")
    return None if seconds is None or seconds == NO_DEADLINE else int(seconds)


def set_progressing(current: Sequence[Obj], status: str, reason: str, message: str, now: float) -> list[Obj]:
    """The conditions with Progressing set."""
    return conditions.with_condition(current, PROGRESSING, status, reason, message, now, stamp="lastUpdateTime")


def with_availability(deployment: Obj, counts: Obj, current: Sequence[Obj], now: float) -> list[Obj]:
    """The conditions with Available set by `maxUnavailable`."""
    _, max_unavailable = fenceposts(deployment)
    if counts["availableReplicas"] >= desired_of(deployment) - max_unavailable:
        verdict = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        verdict = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return conditions.with_condition(current, AVAILABLE, *verdict, now, stamp="lastUpdateTime")


def with_progress(
    deployment: Obj, new: Obj | None, counts: Obj, current: Sequence[Obj], draft: Draft, now: float
) -> list[Obj]:
    """The conditions with Progressing moved on by what changed since the stored status."""
    limit_s = deadline_s(deployment)
    if limit_s is None:
        return conditions.without(current, PROGRESSING)
    condition = conditions.find(current, PROGRESSING)
    settled = counts["replicas"] == counts["updatedReplicas"]
    if settled and condition is not None and condition.get("reason") == "NewReplicaSetAvailable":
        return list(current)
    subject = f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{deployment["metadata"]["name"]}"'
    if is_complete(deployment, counts):
        return set_progressing(
            current, "True", "NewReplicaSetAvailable", f"{subject} has successfully progressed.", now
        )
    if _got_better(deployment.get("status") or {}, counts):
        return _touch(current, f"{subject} is progressing.", now)
    if condition is not None and condition.get("reason") not in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        left_s = parse_rfc3339(condition["lastUpdateTime"]) + limit_s - now
        if left_s < 0:
            message = f"{subject} has timed out progressing."
            return set_progressing(current, "False", "ProgressDeadlineExceeded", message, now)
        draft.wake_after(left_s + 1)
    return list(current)


def _touch(current: Sequence[Obj], message: str, now: float) -> list[Obj]:
    """Progressing with a new `lastUpdateTime`: the deadline runs from the last time something got better."""
    moved = conditions.without(current, PROGRESSING)
    before = conditions.find(current, PROGRESSING)
    moment = rfc3339(now)
    steady = before is not None and before.get("status") == "True"
    since = (before or {}).get("lastTransitionTime", moment) if steady else moment
    return [
        *moved,
        {
            "type": PROGRESSING,
            "status": "True",
            "lastUpdateTime": moment,
            "lastTransitionTime": since,
            "reason": "ReplicaSetUpdated",
            "message": message,
        },
    ]


def _got_better(before: Obj, after: Obj) -> bool:
    def number(status: Obj, field: str) -> int:
        return int(status.get(field) or 0)

    def old_pods(status: Obj) -> int:
        return number(status, "replicas") - number(status, "updatedReplicas")

    grown = any(
        number(after, field) > number(before, field)
        for field in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    return grown or old_pods(after) < old_pods(before)


def with_failure(new: Obj | None, old: Sequence[Obj], current: Sequence[Obj], now: float) -> list[Obj]:
    """The conditions with ReplicaFailure as the ReplicaSets report it."""
    for replica_set in ([new] if new is not None else []) + list(old):
        failure = conditions.find((replica_set.get("status") or {}).get("conditions"), REPLICA_FAILURE)
        if failure is not None:
            verdict = (failure["status"], failure.get("reason", ""), failure.get("message", ""))
            return conditions.with_condition(current, REPLICA_FAILURE, *verdict, now, stamp="lastUpdateTime")
    return conditions.without(current, REPLICA_FAILURE)


def compact(counts: Obj) -> Obj:
    """The counts without zeros: absent means 0 in a stored status."""
    return {field: value for field, value in counts.items() if value or field not in COUNTS}

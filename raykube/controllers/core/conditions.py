"""Conditions of a status: found, set with upstream's rules for time stamps, removed."""

from collections.abc import Sequence

from raykube.base.clock import rfc3339
from raykube.controllers.core.plan import Obj


def find(conditions: Sequence[Obj] | None, kind: str) -> Obj | None:
    """The condition of type `kind`."""
    for condition in conditions or ():
        if condition.get("type") == kind:
            return condition
    return None


def is_true(conditions: Sequence[Obj] | None, kind: str) -> bool:
    """Whether the condition of type `kind` has status "True"."""
    found = find(conditions, kind)
    return found is not None and found.get("status") == "True"


def without(conditions: Sequence[Obj] | None, kind: str) -> list[Obj]:
    """All conditions but those of type `kind`."""
    return [condition for condition in conditions or () if condition.get("type") != kind]


def with_condition(
    conditions: Sequence[Obj] | None,
    kind: str,
    status: str,
    reason: str,
    message: str,
    now: float,
    *,
    stamp: str = "",
) -> list[Obj]:
    """`conditions` with one of them set; unchanged when status and reason are what they were.

    `lastTransitionTime` moves only when the status does. `stamp` names the second time stamp that the kind has
    ("lastUpdateTime" of Deployments, "lastProbeTime" of Jobs), which moves with every change."""
    current = find(conditions, kind)
    if current is not None and current.get("status") == status and current.get("reason") == reason:
        return list(conditions or ())
    moment = rfc3339(now)
    same_status = current is not None and current.get("status") == status
    new: Obj = {"type": kind, "status": status}
    if stamp:
        new[stamp] = moment
    new["lastTransitionTime"] = (current or {}).get("lastTransitionTime", moment) if same_status else moment
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    if current is None:
        return [*(conditions or ()), new]
    return [new if condition is current else condition for condition in conditions or ()]

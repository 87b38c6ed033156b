"""How many replicas each ReplicaSet of a Deployment gets next. Numbers only; nothing here writes.

A **target** is {uid of a ReplicaSet: replicas}; ReplicaSets that are not in it stay as they are.

    rolling update of 3 replicas, maxSurge 1, maxUnavailable 0 (o = old, n = new, * = not yet available)

    o o o          new is created with 1
    o o o n*       total is 3 + 1: no room to grow; 3 available is the least allowed: old stays
    o o o n        4 available: old shrinks by 1
    o o n n*       and so on
"""

from collections.abc import Sequence

from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.revisions import (
    MAXIMUM,
    age,
    desired_of,
    fenceposts,
    number_of,
    revision_of,
)

Target = dict[str, int]


def available(replica_set: Obj) -> int:
    """`status.availableReplicas`."""
    return int((replica_set.get("status") or {}).get("availableReplicas") or 0)


def total(replica_sets: Sequence[Obj]) -> int:
    """Sum of `spec.replicas`."""
    return sum(desired_of(replica_set) for replica_set in replica_sets)


def is_active(replica_set: Obj) -> bool:
    """Whether the ReplicaSet is meant to have pods."""
    return desired_of(replica_set) > 0


def is_recreate(deployment: Obj) -> bool:
    """Whether all old pods must be gone before the first new one starts."""
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def new_size(deployment: Obj, everything: Sequence[Obj], present: int) -> int:
    """The size of the new ReplicaSet now that it has `present` replicas and all together are `everything`."""
    desired = desired_of(deployment)
    if is_recreate(deployment):
        return desired
    surge, _ = fenceposts(deployment)
    room = desired + surge - total(everything)
    if room <= 0:
        return present
    return present + min(room, desired - present)


def grow_new(deployment: Obj, new: Obj, old: Sequence[Obj]) -> Target:
    """The new ReplicaSet's next size during a roll-out; {} when it stays."""
    present, desired = desired_of(new), desired_of(deployment)
    if present == desired:
        return {}
    size = desired if present > desired else new_size(deployment, [new, *old], present)
    return {} if size == present else {uid_of(new): size}


def shrink_old(deployment: Obj, new: Obj, old: Sequence[Obj]) -> Target:
    """The old ReplicaSets' next sizes: unhealthy replicas first, then as many as availability allows."""
    if total(old) == 0:
        return {}
    _, max_unavailable = fenceposts(deployment)
    least = desired_of(deployment) - max_unavailable
    budget = total([new, *old]) - least - (desired_of(new) - available(new))
    if budget <= 0:
        return {}
    target: Target = {}
    sizes = {uid_of(replica_set): desired_of(replica_set) for replica_set in old}
    by_age = sorted(old, key=age)
    for replica_set in by_age:
        unhealthy = sizes[uid_of(replica_set)] - available(replica_set)
        drop = min(budget, unhealthy)
        if drop > 0:
            budget -= drop
            sizes[uid_of(replica_set)] -= drop
            target[uid_of(replica_set)] = sizes[uid_of(replica_set)]
    spare = sum(available(replica_set) for replica_set in [new, *old]) - least
    for replica_set in by_age:
        drop = min(spare, sizes[uid_of(replica_set)])
        if drop > 0:
            spare -= drop
            sizes[uid_of(replica_set)] -= drop
            target[uid_of(replica_set)] = sizes[uid_of(replica_set)]
    return target


def resize(deployment: Obj, new: Obj | None, old: Sequence[Obj]) -> Target:
    """The sizes after `spec.replicas` changed: shared among the active ReplicaSets in proportion to their size."""
    desired = desired_of(deployment)
    everything = [*old, new] if new is not None else list(old)
    active = [replica_set for replica_set in everything if is_active(replica_set)]
    if len(active) <= 1:
        only = active[0] if active else (new or max(old, key=age, default=None))
        return {uid_of(only): desired} if only is not None else {}
    if new is not None and _is_saturated(deployment, new):
        return {uid_of(replica_set): 0 for replica_set in old if is_active(replica_set)}
    if is_recreate(deployment):
        return {uid_of(replica_set): desired_of(replica_set) for replica_set in active}  # only recorded as seen
    surge, _ = fenceposts(deployment)
    allowed = desired + surge if desired > 0 else 0
    change = allowed - total(active)
    newest_first = sorted(active, key=revision_of, reverse=change > 0)
    by_size = sorted(newest_first, key=desired_of, reverse=True)
    return _share(deployment, by_size, change, desired + surge)


def _share(deployment: Obj, by_size: Sequence[Obj], change: int, maximum: int) -> Target:
    target: Target = {}
    given = 0
    for replica_set in by_size:
        part = 0
        if change:
            part = _fraction(deployment, replica_set, maximum)
            part = min(part, change - given) if change > 0 else max(part, change - given)
        target[uid_of(replica_set)] = desired_of(replica_set) + part
        given += part
    if by_size:
        largest = uid_of(by_size[0])
        target[largest] = max(target[largest] + change - given, 0)  # what rounding left goes to the largest
    return target


def _fraction(deployment: Obj, replica_set: Obj, maximum: int) -> int:
    size = desired_of(replica_set)
    if desired_of(deployment) == 0:
        return -size
    before = number_of(replica_set, MAXIMUM) or int((deployment.get("status") or {}).get("replicas") or 0)
    if before <= 0:
        return 0
    return (2 * size * maximum + before) // (2 * before) - size  # rounded to the nearest


def _is_saturated(deployment: Obj, new: Obj) -> bool:
    """Whether the new ReplicaSet alone already is what was asked for."""
    desired = desired_of(deployment)
    recorded = number_of(new, "deployment.kubernetes.io/desired-replicas")
    return desired_of(new) == desired and recorded == desired and available(new) == desired

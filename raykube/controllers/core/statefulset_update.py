"""Which pods of a StatefulSet a rolling update takes down next, highest ordinal first.

partition 1, one at a time (o = old, n = new, * = not available)

o o o      the last one goes
o o n*     wait
o o n      the one before it goes; index 0 is below the partition and stays
"""

from collections.abc import Sequence

from raykube.controllers.core import intstr, pods
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.revisions import desired_of
from raykube.controllers.core.statefulset_pods import Replica, is_available, is_unavailable, revision_of


def is_on_delete(stateful_set: Obj) -> bool:
    """Whether pods are updated only when somebody else deletes them."""
    return bool((stateful_set["spec"].get("updateStrategy") or {}).get("type") == "OnDelete")


def partition_of(stateful_set: Obj) -> int:
    """Replicas with an index below this stay at the current revision."""
    return int(_rolling(stateful_set).get("partition") or 0)


def victims(stateful_set: Obj, replicas: Sequence[Replica], update: str, now: float) -> list[Obj]:
    """The pods to delete now, so that they are made anew of the revision `update`."""
    reached = list(reversed(replicas[partition_of(stateful_set) :]))
    if "maxUnavailable" in _rolling(stateful_set):
        return _several(stateful_set, replicas, reached, update, now)
    for replica in reached:
        if _is_old(replica.pod, update):
            return [replica.pod] if replica.pod else []
        if is_unavailable(replica.pod, stateful_set, now):
            break
    return []


def _several(
    stateful_set: Obj, replicas: Sequence[Replica], reached: Sequence[Replica], update: str, now: float
) -> list[Obj]:
    """With maxUnavailable. In parallel, old pods that are down already cost nothing, so they go first."""
    value = _rolling(stateful_set)["maxUnavailable"]
    allowed = max(intstr.resolve(value, desired_of(stateful_set), round_up=False), 1)
    budget = allowed - sum(is_unavailable(replica.pod, stateful_set, now) for replica in replicas)
    old = [replica.pod for replica in reached if replica.pod is not None and _is_old(replica.pod, update)]
    if stateful_set["spec"].get("podManagementPolicy") != "Parallel":
        return old[: max(budget, 0)]
    down = [pod for pod in old if not is_available(pod, stateful_set, now)]
    up = [pod for pod in old if is_available(pod, stateful_set, now)]
    return down + up[: max(budget, 0)]


def _is_old(pod: Obj | None, update: str) -> bool:
    return pod is not None and not pods.is_terminating(pod) and revision_of(pod) != update


def _rolling(stateful_set: Obj) -> Obj:
    return (stateful_set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}

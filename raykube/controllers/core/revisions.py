"""The ReplicaSets of a Deployment as revisions: which one is new, what their annotations record, which ones go.

Vocabulary: the **new** ReplicaSet has the Deployment's present pod template, all others are **old**; **active** ones
have replicas. The annotation `deployment.kubernetes.io/revision` numbers templates in the order in which they became
new; `desired-replicas` and `max-replicas` record the Deployment's size when it last scaled the set: from them a change
of `spec.replicas` is told from a roll-out, and shared out in proportion.
"""

from collections.abc import Sequence

import orjson

from raykube.base import ids
from raykube.controllers.core import intstr
from raykube.controllers.core.plan import Obj

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
# Annotations that say something about the Deployment itself and are not passed on to its ReplicaSets.
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


def template_hash(template: Obj, collisions: int) -> str:
    """The value of `pod-template-hash`: equal templates have equal hashes, whatever the order of their fields."""
    data = orjson.dumps(without_hash(template), option=orjson.OPT_SORT_KEYS)
    if collisions:
        data += str(collisions).encode()
    return ids.safe_encode(str(ids.fnv32a(data)))


def without_hash(template: Obj) -> Obj:
    """The template without the hash label and without fields that say nothing."""
    meta = {field: value for field, value in (template.get("metadata") or {}).items() if value}
    meta.pop("creationTimestamp", None)
    labels = {name: value for name, value in (meta.get("labels") or {}).items() if name != HASH_LABEL}
    if labels:
        meta["labels"] = labels
    else:
        meta.pop("labels", None)
    return {**template, "metadata": meta}


def annotations_of(obj: Obj) -> dict[str, str]:
    """`metadata.annotations`, {} when there are none."""
    return obj["metadata"].get("annotations") or {}


def number_of(annotated: Obj, name: str) -> int | None:
    """A numeric annotation; None when it is missing or no number."""
    try:
        return int(annotations_of(annotated)[name])
    except (KeyError, ValueError):
        return None


def revision_of(replica_set: Obj) -> int:
    """The revision number; 0 when there is none."""
    return number_of(replica_set, REVISION) or 0


def desired_of(workload: Obj) -> int:
    """`spec.replicas`, 1 when not set."""
    replicas = workload["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def age(replica_set: Obj) -> tuple[str, str]:
    """Sort key: oldest first."""
    return (replica_set["metadata"].get("creationTimestamp") or "", replica_set["metadata"]["name"])


def split(deployment: Obj, replica_sets: Sequence[Obj]) -> tuple[Obj | None, list[Obj]]:
    """(the new ReplicaSet: the oldest with the present template, all others by age)."""
    wanted = without_hash(deployment["spec"].get("template") or {})
    ordered = sorted(replica_sets, key=age)
    for candidate in ordered:
        if without_hash(candidate["spec"].get("template") or {}) == wanted:
            return candidate, [other for other in ordered if other is not candidate]
    return None, ordered


def fenceposts(deployment: Obj) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) as numbers; both 0 when the strategy is Recreate."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type", "RollingUpdate") == "Recreate":
        return 0, 0
    rolling = strategy.get("rollingUpdate") or {}
    desired = desired_of(deployment)
    surge, unavailable = intstr.fenceposts(
        rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%"), desired
    )
    return surge, min(unavailable, desired)


def size_annotations(deployment: Obj) -> dict[str, str]:
    """What a ReplicaSet records of the Deployment's size."""
    desired = desired_of(deployment)
    surge, _ = fenceposts(deployment)
    return {DESIRED: str(desired), MAXIMUM: str(desired + surge)}


def revision_annotations(deployment: Obj, new: Obj | None, old: Sequence[Obj]) -> dict[str, str]:
    """The annotations of the new ReplicaSet: copied ones, its revision, and the revisions it had before."""
    wanted = {name: value for name, value in annotations_of(deployment).items() if name not in NOT_COPIED}
    revision = max((revision_of(replica_set) for replica_set in old), default=0) + 1
    if new is None:
        return {**wanted, REVISION: str(revision)}
    present = revision_of(new)
    if present >= revision:
        return {**wanted, REVISION: str(present)}
    wanted[REVISION] = str(revision)
    if present:
        before = annotations_of(new).get(REVISION_HISTORY)
        wanted[REVISION_HISTORY] = f"{before},{present}" if before else str(present)
    return wanted


def expired(deployment: Obj, old: Sequence[Obj]) -> list[Obj]:
    """Old ReplicaSets beyond `revisionHistoryLimit` without pods, lowest revision first."""
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    alive = [replica_set for replica_set in old if not replica_set["metadata"].get("deletionTimestamp")]
    surplus = len(alive) - int(limit if limit is not None else 10)
    if surplus <= 0:
        return []
    gone = []
    for replica_set in sorted(alive, key=lambda candidate: (revision_of(candidate), age(candidate)))[:surplus]:
        status = replica_set.get("status") or {}
        settled = int(status.get("observedGeneration", 0)) >= int(replica_set["metadata"].get("generation", 0))
        if desired_of(replica_set) == 0 and not status.get("replicas") and settled:
            gone.append(replica_set)
    return gone

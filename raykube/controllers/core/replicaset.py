"""replicaset-controller: keeps as many pods of a template as were asked for.

Pods beyond `spec.replicas` go in the order of `pods.deletion_rank`; missing ones are created, at most BURST in one
plan. Status counts what the caches show; a pod is available when it has been ready for `minReadySeconds`.
"""

from collections import Counter
from collections.abc import Iterable

from raykube.api.selectors import LabelSelector
from raykube.controllers.core import claims, conditions, indexes, kinds, pods
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.patches import create_write, delete_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, key_of, split_key

API_VERSION = "apps/v1"
KIND = "ReplicaSet"
BURST = 500  # pods created or deleted in one plan: bounds the size of a bulk request


class ReplicaSetController:
    """See the module's docstring."""

    name = "replicaset-controller"
    resources = (kinds.REPLICA_SETS, kinds.PODS)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A ReplicaSet's own key; for a pod the keys of its owners before and after."""
        if resource == kinds.REPLICA_SETS:
            changed = new or old
            return (key_of(changed),) if changed else ()
        return claims.keys_of_owners(view, kinds.REPLICA_SETS, KIND, old, new)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step towards `spec.replicas` pods, and the status of what is there."""
        replica_set = view.get(kinds.REPLICA_SETS, *split_key(key))
        if replica_set is None:
            return NOTHING
        draft = Draft()
        spec = replica_set["spec"]
        reference = claims.reference_to(replica_set, API_VERSION, KIND)
        owned, draft.writes = claims.claim(view, kinds.PODS, replica_set, reference, spec.get("selector") or {})
        active = [pod for pod in owned if pods.is_active(pod)]
        adopting = sum(1 for write in draft.writes if write.body["metadata"]["ownerReferences"] is not None)
        if not replica_set["metadata"].get("deletionTimestamp") and not adopting:
            _scale(view, replica_set, reference, owned, active, draft, now)
        _report(replica_set, active, view.error, draft, now)
        return draft.plan()


def _scale(
    view: View, owner: Obj, reference: Obj, owned: list[Obj], active: list[Obj], draft: Draft, now: float
) -> None:
    surplus = len(active) - int(owner["spec"].get("replicas", 1))
    if surplus < 0:
        _create(owner, reference, owned, min(-surplus, BURST), draft)
    elif surplus > 0:
        _delete(view, owner, active, min(surplus, BURST), draft, now)


def _create(owner: Obj, reference: Obj, owned: list[Obj], count: int, draft: Draft) -> None:
    meta = owner["metadata"]
    namespace = meta.get("namespace", "")
    taken = {pod["metadata"]["name"] for pod in owned}
    newest = max((version_of(pod) for pod in owned), default=0)
    state = f"{uid_of(owner)}/{version_of(owner)}/{newest}"
    names = derived_names(f"{meta['name']}-", state, taken)
    for _ in range(count):
        name = next(names)
        draft.writes.append(
            create_write(
                kinds.PODS,
                pods.from_template(owner["spec"].get("template") or {}, reference, namespace, name),
                done=Event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name}"),
                failed=Event(owner, "Warning", "FailedCreate", "Error creating: {error}"),
            )
        )


def _delete(view: View, owner: Obj, active: list[Obj], count: int, draft: Draft, now: float) -> None:
    neighbours = _neighbours(view, owner)
    ranked = sorted(active, key=lambda pod: pods.deletion_rank(pod, neighbours[pods.node_name(pod)], now))
    for pod in ranked[:count]:
        name = pod["metadata"]["name"]
        draft.writes.append(
            delete_write(
                kinds.PODS,
                pod,
                done=Event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name}"),
                failed=Event(owner, "Warning", "FailedDelete", f'Error deleting "{name}": {{error}}'),
            )
        )


def _neighbours(view: View, replica_set: Obj) -> Counter[str]:
    """Active pods per node of all ReplicaSets that share this one's owner: a Deployment's old and new pods together."""
    owner_uid = indexes.controller_uid(replica_set)
    siblings = view.by_index(kinds.REPLICA_SETS, "controller", owner_uid) if owner_uid else [replica_set]
    return Counter(
        pods.node_name(pod)
        for sibling in siblings
        for pod in view.by_index(kinds.PODS, "controller", uid_of(sibling))
        if pods.is_active(pod)
    )


def _report(replica_set: Obj, active: list[Obj], error: str, draft: Draft, now: float) -> None:
    spec, old = replica_set["spec"], replica_set.get("status") or {}
    min_ready_s = int(spec.get("minReadySeconds") or 0)
    template_labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    full = LabelSelector.from_object({"matchLabels": template_labels})
    counts = {"replicas": len(active), "fullyLabeledReplicas": 0, "readyReplicas": 0, "availableReplicas": 0}
    for pod in active:
        counts["fullyLabeledReplicas"] += full.matches(claims.labels_of(pod))
        wait_s = pods.available_in(pod, min_ready_s, now)
        if wait_s is None:
            continue
        counts["readyReplicas"] += 1
        if wait_s == 0:
            counts["availableReplicas"] += 1
        else:
            draft.wake_after(wait_s)
    status: Obj = {field: count for field, count in counts.items() if count or field == "replicas"}
    status["observedGeneration"] = replica_set["metadata"].get("generation", 0)
    found = _failure(old.get("conditions") or [], len(active) - int(spec.get("replicas", 1)), error, now)
    if found:
        status["conditions"] = found
    write = status_write(kinds.REPLICA_SETS, replica_set, status)
    if write is not None:
        draft.writes.append(write)


def _failure(current: list[Obj], surplus: int, error: str, now: float) -> list[Obj]:
    """The conditions with ReplicaFailure while writes of pods are refused."""
    if not error or surplus == 0:
        return conditions.without(current, "ReplicaFailure")
    reason = "FailedCreate" if surplus < 0 else "FailedDelete"
    return conditions.with_condition(current, "ReplicaFailure", "True", reason, error, now)

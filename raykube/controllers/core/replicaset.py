"""replicaset-controller, and replicationcontroller-controller: keep as many pods of a template as were asked for.

Pods beyond `spec.replicas` go in the order of `pods.deletion_rank`; missing ones are created, at most BURST in one
plan. Status counts what the caches show; a pod is available when it has been ready for `minReadySeconds`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from raykube.controllers.core import aspects, claims, conditions, indexes, kinds, pods
from raykube.controllers.core.names import free_names
from raykube.controllers.core.patches import create_write, delete_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, key_of, split_key
from raykube.controllers.core.roster import ASPECTS, Roster

BURST = 500  # pods created or deleted in one plan: bounds the size of a bulk request
COUNTS = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


@dataclass(frozen=True, slots=True)
class Family:
    """The sets of one kind, by a controller of this name."""

    name: str
    resource: str
    api_version: str
    kind: str
    owned: int  # aspect: a pod is of such a set


REPLICA_SETS = Family("replicaset-controller", kinds.REPLICA_SETS, "apps/v1", "ReplicaSet", aspects.OF_REPLICA_SET)
REPLICATION_CONTROLLERS = Family(
    "replicationcontroller-controller",
    kinds.REPLICATION_CONTROLLERS,
    "v1",
    "ReplicationController",
    aspects.OF_REPLICATION_CONTROLLER,
)


class ReplicaSetController:
    """See the module's docstring."""

    def __init__(self, family: Family = REPLICA_SETS) -> None:
        self.name = family.name
        self.resources = (family.resource, kinds.PODS)
        self.looks_at = ASPECTS | family.owned | aspects.OF_NOBODY
        self._family = family
        self._rosters: dict[str, Roster] = {}  # by key

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A ReplicaSet's own key; for a pod the keys of its owners before and after."""
        if resource == self._family.resource:
            changed = new or old
            return (key_of(changed),) if changed else ()
        keys = claims.keys_of_owners(view, self._family.resource, self._family.kind, old, new)
        for key in keys:
            if (roster := self._rosters.get(key)) and (pod := new or old):
                roster.mark(pod["metadata"]["name"])
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step towards `spec.replicas` pods, and the status of what is there."""
        replica_set = view.get(self._family.resource, *split_key(key))
        if replica_set is None:
            self._rosters.pop(key, None)
            return NOTHING
        draft = Draft()
        roster = self._roster(view, replica_set)
        wait_s = roster.refresh(view, now)
        if wait_s is not None:
            draft.wake_after(wait_s)
        if not replica_set["metadata"].get("deletionTimestamp") and not self._claim(view, replica_set, roster, draft):
            self._scale(view, replica_set, roster, draft, now)
        _report(self._family.resource, replica_set, roster, view.error, draft, now)
        return draft.plan()

    def _roster(self, view: View, replica_set: Obj) -> Roster:
        key, selector = key_of(replica_set), self._selector(replica_set)
        roster = self._rosters.get(key)
        if roster is None or not roster.is_for(replica_set, selector):
            roster = self._rosters[key] = Roster(view, replica_set, selector)
        return roster

    def _selector(self, replica_set: Obj) -> Obj:
        return claims.selector_of(self._family.resource, replica_set)

    def _reference(self, replica_set: Obj) -> Obj:
        return claims.reference_to(replica_set, self._family.api_version, self._family.kind)

    def _claim(self, view: View, replica_set: Obj, roster: Roster, draft: Draft) -> bool:
        """Releases pods that it no longer selects, and adopts those that nobody controls. Whether it adopts."""
        meta, selector = replica_set["metadata"], self._selector(replica_set)
        for name in roster.strays:
            stray = view.get(kinds.PODS, roster.namespace, name)
            if stray is not None:
                draft.writes.append(claims.release(kinds.PODS, stray, roster.uid))
        if claims.is_empty(selector):
            return False
        reference = self._reference(replica_set)
        orphans = claims.selected(view, kinds.PODS, meta.get("namespace", ""), selector, prefix="orphan-")
        adoptions = [claims.adopt(kinds.PODS, each, reference) for each in orphans if not pods.is_terminating(each)]
        draft.writes += adoptions
        return bool(adoptions)

    def _scale(self, view: View, owner: Obj, roster: Roster, draft: Draft, now: float) -> None:
        surplus = roster.sums["replicas"] - int(owner["spec"].get("replicas", 1))
        if surplus < 0:
            _create(view, owner, self._reference(owner), roster, min(-surplus, pods.burst(view, BURST)), draft)
        elif surplus > 0:
            neighbours = self._neighbours(view, owner, now)
            _delete(owner, roster.first_to_go(view, min(surplus, BURST), neighbours, now), draft)

    def _neighbours(self, view: View, replica_set: Obj, now: float) -> list[Roster]:
        """Of all ReplicaSets that share this one's owner: a Deployment's old and new pods together."""
        owner_uid = indexes.controller_uid(replica_set)
        found = view.by_index(self._family.resource, "controller", owner_uid) if owner_uid else [replica_set]
        rosters = [self._roster(view, each) for each in found]
        for roster in rosters:
            roster.refresh(view, now)
        return rosters


def _create(view: View, owner: Obj, reference: Obj, roster: Roster, count: int, draft: Draft) -> None:
    meta, template = owner["metadata"], owner["spec"].get("template") or {}
    namespace = meta.get("namespace", "")
    state = f"{uid_of(owner)}/{version_of(owner)}/{roster.members:x}"
    names = free_names(f"{meta['name']}-", state, lambda name: view.get(kinds.PODS, namespace, name) is not None)
    failed = Event(owner, "Warning", "FailedCreate", "Error creating: {error}")
    for name in islice(names, count):
        draft.writes.append(
            create_write(
                kinds.PODS,
                pods.from_template(template, reference, namespace, name),
                done=Event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name}"),
                failed=failed,
            )
        )


def _delete(owner: Obj, chosen: Iterable[Obj], draft: Draft) -> None:
    for pod in chosen:
        name = pod["metadata"]["name"]
        draft.writes.append(
            delete_write(
                kinds.PODS,
                pod,
                done=Event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name}"),
                failed=Event(owner, "Warning", "FailedDelete", f'Error deleting "{name}": {{error}}'),
            )
        )


def _report(resource: str, replica_set: Obj, roster: Roster, error: str, draft: Draft, now: float) -> None:
    spec, old = replica_set["spec"], replica_set.get("status") or {}
    counts = {field: roster.sums[field] for field in COUNTS}
    status: Obj = {field: count for field, count in counts.items() if count or field == "replicas"}
    status["observedGeneration"] = replica_set["metadata"].get("generation", 0)
    found = _failure(old.get("conditions") or [], counts["replicas"] - int(spec.get("replicas", 1)), error, now)
    if found:
        status["conditions"] = found
    write = status_write(resource, replica_set, status)
    if write is not None:
        draft.writes.append(write)


def _failure(current: list[Obj], surplus: int, error: str, now: float) -> list[Obj]:
    """The conditions with ReplicaFailure while writes of pods are refused."""
    if not error or surplus == 0:
        return conditions.without(current, "ReplicaFailure")
    reason = "FailedCreate" if surplus < 0 else "FailedDelete"
    return conditions.with_condition(current, "ReplicaFailure", "True", reason, error, now)

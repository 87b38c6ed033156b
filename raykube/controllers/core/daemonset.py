"""daemonset-controller: one pod of a template on every node that matches it, through the scheduler.

What a DaemonSet has on each node is kept in a ledger (daemon_places.py), so that a reconcile looks at the nodes that
changed and not at all of them. Templates are ControllerRevisions; daemon_rollout.py says which nodes get the present
one next. The revision comes first, then pods: a pod always carries the hash of a revision that is stored.
"""

from collections.abc import Iterable, Iterator, Sequence

from raykube.controllers.core import aspects, claims, daemon_rollout, kinds, pods
from raykube.controllers.core import controller_revisions as revisions
from raykube.controllers.core.daemon_places import Ledger, Stage, rolls
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.patches import create_write, delete_write, patch_write, status_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, Write, key_of, split_key

API_VERSION = "apps/v1"
KIND = "DaemonSet"
BURST = 500  # pods created, and pods deleted, in one plan: bounds the size of a bulk request
OMITTED_IF_ZERO = ("updatedNumberScheduled", "numberAvailable", "numberUnavailable", "collisionCount")
COUNTS = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")


class DaemonSetController:
    """See the module's docstring."""

    name = "daemonset-controller"
    resources = (kinds.DAEMON_SETS, kinds.CONTROLLER_REVISIONS, kinds.NODES, kinds.PODS)
    looks_at = aspects.LABELS | aspects.OWNERS | aspects.DELETION | aspects.PHASE | aspects.READY | aspects.NODE
    looks_at |= aspects.OF_DAEMON_SET | aspects.OF_NOBODY

    def __init__(self) -> None:
        self._ledgers: dict[str, Ledger] = {}  # by key

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A DaemonSet's own key; the owners of a pod or revision; for a node all that see it in another light."""
        if resource == kinds.DAEMON_SETS:
            changed = new or old
            return (key_of(changed),) if changed else ()
        if resource == kinds.NODES:
            return self._observe_node(view, old, new)
        if resource == kinds.PODS:
            for pod in (old, new):
                self._mark(pod)
            self._note_failure(old, new, now)
        return claims.keys_of_owners(view, kinds.DAEMON_SETS, KIND, old, new)

    def _observe_node(self, view: View, old: Obj | None, new: Obj | None) -> Iterator[str]:
        node = new or old
        if node is None or (old is not None and new is not None and _scheduling(old) == _scheduling(new)):
            return
        for daemon_set in view.list(kinds.DAEMON_SETS):
            key = key_of(daemon_set)
            ledger = self._ledgers.get(key)
            if ledger is None:
                yield key
            elif ledger.sees(old) != ledger.sees(new):
                ledger.mark(node["metadata"]["name"])
                yield key

    def _ledger_of(self, pod: Obj | None) -> Ledger | None:
        reference = claims.controller_reference(pod) if pod is not None else None
        if pod is None or reference is None or reference.get("kind") != KIND:
            return None
        ledger = self._ledgers.get(f"{pod['metadata'].get('namespace', '')}/{reference['name']}")
        return ledger if ledger is not None and ledger.uid == reference.get("uid") else None

    def _mark(self, pod: Obj | None) -> None:
        ledger = self._ledger_of(pod)
        if ledger is not None and pod is not None:
            ledger.mark(pods.target_node(pod))

    def _note_failure(self, old: Obj | None, new: Obj | None, now: float) -> None:
        if old is None or pods.phase(old) != "Failed" or pods.is_terminating(old):
            return
        ledger = self._ledger_of(old)
        if ledger is not None and (new is None or pods.is_terminating(new)):
            ledger.note_failure(pods.target_node(old), now)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step: revisions, then adoption, then the pods of all nodes that need something, and the status."""
        daemon_set = view.get(kinds.DAEMON_SETS, *split_key(key))
        if daemon_set is None or daemon_set["metadata"].get("deletionTimestamp"):
            self._ledgers.pop(key, None)
            return NOTHING
        selector = daemon_set["spec"].get("selector") or {}
        if claims.is_empty(selector):
            message = "This daemon set is selecting all pods. A non-empty selector is required."
            return Plan((), None, [Event(daemon_set, "Warning", "SelectingAll", message)])
        reference = claims.reference_to(daemon_set, API_VERSION, KIND)
        history, writes = claims.claim(view, kinds.CONTROLLER_REVISIONS, daemon_set, reference, selector)
        if writes:
            return Plan(writes)
        current, writes = _current_revision(view, daemon_set, reference, history)
        if current is None or writes:
            return Plan(writes)
        writes = list(_adoptions(view, daemon_set, reference))
        if writes:
            return Plan(writes)
        ledger = self._ledgers.get(key)
        if ledger is None or not ledger.is_for(daemon_set, _hash_of(current)):
            ledger = self._ledgers[key] = Ledger(view, daemon_set, _hash_of(current))
        return _Step(view, daemon_set, reference, ledger).plan(current, history, now)


def _scheduling(node: Obj) -> tuple[object, object]:
    """What of a node decides whether pods may be there."""
    return node["metadata"].get("labels"), (node.get("spec") or {}).get("taints")


def _hash_of(revision: Obj) -> str:
    """The hash that pods of this revision carry."""
    return claims.labels_of(revision).get(revisions.POD_LABEL) or str(revision["metadata"]["name"])


def _current_revision(
    view: View, daemon_set: Obj, reference: Obj, history: Sequence[Obj]
) -> tuple[Obj | None, list[Write]]:
    """The revision of the present template, with the highest number; else the write that leads there."""
    data = revisions.template_patch(daemon_set)
    same = revisions.with_data(history, data)
    number = revisions.next_number(revision for revision in history if revision not in same)
    if not same:
        return None, [_snapshot(view, daemon_set, reference, data, number)]
    current = same[-1]
    changed: Obj = {}
    if revisions.number_of(current) < number:
        changed["revision"] = number
    if revisions.POD_LABEL not in claims.labels_of(current):
        changed["metadata"] = {"labels": {revisions.POD_LABEL: current["metadata"]["name"]}}
    return current, [patch_write(kinds.CONTROLLER_REVISIONS, current, changed)] if changed else []


def _snapshot(view: View, daemon_set: Obj, reference: Obj, data: Obj, number: int) -> Write:
    meta, status = daemon_set["metadata"], daemon_set.get("status") or {}
    collisions = int(status.get("collisionCount") or 0)
    value = revisions.hash_of(data, collisions)
    name = revisions.name_of(daemon_set, value)
    if view.get(kinds.CONTROLLER_REVISIONS, meta.get("namespace", ""), name) is not None:
        # The name belongs to something else: the next reconcile hashes with another seed.
        counted = {"status": {"collisionCount": collisions + 1}}
        return patch_write(kinds.DAEMON_SETS, daemon_set, counted, subresource="status")
    labels = ((daemon_set["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    labels = {**labels, revisions.POD_LABEL: value}
    annotations = meta.get("annotations") or {}
    return revisions.create_revision(daemon_set, reference, name, number, data, labels, annotations)


def _adoptions(view: View, daemon_set: Obj, reference: Obj) -> Iterator[Write]:
    meta, selector = daemon_set["metadata"], daemon_set["spec"]["selector"]
    for orphan in claims.selected(view, kinds.PODS, meta.get("namespace", ""), selector, prefix="orphan-"):
        if not pods.is_terminating(orphan):
            yield claims.adopt(kinds.PODS, orphan, reference)


class _Step:
    """One reconcile of one DaemonSet whose revision is stored."""

    def __init__(self, view: View, daemon_set: Obj, reference: Obj, ledger: Ledger) -> None:
        self.view, self.daemon_set, self.reference, self.ledger = view, daemon_set, reference, ledger
        self.draft = Draft()
        self.names: set[str] = set()
        self.creations_left, self.deletions_left = pods.burst(view, BURST), BURST

    def plan(self, current: Obj, history: Sequence[Obj], now: float) -> Plan:
        wait_s = self.ledger.refresh(self.view, now)
        if wait_s is not None:
            self.draft.wake_after(wait_s)
        self._tidy()
        for node in self.ledger.stages[Stage.MISSING]:
            if not self._create(node):
                break
        if rolls(self.daemon_set):
            step = daemon_rollout.next_step(self.daemon_set, self.ledger)
            self._delete(step.delete)
            for node in step.surge:
                self._create(node)
        self._clean_up(current, history)
        self._report()
        return self.draft.plan()

    def _tidy(self) -> None:
        """Pods that go whatever the roll-out, and pods that are no longer selected."""
        for name in self.ledger.working:
            place = self.ledger.places[name]
            self.draft.events += place.notes
            for stray in place.strays:
                # As it is now: the ledger hears only of some of its changes, and a release is of one state.
                meta = stray["metadata"]
                present = self.view.get(kinds.PODS, meta.get("namespace", ""), meta["name"])
                if present is not None:
                    self.draft.writes.append(claims.release(kinds.PODS, present, self.ledger.uid))
            self._delete(place.doomed)

    def _create(self, node: str) -> bool:
        if self.creations_left <= 0:
            return False
        self.creations_left -= 1
        name = self._name(node)
        meta = self.daemon_set["metadata"]
        body = pods.from_template(self.ledger.template.on(node), self.reference, meta.get("namespace", ""), name)
        done = Event(self.daemon_set, "Normal", "SuccessfulCreate", f"Created pod: {name}")
        failed = Event(self.daemon_set, "Warning", "FailedCreate", "Error creating: {error}")
        self.draft.writes.append(create_write(kinds.PODS, body, done=done, failed=failed))
        return True

    def _name(self, node: str) -> str:
        """Follows from the node, the template and the last pod that was there; never one that is taken."""
        meta = self.daemon_set["metadata"]
        state = f"{uid_of(self.daemon_set)}/{self.ledger.hash}/{node}/{self.ledger.last_uids.get(node, '')}"
        for name in derived_names(f"{meta['name']}-", state, self.names):
            if self.view.get(kinds.PODS, meta.get("namespace", ""), name) is None:
                self.names.add(name)
                return name
        raise AssertionError("names never end")

    def _delete(self, doomed: Sequence[Obj]) -> None:
        for pod in doomed[: self.deletions_left]:
            self.deletions_left -= 1
            name = pod["metadata"]["name"]
            done = Event(self.daemon_set, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")
            failed = Event(self.daemon_set, "Warning", "FailedDelete", "Error deleting: {error}")
            self.draft.writes.append(delete_write(kinds.PODS, pod, done=done, failed=failed))

    def _clean_up(self, current: Obj, history: Sequence[Obj]) -> None:
        old = [revision for revision in history if revision is not current]
        surplus = len(old) - revisions.history_limit(self.daemon_set)
        if surplus <= 0:
            return
        live = {each["metadata"]["name"] for each in old if self.ledger.hashes[_hash_of(each)]}
        for revision in revisions.expired(old, surplus, live):
            self.draft.writes.append(delete_write(kinds.CONTROLLER_REVISIONS, revision))

    def _report(self) -> None:
        sums = self.ledger.sums
        counts = {field: sums[field] for field in (*COUNTS, "updatedNumberScheduled", "numberAvailable")}
        counts["numberUnavailable"] = sums["desiredNumberScheduled"] - sums["numberAvailable"]
        counts["collisionCount"] = int((self.daemon_set.get("status") or {}).get("collisionCount") or 0)
        status: Obj = {field: count for field, count in counts.items() if count or field not in OMITTED_IF_ZERO}
        status["observedGeneration"] = self.daemon_set["metadata"].get("generation", 0)
        write = status_write(kinds.DAEMON_SETS, self.daemon_set, status)
        if write is not None:
            self.draft.writes.append(write)

"""statefulset-controller: pods with names of their own, one of each at a time.

    OrderedReady    up: web-0, then web-1 when web-0 is available, …; down and updates: from the highest ordinal,
                    only while all others are available
    Parallel        all at once

An identity gets a new pod only when its last one is gone from the API, which happens when the kubelet has confirmed its
end, or its node is gone. Templates are kept as ControllerRevisions: **update** is the one that the set has now,
**current** the one that all pods had last (`status.currentRevision`); with a partition, replicas below it are made of
the current one. A pod's claims are made before the pod, and never change hands.
"""

from collections.abc import Iterable, Sequence

from raykube.controllers.core import aspects, claims, kinds, pods
from raykube.controllers.core import controller_revisions as revisions
from raykube.controllers.core import statefulset_claims as storage
from raykube.controllers.core import statefulset_pods as identities
from raykube.controllers.core import statefulset_update as update
from raykube.controllers.core.patches import create_write, delete_write, patch_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, Write, key_of, split_key
from raykube.controllers.core.statefulset_pods import Replica
from raykube.controllers.core.statefulset_status import status_of

API_VERSION = "apps/v1"
KIND = "StatefulSet"
BURST = 500  # writes of pods and claims in one plan: bounds the size of a bulk request


class StatefulSetController:
    """See the module's docstring."""

    name = "statefulset-controller"
    resources = (kinds.STATEFUL_SETS, kinds.PODS, kinds.CONTROLLER_REVISIONS, kinds.PERSISTENT_VOLUME_CLAIMS)
    looks_at = aspects.ALL | aspects.OF_STATEFUL_SET | aspects.OF_NOBODY

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A set's own key; the sets that own a pod or a revision, could adopt it, or wait for a name to be free."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.STATEFUL_SETS:
            return (key_of(changed),)
        if resource == kinds.PERSISTENT_VOLUME_CLAIMS:
            return [key_of(found) for found in storage.sets_of(view, changed)]
        keys = claims.keys_of_owners(view, kinds.STATEFUL_SETS, KIND, old, new)
        if resource == kinds.PODS and new is None:
            namespace = changed["metadata"].get("namespace", "")
            parent, _ = identities.parse(changed["metadata"]["name"])
            if parent and view.get(kinds.STATEFUL_SETS, namespace, parent) is not None:
                keys = {*keys, f"{namespace}/{parent}"}
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step towards the replicas and the template asked for, and the status of what is there."""
        stateful_set = view.get(kinds.STATEFUL_SETS, *split_key(key))
        if stateful_set is None or claims.is_empty(stateful_set["spec"].get("selector")):
            return NOTHING
        reference = claims.reference_to(stateful_set, API_VERSION, KIND)
        selector = stateful_set["spec"]["selector"]
        owned, writes = claims.claim(
            view,
            kinds.PODS,
            stateful_set,
            reference,
            selector,
            accepts=lambda pod: identities.is_member(stateful_set, pod),
        )
        history, adoptions = claims.claim(view, kinds.CONTROLLER_REVISIONS, stateful_set, reference, selector)
        if writes or adoptions:
            return Plan([*writes, *adoptions])
        return _Step(view, stateful_set, reference, owned, history, now).plan()


class _Step:
    """One reconcile of one StatefulSet."""

    def __init__(
        self, view: View, stateful_set: Obj, reference: Obj, owned: Sequence[Obj], history: Sequence[Obj], now: float
    ) -> None:
        self.view, self.set, self.reference, self.now = view, stateful_set, reference, now
        self.owned, self.history = owned, revisions.in_order(history)
        self.status = stateful_set.get("status") or {}
        self.collisions = int(self.status.get("collisionCount") or 0)
        self.ordered = stateful_set["spec"].get("podManagementPolicy") != "Parallel"
        self.draft = Draft()
        self.written: set[tuple[str, str]] = set()
        self.creations_left, self.put_off = pods.burst(view, BURST), 0

    def plan(self) -> Plan:
        if self.set["metadata"].get("deletionTimestamp"):
            known = revisions.with_data(self.history, revisions.template_patch(self.set))
            if known:
                self._report(known[-1])
            return self.draft.plan()
        new = self._update_revision()
        if new is None:
            return self.draft.plan()  # the revision first: the next plan has it
        self._work(new)
        self._forget(new)
        self._report(new)
        return self.draft.plan()

    # -- revisions

    def _update_revision(self) -> Obj | None:
        """The revision of the present template; None when it has to be written first."""
        data = revisions.template_patch(self.set)
        equal = revisions.with_data(self.history, data)
        number = revisions.next_number(self.history)
        if equal and equal[-1]["metadata"]["name"] == self.history[-1]["metadata"]["name"]:
            return equal[-1]
        if equal:  # back to an old template
            self._write(patch_write(kinds.CONTROLLER_REVISIONS, equal[-1], {"revision": number}))
            return None
        namespace = self.set["metadata"].get("namespace", "")
        while True:
            hash_value = revisions.hash_of(data, self.collisions)
            name = revisions.name_of(self.set, hash_value)
            if self.view.get(kinds.CONTROLLER_REVISIONS, namespace, name) is None:
                break
            self.collisions += 1
        template_meta = (self.set["spec"].get("template") or {}).get("metadata") or {}
        labels = {**(template_meta.get("labels") or {}), revisions.HASH_LABEL: hash_value}
        annotations = self.set["metadata"].get("annotations") or {}
        self._write(revisions.create_revision(self.set, self.reference, name, number, data, labels, annotations))
        if self.collisions != int(self.status.get("collisionCount") or 0):
            write = status_write(kinds.STATEFUL_SETS, self.set, {**self.status, "collisionCount": self.collisions})
            if write is not None:
                self._write(write)
        return None

    def _current_revision(self, new: Obj) -> Obj:
        wanted = self.status.get("currentRevision")
        return next((each for each in self.history if each["metadata"]["name"] == wanted), new)

    def _forget(self, new: Obj) -> None:
        """Deletes revisions beyond the history limit that no pod has."""
        live = {new["metadata"]["name"], self._current_revision(new)["metadata"]["name"]}
        live |= {identities.revision_of(pod) for pod in self.owned}
        idle = [each for each in self.history if each["metadata"]["name"] not in live]
        for each in revisions.expired(idle, len(idle) - revisions.history_limit(self.set), live):
            self._write(delete_write(kinds.CONTROLLER_REVISIONS, each))

    def _report(self, new: Obj) -> None:
        names = self._current_revision(new)["metadata"]["name"], new["metadata"]["name"]
        status = status_of(self.set, self.owned, *names, self.collisions, self.draft, self.now)
        kept = {field: self.status[field] for field in ("conditions",) if field in self.status}
        write = status_write(kinds.STATEFUL_SETS, self.set, {**kept, **status})
        if write is not None:
            self.draft.writes.append(write)  # however full the plan is: what cannot be done is to be seen

    # -- pods

    def _work(self, new: Obj) -> None:
        asked_for, condemned = identities.divide(self.set, self.owned)
        replicas: list[Replica] = []  # never many more than there are pods: each that has none yet costs a write
        for replica in asked_for:
            if self._holds_up(replica, new) and self.ordered:
                return
            if self._is_full or self.put_off > BURST:
                return
            replicas.append(replica)
        if not self._end_condemned(condemned):
            return
        if update.is_on_delete(self.set):
            return
        for pod in update.victims(self.set, replicas, new["metadata"]["name"], self.now):
            self._delete(pod)

    def _holds_up(self, replica: Replica, new: Obj) -> bool:
        """Does what one replica needs. Whether those after it have to wait, in order."""
        pod = replica.pod
        if pod is None:
            self._create(replica, new)
            return True
        if pods.is_terminal(pod):
            if not pods.is_terminating(pod):
                self._delete(pod)  # its successor comes when it is gone
                self.draft.events.append(self._recreating(pod))
            return True
        if pods.phase(pod) == "Pending":
            self._create_claims(replica)
        if self.ordered and identities.is_unavailable(pod, self.set, self.now):
            return True
        if not pods.is_terminating(pod):
            self._restore(pod)
        return False

    def _create(self, replica: Replica, new: Obj) -> None:
        if self.view.get(kinds.PODS, self.set["metadata"].get("namespace", ""), replica.name) is not None:
            return  # somebody else's pod has the name: its end wakes this set
        found = storage.claims_of(self.view, self.set, replica.ordinal)
        for _, name, claim in found:
            if claim is None:
                continue
            if storage.is_stale(self.set, claim, replica.name):
                return
            if claim["metadata"].get("deletionTimestamp"):
                self.draft.events.append(self._failed("create", replica.name, f"pvc {name} is being deleted"))
                return
        if self._create_claims(replica):
            return  # the pod is the next step, which the claims wake
        if not self.creations_left:
            self.put_off += 1
            return
        self.creations_left -= 1
        below = replica.index < update.partition_of(self.set) and not update.is_on_delete(self.set)
        revision = self._current_revision(new) if below else new
        self._write(
            create_write(
                kinds.PODS,
                identities.make(self.set, replica, revision, self.reference),
                done=self._done("create", replica.name),
                failed=self._failed("create", replica.name),
            )
        )

    def _create_claims(self, replica: Replica) -> bool:
        """Makes the claims that are missing. Whether there were some."""
        missing = False
        for template, name, claim in storage.claims_of(self.view, self.set, replica.ordinal):
            if claim is None:
                missing = True
                self._write(storage.create(self.set, template, name, replica.name))
        return missing

    def _restore(self, pod: Obj) -> None:
        """Gives a pod its identity, and its claims their owners, where somebody changed them."""
        self._own_claims(pod, condemned=False)
        patch = identities.restored(self.set, pod)
        if patch:
            name = pod["metadata"]["name"]
            done, failed = self._done("update", name), self._failed("update", name)
            self._write(patch_write(kinds.PODS, pod, patch, done=done, failed=failed))

    def _own_claims(self, pod: Obj, *, condemned: bool) -> bool:
        """Writes the owners of a pod's claims. Whether they were right."""
        right = True
        for _, name, claim in storage.claims_of(self.view, self.set, identities.ordinal_of(pod)):
            if claim is None:
                continue
            owners, contested = storage.owned_rightly(self.set, claim, pod, condemned=condemned)
            if owners is None:
                continue
            right = False
            if contested:
                text = (
                    f"PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing "
                    "controller, the retention policy is ignored for this claim"
                )
                self.draft.events.append(Event(self.set, "Warning", "ConflictingController", text))
            metadata = {**claim["metadata"], "ownerReferences": owners}
            self._write(
                Write(
                    "update",
                    kinds.PERSISTENT_VOLUME_CLAIMS,
                    claim["metadata"].get("namespace", ""),
                    name,
                    {**claim, "metadata": metadata},
                    resource_version=version_of(claim),
                    uid=uid_of(claim),
                )
            )
        return right

    def _end_condemned(self, condemned: Sequence[Obj]) -> bool:
        """Deletes pods beyond the replicas. Whether there are none left that an update has to wait for."""
        ready = {id(pod): self._own_claims(pod, condemned=True) for pod in condemned}
        first_down = next(
            (pod for pod in reversed(condemned) if identities.is_unavailable(pod, self.set, self.now)), None
        )
        for pod in condemned:
            if pods.is_terminating(pod):
                if self.ordered:
                    return False
                continue
            if not ready[id(pod)]:
                if self.ordered:
                    return False
                continue
            if self.ordered and pod is not first_down and not identities.is_available(pod, self.set, self.now):
                return False
            self._delete(pod)
            if self.ordered:
                return False
        return True

    def _delete(self, pod: Obj) -> None:
        name = pod["metadata"]["name"]
        self._write(delete_write(kinds.PODS, pod, done=self._done("delete", name), failed=self._failed("delete", name)))

    def _recreating(self, pod: Obj) -> Event:
        meta, name = self.set["metadata"], pod["metadata"]["name"]
        text = f"StatefulSet {meta.get('namespace', '')}/{meta['name']} is recreating"
        if pods.phase(pod) == "Failed":
            return Event(self.set, "Warning", "RecreatingFailedPod", f"{text} failed Pod {name}")
        return Event(self.set, "Normal", "RecreatingTerminatedPod", f"{text} terminated Pod {name}")

    def _done(self, verb: str, pod: str) -> Event:
        message = f"{verb} Pod {pod} in StatefulSet {self.set['metadata']['name']} successful"
        return Event(self.set, "Normal", f"Successful{verb.title()}", message)

    def _failed(self, verb: str, pod: str, error: str = "{error}") -> Event:
        message = f"{verb} Pod {pod} in StatefulSet {self.set['metadata']['name']} failed error: {error}"
        return Event(self.set, "Warning", f"Failed{verb.title()}", message)

    @property
    def _is_full(self) -> bool:
        return len(self.written) >= BURST

    def _write(self, write: Write) -> None:
        """Adds a write, at most one for an object; what is beyond BURST is the next plan's, which these wake."""
        about = (write.resource, write.name)
        if about not in self.written and not self._is_full:
            self.written.add(about)
            self.draft.writes.append(write)

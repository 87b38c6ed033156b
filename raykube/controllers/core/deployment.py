"""deployment-controller: rolls a pod template out through ReplicaSets.

One ReplicaSet for each template it ever had, named by a hash of the template; a roll-out moves replicas from the old
ones to the new one (rollout.py says how many), a changed `spec.replicas` is shared out in proportion, old ReplicaSets
without pods are kept for `kubectl rollout undo` up to `revisionHistoryLimit`.
"""

from collections.abc import Iterable, Sequence

from raykube.controllers.core import aspects, claims, conditions, kinds, pods, revisions, rollout
from raykube.controllers.core import deployment_status as progress
from raykube.controllers.core.patches import create_write, delete_write, patch_write, status_write, uid_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, key_of, split_key
from raykube.controllers.core.revisions import DESIRED, HASH_LABEL, REVISION, desired_of

API_VERSION = "apps/v1"
KIND = "Deployment"


class DeploymentController:
    """See the module's docstring."""

    name = "deployment-controller"
    resources = (kinds.DEPLOYMENTS, kinds.REPLICA_SETS, kinds.PODS)
    looks_at = aspects.PHASE | aspects.OF_REPLICA_SET

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Deployment's own key, a ReplicaSet's owners; of pods only the end of those that a Recreate waits for."""
        if resource == kinds.DEPLOYMENTS:
            changed = new or old
            return (key_of(changed),) if changed else ()
        if resource == kinds.REPLICA_SETS:
            return claims.keys_of_owners(view, kinds.DEPLOYMENTS, KIND, old, new)
        if old is not None and (new is None or (pods.is_terminal(new) and not pods.is_terminal(old))):
            return _recreates_waiting_for(view, old)
        return ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step of the roll-out, and the status of what is there."""
        deployment = view.get(kinds.DEPLOYMENTS, *split_key(key))
        if deployment is None:
            return NOTHING
        if claims.is_empty(deployment["spec"].get("selector")):
            return _select_nothing(deployment)
        reference = claims.reference_to(deployment, API_VERSION, KIND)
        selector = deployment["spec"]["selector"]
        owned, writes = claims.claim(view, kinds.REPLICA_SETS, deployment, reference, selector)
        if writes:
            return Plan(writes)
        return _Step(view, deployment, reference, owned, now).plan()


def _recreates_waiting_for(view: View, pod: Obj) -> Iterable[str]:
    reference = claims.controller_reference(pod)
    if reference is None or reference.get("kind") != "ReplicaSet":
        return ()
    namespace = pod["metadata"].get("namespace", "")
    replica_set = view.get(kinds.REPLICA_SETS, namespace, reference["name"])
    owner = claims.controller_reference(replica_set) if replica_set else None
    deployment = view.get(kinds.DEPLOYMENTS, namespace, owner["name"]) if owner else None
    return (key_of(deployment),) if deployment and rollout.is_recreate(deployment) else ()


def _select_nothing(deployment: Obj) -> Plan:
    meta = deployment["metadata"]
    if (deployment.get("status") or {}).get("observedGeneration", 0) >= meta.get("generation", 0):
        return NOTHING
    message = "This deployment is selecting all pods. A non-empty selector is required."
    status = {**(deployment.get("status") or {}), "observedGeneration": meta.get("generation", 0)}
    write = status_write(kinds.DEPLOYMENTS, deployment, status)
    return Plan([write] if write else [], None, [Event(deployment, "Warning", "SelectingAll", message)])


class _Step:
    """One reconcile of one Deployment."""

    def __init__(self, view: View, deployment: Obj, reference: Obj, owned: Sequence[Obj], now: float) -> None:
        self.view, self.deployment, self.reference, self.now = view, deployment, reference, now
        self.new, self.old = revisions.split(deployment, owned)
        self.draft = Draft()
        self.conditions: list[Obj] = list((deployment.get("status") or {}).get("conditions") or ())
        self.collisions = int((deployment.get("status") or {}).get("collisionCount") or 0)
        self.counts = progress.count(deployment, self.new, self.old)

    def plan(self) -> Plan:
        if self.deployment["metadata"].get("deletionTimestamp"):
            self._report()
            return self.draft.plan()
        target = self._target()
        annotated = self._write_replica_sets(target)
        done = not target and not annotated and progress.is_complete(self.deployment, self.counts)
        if self.paused or done:
            self._clean_up()
        if not self._write_revision():
            self._report()
        return self.draft.plan()

    @property
    def paused(self) -> bool:
        return bool(self.deployment["spec"].get("paused"))

    @property
    def replica_sets(self) -> list[Obj]:
        return [*self.old, self.new] if self.new is not None else list(self.old)

    def _target(self) -> rollout.Target:
        self._note_pause()
        if self.paused or self._is_resized():
            target = rollout.resize(self.deployment, self.new, self.old)
        elif rollout.is_recreate(self.deployment):
            target = self._recreate()
        else:
            target = self._roll()
        sizes = {uid_of(replica_set): desired_of(replica_set) for replica_set in self.replica_sets}
        return {uid: size for uid, size in target.items() if sizes[uid] != size or self._is_resized()}

    def _is_resized(self) -> bool:
        desired = desired_of(self.deployment)
        recorded = [
            revisions.number_of(replica_set, DESIRED)
            for replica_set in self.replica_sets
            if rollout.is_active(replica_set)
        ]
        return any(size is not None and size != desired for size in recorded)

    def _roll(self) -> rollout.Target:
        if self.new is None:
            self._create_new(rollout.new_size(self.deployment, self.old, 0))
            return {}
        grown = rollout.grow_new(self.deployment, self.new, self.old)
        return grown or rollout.shrink_old(self.deployment, self.new, self.old)

    def _recreate(self) -> rollout.Target:
        shrunk = {uid_of(replica_set): 0 for replica_set in self.old if rollout.is_active(replica_set)}
        if shrunk or self._old_pods_run():
            return shrunk
        if self.new is None:
            self._create_new(desired_of(self.deployment))
            return {}
        return {uid_of(self.new): desired_of(self.deployment)}

    def _old_pods_run(self) -> bool:
        return any(
            not pods.is_terminal(pod)
            for replica_set in self.old
            for pod in self.view.by_index(kinds.PODS, "controller", uid_of(replica_set))
        )

    def _create_new(self, replicas: int) -> None:
        spec, meta = self.deployment["spec"], self.deployment["metadata"]
        namespace = meta.get("namespace", "")
        template = spec.get("template") or {}
        value = revisions.template_hash(template, self.collisions)
        name = f"{meta['name']}-{value}"
        if self.view.get(kinds.REPLICA_SETS, namespace, name) is not None:
            self.collisions += 1  # the name belongs to something else: the next reconcile hashes with another seed
            return
        template_meta = template.get("metadata") or {}
        labels = {**(template_meta.get("labels") or {}), HASH_LABEL: value}
        match_labels = {**(spec["selector"].get("matchLabels") or {}), HASH_LABEL: value}
        body: Obj = {
            "apiVersion": API_VERSION,
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": {
                    **revisions.revision_annotations(self.deployment, None, self.old),
                    **revisions.size_annotations(self.deployment),
                },
                "ownerReferences": [self.reference],
            },
            "spec": {
                "replicas": replicas,
                "selector": {**spec["selector"], "matchLabels": match_labels},
                "template": {**template, "metadata": {**template_meta, "labels": labels}},
            },
        }
        if spec.get("minReadySeconds"):
            body["spec"]["minReadySeconds"] = spec["minReadySeconds"]
        scaled = self._scaled(name, 0, replicas) if replicas else None
        failed = Event(
            self.deployment, "Warning", "ReplicaSetCreateError", f'Failed to create new replica set "{name}": {{error}}'
        )
        self.draft.writes.append(create_write(kinds.REPLICA_SETS, body, done=scaled, failed=failed))
        if progress.deadline_s(self.deployment) is None:
            return
        if self.view.error:
            message = f'Failed to create new replica set "{name}": {self.view.error}'
            verdict = ("False", "FailedCreate", message)
        else:
            verdict = ("True", "NewReplicaSetCreated", f'Created new replica set "{name}"')
        self.conditions = progress.set_progressing(self.conditions, *verdict, self.now)

    def _scaled(self, name: str, before: int, after: int) -> Event:
        direction = "up" if after > before else "down"
        message = f"Scaled {direction} replica set {name} from {before} to {after}"
        return Event(self.deployment, "Normal", "ScalingReplicaSet", message)

    def _write_replica_sets(self, target: rollout.Target) -> bool:
        """One patch for each ReplicaSet that changes: its size, and the annotations of the new one."""
        wrote = False
        for replica_set in self.replica_sets:
            spec: Obj = {}
            wanted: dict[str, str] = {}
            if replica_set is self.new:
                wanted |= revisions.revision_annotations(self.deployment, self.new, self.old)
                min_ready_s = self.deployment["spec"].get("minReadySeconds") or 0
                if (replica_set["spec"].get("minReadySeconds") or 0) != min_ready_s:
                    spec["minReadySeconds"] = min_ready_s
            size = target.get(uid_of(replica_set))
            event = None
            if size is not None:
                wanted |= revisions.size_annotations(self.deployment)
                before = desired_of(replica_set)
                if size != before:
                    spec["replicas"] = size
                    event = self._scaled(replica_set["metadata"]["name"], before, size)
            present = revisions.annotations_of(replica_set)
            changed = {name: value for name, value in wanted.items() if present.get(name) != value}
            body: Obj = ({"metadata": {"annotations": changed}} if changed else {}) | ({"spec": spec} if spec else {})
            if body:
                wrote = True
                self.draft.writes.append(patch_write(kinds.REPLICA_SETS, replica_set, body, done=event))
        return wrote

    def _write_revision(self) -> bool:
        """Records the new ReplicaSet's revision on the Deployment. Whether there was something to record."""
        if self.new is None:
            return False
        revision = revisions.revision_annotations(self.deployment, self.new, self.old)[REVISION]
        if revisions.annotations_of(self.deployment).get(REVISION) == revision:
            return False
        body = {"metadata": {"annotations": {REVISION: revision}}}
        self.draft.writes.append(patch_write(kinds.DEPLOYMENTS, self.deployment, body))
        return True

    def _clean_up(self) -> None:
        written = {write.name for write in self.draft.writes}
        for replica_set in revisions.expired(self.deployment, self.old):
            if replica_set["metadata"]["name"] not in written:
                self.draft.writes.append(delete_write(kinds.REPLICA_SETS, replica_set))

    def _note_pause(self) -> None:
        """Progressing is Unknown while paused, so that the pause does not count against the deadline."""
        condition = conditions.find(self.conditions, progress.PROGRESSING)
        if progress.deadline_s(self.deployment) is None:
            return
        if condition is not None and condition.get("reason") == "ProgressDeadlineExceeded":
            return  # a missed deadline stays reported until the roll-out moves
        was_paused = condition is not None and condition.get("reason") == "DeploymentPaused"
        if self.paused and not was_paused:
            verdict = ("Unknown", "DeploymentPaused", "Deployment is paused")
        elif not self.paused and was_paused:
            verdict = ("Unknown", "DeploymentResumed", "Deployment is resumed")
        else:
            return
        self.conditions = progress.set_progressing(self.conditions, *verdict, self.now)

    def _report(self) -> None:
        self.conditions = progress.with_availability(self.deployment, self.counts, self.conditions, self.now)
        if not self.paused:
            self._note_found()
            self.conditions = progress.with_progress(
                self.deployment, self.new, self.counts, self.conditions, self.draft, self.now
            )
        self.conditions = progress.with_failure(self.new, self.old, self.conditions, self.now)
        status = {**progress.compact(self.counts), "conditions": self.conditions}
        if self.collisions:
            status["collisionCount"] = self.collisions
        write = status_write(kinds.DEPLOYMENTS, self.deployment, status)
        if write is not None:
            self.draft.writes.append(write)

    def _note_found(self) -> None:
        known = conditions.find(self.conditions, progress.PROGRESSING)
        if self.new is not None and known is None and progress.deadline_s(self.deployment) is not None:
            message = f'Found new replica set "{self.new["metadata"]["name"]}"'
            self.conditions = progress.set_progressing(self.conditions, "True", "FoundNewReplicaSet", message, self.now)

"""persistentvolume-binder-controller: claims get volumes, volumes get what their claims became.

    claim      Pending ──a volume is found──► claimRef set ──► volumeName set ──► Bound ──volume lost──► Lost
    volume     Pending ──► Available ──claimed──► Bound ──claim gone──► Released ──cannot be reclaimed──► Failed

A binding is made in steps, each a write that the next plan sees: the volume is reserved (`claimRef`), then the claim
names the volume, then both say so in their phases. After a crash at any step the claim finds its reserved volume again.

A class may let claims wait for their first consumer: then only a volume that the scheduler reserved for the claim is
bound. Provisioners are other people's programs: a claim whose class has one is handed over by annotation. There is none
for local and hostPath volumes, so that reclaim policy Delete fails as upstream's does, and nobody's data is deleted.
"""

from collections.abc import Iterable

from raykube.api import volumes
from raykube.api.volumes import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    NO_PROVISIONER,
    PROVISIONED_BY,
    PROVISIONER,
    PROVISIONER_BETA,
    SELECTED_NODE,
    WAITS,
    annotations,
    class_of,
    phase,
)
from raykube.base.clock import rfc3339
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.patches import patch_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Event, Obj, Plan, View, Write, key_of, split_key

CLAIMS, VOLUMES, CLASSES = kinds.PERSISTENT_VOLUME_CLAIMS, kinds.PERSISTENT_VOLUMES, kinds.STORAGE_CLASSES


class VolumeBinder:
    """See the module's docstring. Keys: "namespace/name" of a claim, "name" of a volume."""

    name = "persistentvolume-binder-controller"
    resources = (CLAIMS, VOLUMES, CLASSES, kinds.PODS)
    looks_at = aspects.COMING

    def __init__(self) -> None:
        # Reservations on their way: volume → the claim's uid and the state it saw; and the other way round.
        self._reserving: dict[str, tuple[str, int]] = {}
        self._chosen: dict[str, str] = {}

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A claim and its volume; a volume, its claim and those that wait for one like it; claims of a class or pod."""
        changed = new or old
        if changed is None:
            return ()
        if resource == CLAIMS:
            keys = {key_of(changed)}
            names = {one["spec"].get("volumeName") for one in (old, new) if one is not None}
            names |= {volume["metadata"]["name"] for volume in view.by_index(VOLUMES, "claim", key_of(changed))}
            if new is None and self._chosen.pop(uid_of(changed), ""):
                keys |= {key_of(claim) for claim in view.by_index(CLAIMS, "waiting", class_of(changed))}
            return keys | {name for name in names if name}
        if resource == VOLUMES:
            return self._observe_volume(view, old, changed)
        if resource == CLASSES:
            waiting = list(view.by_index(CLAIMS, "waiting", changed["metadata"]["name"]))
            if volumes.default_class([changed]) is not None:
                waiting += [one for one in view.by_index(CLAIMS, "waiting", "") if volumes.says_no_class(one)]
            return {key_of(claim) for claim in waiting}
        namespace = changed["metadata"].get("namespace", "")
        # A pod that comes changes what a claim waits for; nothing else about pods matters here.
        return {f"{namespace}/{name}" for name in volumes.claims_of(changed)} if old is None else ()

    def _observe_volume(self, view: View, old: Obj | None, volume: Obj) -> set[str]:
        name = volume["metadata"]["name"]
        keys = {name} | {key_of(claim) for claim in view.by_index(CLAIMS, "volume", name)}
        for one in (old, volume):
            reference = (one or {}).get("spec", {}).get("claimRef")
            if reference:
                keys.add(f"{reference.get('namespace', '')}/{reference.get('name', '')}")
        if volumes.is_free(volume):
            keys |= {key_of(claim) for claim in view.by_index(CLAIMS, "waiting", class_of(volume))}
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The next step of a claim or of a volume."""
        namespace, name = split_key(key)
        if not namespace:
            volume = view.get(VOLUMES, "", name)
            return NOTHING if volume is None else self._volume(view, volume, now)
        claim = view.get(CLAIMS, namespace, name)
        if claim is None:
            return NOTHING
        if BIND_COMPLETED in annotations(claim):
            return self._bound_claim(view, claim)
        return self._unbound_claim(view, claim, now)

    # -- claims

    def _unbound_claim(self, view: View, claim: Obj, now: float) -> Plan:
        wanted = claim["spec"].get("volumeName")
        if wanted:
            return self._named(view, claim, wanted)
        if claim["metadata"].get("deletionTimestamp"):
            return NOTHING
        if volumes.says_no_class(claim):
            default = volumes.default_class(view.list(CLASSES))
            if default is not None:
                body = {"spec": {"storageClassName": default["metadata"]["name"]}}
                return Plan([patch_write(CLAIMS, claim, body)])
        name = class_of(claim)
        found = view.get(CLASSES, "", name) if name else None
        waits = (found or {}).get("volumeBindingMode") == WAITS
        delayed = waits and SELECTED_NODE not in annotations(claim)
        candidates = [*view.by_index(VOLUMES, "claim", key_of(claim))]
        candidates += [one for one in view.by_index(VOLUMES, "free", name) if self._is_offered(one, claim)]
        volume = volumes.best(candidates, claim, reserved_only=delayed)
        if volume is not None:
            return self._bind(volume, claim)
        return self._pending(view, claim, found, delayed)

    def _is_offered(self, volume: Obj, claim: Obj) -> bool:
        """Not on its way to another claim: of those that are decided together each gets one of its own."""
        taken = self._reserving.get(volume["metadata"]["name"])
        if taken is None or taken[0] == uid_of(claim):
            return True
        return taken[1] != version_of(volume) or self._chosen.get(taken[0]) != volume["metadata"]["name"]

    def _pending(self, view: View, claim: Obj, found: Obj | None, delayed: bool) -> Plan:
        """Nothing fits: says why, and asks a provisioner if the class has one."""
        name, writes = class_of(claim), []
        if delayed:
            event = _waiting(view, claim)
        elif name and found is None:
            event = Event(claim, "Warning", "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found')
        elif found is not None and str(found.get("provisioner", "")).startswith("kubernetes.io/"):
            text = f"no volume plugin matched name: {found['provisioner']}"
            event = Event(claim, "Warning", "ProvisioningFailed", text)
        elif found is not None:
            provisioner = str(found["provisioner"])
            if annotations(claim).get(PROVISIONER) != provisioner:
                asked = {PROVISIONER: provisioner, PROVISIONER_BETA: provisioner}
                writes.append(patch_write(CLAIMS, claim, {"metadata": {"annotations": asked}}))
            event = Event(
                claim,
                "Normal",
                "ExternalProvisioning",
                f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually "
                "by the system administrator. If volume creation is delayed, please verify that the provisioner is "
                "running and correctly registered.",
            )
        else:
            text = "no persistent volumes available for this claim and no storage class is set"
            event = Event(claim, "Normal", "FailedBinding", text)
        if phase(claim) != "Pending" and not writes:
            write = status_write(CLAIMS, claim, {"phase": "Pending"})
            writes += [write] if write else []
        return Plan(writes, events=[event])

    def _named(self, view: View, claim: Obj, name: str) -> Plan:
        """A claim that says which volume it wants."""
        volume = view.get(VOLUMES, "", name)
        if volume is None:
            return self._phase(claim, "Pending")
        if not volume["spec"].get("claimRef"):
            why_not = volumes.mismatch(volume, claim)
            if why_not:
                text = f'Cannot bind to requested volume "{name}": {why_not}'
                return self._phase(claim, "Pending", Event(claim, "Warning", "VolumeMismatch", text))
            return self._bind(volume, claim)
        if volumes.is_reserved_for(volume, claim):
            return self._bind(volume, claim)
        if BOUND_BY_CONTROLLER in annotations(claim):
            return NOTHING  # never seen: two controllers, or somebody who edited both
        text = f'volume "{name}" already bound to a different claim.'
        return self._phase(claim, "Pending", Event(claim, "Warning", "FailedBinding", text))

    def _bound_claim(self, view: View, claim: Obj) -> Plan:
        name = claim["spec"].get("volumeName")
        if not name:
            text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
            return self._lost(claim, "ClaimLost", text)
        volume = view.get(VOLUMES, "", name)
        if volume is None:
            text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            return self._lost(claim, "ClaimLost", text)
        reference = volume["spec"].get("claimRef")
        if not reference or reference.get("uid") == uid_of(claim):
            return self._bind(volume, claim)
        text = "Two claims are bound to the same volume, this one is bound incorrectly"
        return self._lost(claim, "ClaimMisbound", text)

    def _lost(self, claim: Obj, reason: str, message: str) -> Plan:
        if phase(claim) == "Lost":
            return NOTHING
        status = {"phase": "Lost"}
        write = status_write(CLAIMS, claim, status)
        return Plan([write], events=[Event(claim, "Warning", reason, message)]) if write else NOTHING

    def _phase(self, claim: Obj, wanted: str, event: Event | None = None) -> Plan:
        events = [event] if event is not None else []
        if phase(claim) == wanted:
            return Plan(events=events)
        write = status_write(CLAIMS, claim, {"phase": wanted})
        return Plan([write] if write else [], events=events)

    # -- the steps of a binding

    def _bind(self, volume: Obj, claim: Obj) -> Plan:
        """The next of: the volume is the claim's, the claim has the volume, the claim says so."""
        name, spec = volume["metadata"]["name"], volume["spec"]
        reference = spec.get("claimRef") or {}
        if reference.get("uid") != uid_of(claim):
            self._reserving[name] = uid_of(claim), version_of(volume)
            self._chosen[uid_of(claim)] = name
            return Plan([_reserve(volume, claim)])
        self._reserving.pop(name, None)
        self._chosen.pop(uid_of(claim), None)
        marks = {} if claim["spec"].get("volumeName") else {BOUND_BY_CONTROLLER: "yes"}
        if claim["spec"].get("volumeName") != name or BIND_COMPLETED not in annotations(claim):
            body = {"metadata": {"annotations": marks | {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": name}}
            return Plan([patch_write(CLAIMS, claim, body)])
        if phase(claim) == "Bound":
            return NOTHING  # what was resized since is not for us to say
        has = {"accessModes": spec.get("accessModes") or [], "capacity": spec.get("capacity") or {}}
        write = status_write(CLAIMS, claim, {**(claim.get("status") or {}), "phase": "Bound"} | has)
        return Plan([write]) if write else NOTHING

    # -- volumes

    def _volume(self, view: View, volume: Obj, now: float) -> Plan:
        name, reference = volume["metadata"]["name"], volume["spec"].get("claimRef")
        if not reference or not reference.get("uid"):
            return _volume_phase(volume, "Available", now)
        claim = view.get(CLAIMS, reference.get("namespace", ""), reference.get("name", ""))
        if claim is None or uid_of(claim) != reference["uid"]:
            if phase(volume) not in ("Released", "Failed"):
                return _volume_phase(volume, "Released", now)
            return self._reclaim(volume, now)
        wanted = claim["spec"].get("volumeName")
        if wanted == name:
            return _volume_phase(volume, "Bound", now)
        if not wanted:
            return NOTHING  # the claim's own key goes on with the binding
        # The claim got another volume meanwhile.
        if PROVISIONED_BY in annotations(volume) and _policy(volume) == "Delete":
            if phase(volume) not in ("Released", "Failed"):
                return _volume_phase(volume, "Released", now)
            return self._reclaim(volume, now)
        return Plan([_release(volume)])

    def _reclaim(self, volume: Obj, now: float) -> Plan:
        policy, name = _policy(volume), volume["metadata"]["name"]
        if policy == "Retain" or phase(volume) == "Failed":
            return NOTHING
        if policy == "Delete":
            if annotations(volume).get(PROVISIONED_BY, NO_PROVISIONER) != NO_PROVISIONER:
                return NOTHING  # whoever made it deletes it
            reason = "VolumeFailedDelete"
            text = f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
        elif policy == "Recycle":
            reason, text = "VolumeFailedRecycle", "No recycler plugin found for the volume!"
        else:
            reason, text = "VolumeUnknownReclaimPolicy", "Volume has an unrecognized PersistentVolumeReclaimPolicy"
        plan = _volume_phase(volume, "Failed", now, text)
        return Plan(plan.writes, events=[Event(volume, "Warning", reason, text)])


def _policy(volume: Obj) -> str:
    return str(volume["spec"].get("persistentVolumeReclaimPolicy") or "Retain")


def _reserve(volume: Obj, claim: Obj) -> Write:
    metadata = claim["metadata"]
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": uid_of(claim),
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    body: Obj = {"spec": {"claimRef": reference}}
    if not volume["spec"].get("claimRef"):
        body["metadata"] = {"annotations": {BOUND_BY_CONTROLLER: "yes"}}
    return patch_write(VOLUMES, volume, body)


def _release(volume: Obj) -> Write:
    """Takes a reservation back: the controller's own as a whole, of a user's only the uid."""
    if BOUND_BY_CONTROLLER in annotations(volume):
        return patch_write(
            VOLUMES, volume, {"spec": {"claimRef": None}, "metadata": {"annotations": {BOUND_BY_CONTROLLER: None}}}
        )
    return patch_write(VOLUMES, volume, {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}})


def _volume_phase(volume: Obj, wanted: str, now: float, message: str = "") -> Plan:
    status = {**(volume.get("status") or {}), "phase": wanted}
    if phase(volume) == wanted and status.get("message", "") == message and volume.get("status"):
        return NOTHING
    status.pop("message", None)
    if message:
        status["message"] = message
    if phase(volume) != wanted or "lastPhaseTransitionTime" not in status:
        status["lastPhaseTransitionTime"] = rfc3339(now)
    write = status_write(VOLUMES, volume, status)
    return Plan([write]) if write else NOTHING


def _waiting(view: View, claim: Obj) -> Event:
    """What a claim waits for that is to be bound when a pod uses it."""
    for pod in view.by_index(kinds.PODS, "claim", key_of(claim)):
        if not pod["spec"].get("nodeName"):
            text = f"waiting for pod {pod['metadata']['name']} to be scheduled"
            return Event(claim, "Normal", "WaitForPodScheduled", text)
    text = "waiting for first consumer to be created before binding"
    return Event(claim, "Normal", "WaitForFirstConsumer", text)

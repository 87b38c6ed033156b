"""ephemeral-volume-controller: makes the claims that pods bring along in their volumes; they go with their pods."""

from collections.abc import Iterable

from raykube.api.volumes import ephemeral_claim
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.claims import reference_to
from raykube.controllers.core.indexes import controller_uid
from raykube.controllers.core.patches import create_write, uid_of
from raykube.controllers.core.plan import NOTHING, Event, Obj, Plan, View, Write, key_of, split_key

FAILED = "FailedBinding"


class EphemeralVolumes:
    """See the module's docstring."""

    name = "ephemeral-volume-controller"
    resources = (kinds.PODS, kinds.PERSISTENT_VOLUME_CLAIMS)
    looks_at = aspects.COMING

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A new pod with such volumes; the pod whose claim was deleted, which needs another one."""
        if resource == kinds.PODS:
            return (key_of(new),) if old is None and new is not None and _wanted(new) else ()
        if new is not None or old is None:
            return ()
        namespace = old["metadata"].get("namespace", "")
        return [
            f"{namespace}/{owner['name']}"
            for owner in old["metadata"].get("ownerReferences") or ()
            if owner.get("controller") and owner.get("kind") == "Pod"
        ]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Makes the claims that are missing."""
        pod = view.get(kinds.PODS, *split_key(key))
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            return NOTHING
        writes: list[Write] = []
        events = []
        for volume, name in _wanted(pod):
            claim = view.get(kinds.PERSISTENT_VOLUME_CLAIMS, pod["metadata"]["namespace"], name)
            if claim is None:
                writes.append(_create(pod, volume, name))
            elif controller_uid(claim) != uid_of(pod):
                full = f"{pod['metadata']['namespace']}/{name}"
                text = f"ephemeral volume {volume['name']}: PVC {full} was not created for pod {key} (pod is not owner)"
                events.append(Event(pod, "Warning", FAILED, text))
        return Plan(writes, events=events)


def _wanted(pod: Obj) -> list[tuple[Obj, str]]:
    volumes = pod["spec"].get("volumes") or ()
    return [(volume, ephemeral_claim(pod, volume)) for volume in volumes if "ephemeral" in volume]


def _create(pod: Obj, volume: Obj, name: str) -> Write:
    template = (volume["ephemeral"] or {}).get("volumeClaimTemplate") or {}
    given = template.get("metadata") or {}
    metadata = {field: given[field] for field in ("labels", "annotations") if given.get(field)}
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata
        | {
            "name": name,
            "namespace": pod["metadata"]["namespace"],
            "ownerReferences": [reference_to(pod, "v1", "Pod")],
        },
        "spec": template.get("spec") or {},
    }
    text = f"ephemeral volume {volume['name']}: create PVC {name}: {{error}}"
    return create_write(kinds.PERSISTENT_VOLUME_CLAIMS, body, failed=Event(pod, "Warning", FAILED, text))

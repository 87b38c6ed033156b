"""pvc- and pv-protection: a claim that pods use and a volume that is bound are deleted only when they are free.

Both put a finalizer on what there is, and take it off what is being deleted and not in use.
"""

from collections.abc import Iterable

from raykube.api.volumes import CLAIM_FINALIZER, VOLUME_FINALIZER, claims_of, phase
from raykube.controllers.core import aspects, kinds
from raykube.controllers.core.patches import patch_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, Read, View, key_of, split_key


def _finalizers(obj: Obj) -> list[str]:
    return list(obj["metadata"].get("finalizers") or ())


def _with(resource: str, obj: Obj, finalizer: str) -> Plan:
    if finalizer in _finalizers(obj):
        return NOTHING
    return Plan([patch_write(resource, obj, {"metadata": {"finalizers": [*_finalizers(obj), finalizer]}})])


def _without(resource: str, obj: Obj, finalizer: str) -> Plan:
    kept = [one for one in _finalizers(obj) if one != finalizer]
    return Plan([patch_write(resource, obj, {"metadata": {"finalizers": kept or None}})])


class ClaimProtection:
    """See the module's docstring."""

    name = "persistentvolumeclaim-protection-controller"
    resources = (kinds.PERSISTENT_VOLUME_CLAIMS, kinds.PODS)
    looks_at = aspects.COMING

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The claim; the claims of a pod that went (or is another one of the same name)."""
        if resource == kinds.PERSISTENT_VOLUME_CLAIMS:
            return (key_of(new),) if new is not None else ()
        if old is None or (new is not None and new["metadata"]["uid"] == old["metadata"]["uid"]):
            return ()
        namespace = old["metadata"].get("namespace", "")
        return [f"{namespace}/{name}" for name in claims_of(old)]

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The finalizer comes or goes."""
        claim = view.get(kinds.PERSISTENT_VOLUME_CLAIMS, *split_key(key))
        if claim is None:
            return NOTHING
        if not claim["metadata"].get("deletionTimestamp"):
            return _with(kinds.PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_FINALIZER)
        if CLAIM_FINALIZER not in _finalizers(claim) or _used(view.by_index(kinds.PODS, "claim", key), claim):
            return NOTHING
        read = Read(kinds.PODS, claim["metadata"]["namespace"])
        living = view.answer(read)
        if living is None:
            return Plan(reads=[read])  # the caches may lag behind a pod that has just been bound
        if _used(living, claim):
            return Plan(requeue_after=1.0)
        return _without(kinds.PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_FINALIZER)


def _used(pods: Iterable[Obj], claim: Obj) -> bool:
    """Whether a pod that has a node names the claim: kubelets start no other with a claim that is being deleted."""
    name = claim["metadata"]["name"]
    return any(pod["spec"].get("nodeName") and name in claims_of(pod) for pod in pods)


class VolumeProtection:
    """See the module's docstring."""

    name = "persistentvolume-protection-controller"
    resources = (kinds.PERSISTENT_VOLUMES,)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The volume."""
        return (key_of(new),) if new is not None else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The finalizer comes or goes."""
        volume = view.get(kinds.PERSISTENT_VOLUMES, "", key)
        if volume is None:
            return NOTHING
        if not volume["metadata"].get("deletionTimestamp"):
            return _with(kinds.PERSISTENT_VOLUMES, volume, VOLUME_FINALIZER)
        if VOLUME_FINALIZER not in _finalizers(volume) or phase(volume) == "Bound":
            return NOTHING
        return _without(kinds.PERSISTENT_VOLUMES, volume, VOLUME_FINALIZER)

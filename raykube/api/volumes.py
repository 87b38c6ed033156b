"""Claims and PersistentVolumes: which volume may serve which claim, and which is the best.

The controller that binds and the scheduler that chooses for pods that wait decide by the same rules.
"""

from collections.abc import Iterable
from typing import Any

from raykube.api import node_selectors, quantity
from raykube.api.selectors import LabelSelector

Object = dict[str, Any]

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONER = "volume.kubernetes.io/storage-provisioner"
PROVISIONER_BETA = "volume.beta.kubernetes.io/storage-provisioner"
CLASS_BETA = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
DEFAULT_CLASS_BETA = "storageclass.beta.kubernetes.io/is-default-class"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"
WAITS = "WaitForFirstConsumer"


def claims_of(pod: Object) -> list[str]:
    """The names of the claims that a pod uses, its own ephemeral ones included."""
    found = []
    for volume in pod["spec"].get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            found.append(str(volume["persistentVolumeClaim"]["claimName"]))
        elif "ephemeral" in volume:
            found.append(ephemeral_claim(pod, volume))
    return found


def ephemeral_claim(pod: Object, volume: Object) -> str:
    return f"{pod['metadata']['name']}-{volume['name']}"


def annotations(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def phase(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase") or "Pending")


def class_of(obj: Object) -> str:
    """The storage class of a claim or volume; "" without one."""
    beta = annotations(obj).get(CLASS_BETA)
    return str(beta if beta is not None else obj["spec"].get("storageClassName") or "")


def says_no_class(claim: Object) -> bool:
    """Whether a claim leaves its class to the cluster's default."""
    return claim["spec"].get("storageClassName") is None and CLASS_BETA not in annotations(claim)


def default_class(classes: Iterable[Object]) -> Object | None:
    """The newest of the classes that are marked as default; of equally old ones the first by name."""
    names = (DEFAULT_CLASS, DEFAULT_CLASS_BETA)
    marked = [one for one in classes if any(annotations(one).get(name) == "true" for name in names)]
    marked.sort(key=lambda one: one["metadata"]["name"])
    return max(marked, key=lambda one: one["metadata"].get("creationTimestamp") or "", default=None)


def is_reserved_for(volume: Object, claim: Object) -> bool:
    """Whether a volume names this claim as its own, by name alone or with the claim's uid."""
    reference, metadata = volume["spec"].get("claimRef") or {}, claim["metadata"]
    return (
        reference.get("name") == metadata["name"]
        and reference.get("namespace") == metadata.get("namespace")
        and reference.get("uid", "") in ("", metadata["uid"])
    )


def size_of(volume: Object) -> Any:
    return quantity.parse((volume["spec"].get("capacity") or {}).get("storage", "0"))


def size_wanted(claim: Object) -> Any:
    return quantity.parse(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0"))


def _mode(obj: Object) -> str:
    return obj["spec"].get("volumeMode") or "Filesystem"


def mismatch(volume: Object, claim: Object) -> str:
    """Why a claim cannot have the volume that it asks for by name; "" when it can."""
    if size_of(volume) < size_wanted(claim):
        return "requested PV is too small"
    if class_of(volume) != class_of(claim):
        return "storageClassName does not match"
    if _mode(volume) != _mode(claim):
        return "incompatible volumeMode"
    if _attributes_class(volume) != _attributes_class(claim):
        return "VolumeAttributesClassName does not match"
    if not set(claim["spec"].get("accessModes") or ()) <= set(volume["spec"].get("accessModes") or ()):
        return "incompatible accessMode"
    return ""


def _attributes_class(obj: Object) -> str:
    return obj["spec"].get("volumeAttributesClassName") or ""


def is_free(volume: Object) -> bool:
    return phase(volume) == "Available" and not volume["spec"].get("claimRef")


def may_serve(volume: Object, claim: Object) -> bool:
    """Whether a free volume is one that the claim could get: selector and all that `mismatch` looks at."""
    selector = claim["spec"].get("selector")
    if selector is not None and not LabelSelector.from_object(selector).matches(volume["metadata"].get("labels") or {}):
        return False
    return not volume["metadata"].get("deletionTimestamp") and not mismatch(volume, claim)


def on_node(volume: Object, labels: dict[str, str], name: str) -> bool:
    """Whether pods on a node can use the volume."""
    return node_selectors.matches((volume["spec"].get("nodeAffinity") or {}).get("required"), labels, name)


def preference(volume: Object) -> tuple[Any, ...]:
    """Order among volumes that fit: nothing superfluous, then the smallest."""
    return len(volume["spec"].get("accessModes") or ()), size_of(volume), volume["metadata"]["name"]


def best(candidates: Iterable[Object], claim: Object, *, reserved_only: bool = False) -> Object | None:
    """The volume for a claim: one that is reserved for it, else the smallest free one that fits.

    `reserved_only`: the claim waits for its first consumer, so that a free volume is not chosen for it yet.
    """
    fitting = []
    for volume in candidates:
        if volume["metadata"].get("deletionTimestamp") or _mode(volume) != _mode(claim):
            continue
        if volume["spec"].get("claimRef"):
            if is_reserved_for(volume, claim) and size_of(volume) >= size_wanted(claim):
                return volume
        elif not reserved_only and is_free(volume) and may_serve(volume, claim):
            fitting.append(volume)
    return min(fitting, key=preference, default=None)

"""Readings of a pod's volumes: kinds, the claims behind them, sizes in memory, how they are mounted.

Vocabulary: the *source* of a volume is the one field that says what it is made of. A volume that names a claim gets the
source of the PersistentVolume which that is bound to (`Resolved`).
"""

import re
from dataclasses import dataclass

from raykube.api import node_selectors, quantity, volumes
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object
from raykube.pb import cri_pb2

# Source → the directory of its plugin, as every kubelet names it.
OF_OBJECTS = {
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
}
IN_MEMORY = ("secret", "downwardAPI", "projected")  # never on a disk, where the kubelet may mount
EMPTY_DIR = "kubernetes.io~empty-dir"
CLAIMS = ("persistentVolumeClaim", "ephemeral")
OWN_FIELDS = ("name",)

_PROPAGATION = {
    None: cri_pb2.PROPAGATION_PRIVATE,
    "None": cri_pb2.PROPAGATION_PRIVATE,
    "HostToContainer": cri_pb2.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": cri_pb2.PROPAGATION_BIDIRECTIONAL,
}


class NotUsable(Exception):
    """A volume or mount cannot be had as the pod asks for it; the message is Kubernetes'."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a volume is in the end. `name` is the PersistentVolume's where there is one."""

    name: str
    kind: str
    source: Object
    read_only: bool = False
    block: bool = False


def kind_of(volume: Object) -> str:
    """The field that says what a volume is made of; emptyDir where there is none."""
    return next((name for name in volume if name not in OWN_FIELDS), "emptyDir")


def plain(volume: Object) -> Resolved:
    """A volume that says by itself what it is."""
    kind = kind_of(volume)
    return Resolved(str(volume["name"]), kind, volume.get(kind) or {}, read_only=kind in OF_OBJECTS)


# -- claims


def claim_name(pod: Object, volume: Object) -> str:
    """The claim that a volume uses; "" for other volumes."""
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    return volumes.ephemeral_claim(pod, volume) if "ephemeral" in volume else ""


def check_claim(pod: Object, volume: Object, claim: Object) -> str:
    """The PersistentVolume of a claim. Raises NotUsable."""
    metadata = claim["metadata"]
    full = f"{metadata['namespace']}/{metadata['name']}"
    if "ephemeral" in volume and not any(
        owner.get("controller") and owner["uid"] == pods.uid(pod) for owner in metadata.get("ownerReferences") or ()
    ):
        raise NotUsable(
            f"error processing PVC {full}: PVC {full} was not created for pod "
            f"{pods.namespace(pod)}/{pods.name(pod)} (pod is not owner)"
        )
    if metadata.get("deletionTimestamp"):
        raise NotUsable(f"error processing PVC {full}: PVC is being deleted")
    if (claim.get("status") or {}).get("phase") != "Bound":
        raise NotUsable(f"error processing PVC {full}: PVC is not bound")
    name = (claim.get("spec") or {}).get("volumeName")
    if not name:
        raise NotUsable(f"error processing PVC {full}: PVC has empty pvc.Spec.VolumeName")
    return str(name)


def bound_volume(volume: Object, claim: Object, persistent: Object, labels: dict[str, str], node: str) -> Resolved:
    """What a claim's PersistentVolume gives to a pod on this node. Raises NotUsable."""
    name, spec = persistent["metadata"]["name"], persistent["spec"]
    reference, uid = spec.get("claimRef") or {}, claim["metadata"]["uid"]
    if reference.get("uid") != uid:
        raise NotUsable(
            f"found PV object {name} with unexpected pvc.UID {reference.get('uid', '')}; expected claim UID: {uid}"
        )
    if not node_selectors.matches((spec.get("nodeAffinity") or {}).get("required"), labels, node):
        raise NotUsable(f'MountVolume.NodeAffinity check failed for volume "{name}" : no matching NodeSelectorTerms')
    kind = next((one for one in ("local", "hostPath") if one in spec), "")
    if not kind:
        found = next((one for one in spec if one in _OTHER_SOURCES), "this kind of")
        raise NotUsable(f"{found} volumes are not supported by this kubelet")
    read_only = bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))
    return Resolved(name, kind, spec[kind], read_only, spec.get("volumeMode") == "Block")


_OTHER_SOURCES = (
    "csi", "nfs", "iscsi", "fc", "cephfs", "rbd", "flexVolume", "awsElasticBlockStore", "gcePersistentDisk",
    "azureDisk", "azureFile", "vsphereVolume", "portworxVolume", "glusterfs", "cinder", "storageos", "scaleIO",
)  # fmt: skip


# -- emptyDir


def memory_medium(source: Object) -> bool:
    """Whether an emptyDir is to be in memory. Raises NotUsable for a medium that there is not."""
    medium = source.get("medium") or ""
    if str(medium).startswith("HugePages"):
        raise NotUsable(f'storage medium "{medium}" is not supported: this kubelet manages no huge pages')
    if medium not in ("", "Memory"):
        raise NotUsable(f'unknown storage medium "{medium}"')
    return medium == "Memory"


def memory_bytes_max(pod: Object, source: Object, allocatable: dict[str, str]) -> int:
    """The size of an emptyDir in memory: the least of its own limit, the pod's memory limit and what the node has."""
    bounds = [quantity.value(allocatable["memory"])] if "memory" in allocatable else []
    limits = [(spec.get("resources") or {}).get("limits") or {} for spec in pods.containers(pod)]
    if limits and all("memory" in one for one in limits):
        bounds.append(sum(quantity.value(one["memory"]) for one in limits))
    own = ((pod["spec"].get("resources") or {}).get("limits") or {}).get("memory")
    bounds += [quantity.value(one) for one in (own, source.get("sizeLimit")) if one is not None]
    return min((bound for bound in bounds if bound > 0), default=0)


# -- what the runtime can do

IMAGE_VOLUMES_SINCE = {"containerd": (2, 1), "cri-o": (1, 31)}


def image_refusal(runtime: str, version: str) -> str:
    """Why a runtime cannot mount images; "" when it can, as far as is known."""
    since = IMAGE_VOLUMES_SINCE.get(runtime)
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    if since is None or len(numbers) < 2 or tuple(numbers) >= since:
        return ""
    needed = ".".join(map(str, since))
    return f"image volumes need {runtime} {needed} or newer, and this machine has {version}"


def makes_recursive_read_only(status: cri_pb2.StatusResponse) -> bool:
    """Whether the default handler of the runtime makes mounts below a volume read-only too."""
    return any(one.features.recursive_read_only_mounts for one in status.runtime_handlers if not one.name)


# -- mounts of a container


def propagation(wanted: Object) -> "cri_pb2.MountPropagation":
    return _PROPAGATION[wanted.get("mountPropagation")]


def recursive_read_only(wanted: Object, supported: bool) -> bool:
    """Whether what is mounted below the volume becomes read-only too. Raises NotUsable."""
    mode = wanted.get("recursiveReadOnly") or "Disabled"
    if mode == "Disabled":
        return False
    asked = f'failed to resolve recursive read-only mode: volume "{wanted["name"]}" requested recursive read-only mode'
    if not wanted.get("readOnly"):
        raise NotUsable(f"{asked}, but it is not read-only")
    if (wanted.get("mountPropagation") or "None") != "None":
        raise NotUsable(f'{asked}, but it is not compatible with propagation "{wanted["mountPropagation"]}"')
    if mode == "Enabled" and not supported:
        raise NotUsable(f"{asked}, but it is not supported by the runtime")
    return supported

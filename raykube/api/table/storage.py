"""Rows of volumes, claims, classes and drivers."""

from typing import Any

from raykube.api.table.ages import object_age
from raykube.api.table.columns import (
    AGE,
    NAME,
    UNSET,
    Column,
    Object,
    Printer,
    flag,
    name_of,
    named_and_aged,
    number,
    spec,
    status,
    text,
)

_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_DEFAULT_ANNOTATIONS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def _access_modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _phase(obj: Object) -> str:
    deleted = obj.get("metadata", {}).get("deletionTimestamp")
    return "Terminating" if deleted else status(obj).get("phase", "")


def _class_of(obj: Object) -> str:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    return annotations.get(_CLASS_ANNOTATION) or spec(obj).get("storageClassName") or ""


def _volume(obj: Object, now: float) -> list[Any]:
    wanted = spec(obj)
    claim = wanted.get("claimRef")
    return [
        name_of(obj),
        (wanted.get("capacity") or {}).get("storage", ""),
        _access_modes(wanted.get("accessModes")),
        wanted.get("persistentVolumeReclaimPolicy", ""),
        _phase(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _class_of(obj),
        wanted.get("volumeAttributesClassName") or UNSET,
        status(obj).get("reason", ""),
        object_age(obj, now),
        wanted.get("volumeMode") or UNSET,
    ]


def _claim(obj: Object, now: float) -> list[Any]:
    wanted, seen = spec(obj), status(obj)
    bound = bool(wanted.get("volumeName"))
    return [
        name_of(obj),
        _phase(obj),
        wanted.get("volumeName", ""),
        (seen.get("capacity") or {}).get("storage", "") if bound else "",
        _access_modes(seen.get("accessModes")) if bound else "",
        _class_of(obj),
        wanted.get("volumeAttributesClassName") or UNSET,
        object_age(obj, now),
        wanted.get("volumeMode") or UNSET,
    ]


def _class(obj: Object, now: float) -> list[Any]:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    default = any(annotations.get(each) == "true" for each in _DEFAULT_ANNOTATIONS)
    return [
        name_of(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        object_age(obj, now),
    ]


def _driver_flag(name: str, field: str) -> tuple[Column, Any]:
    return flag(name, f"storage.v1.CSIDriverSpec:{field}"), lambda obj: bool(spec(obj).get(field))


def _audiences(obj: Object) -> str:
    return ",".join(each.get("audience", "") for each in spec(obj).get("tokenRequests") or ()) or UNSET


_STORAGE = "storage.k8s.io"
_MODE_COLUMN = Column("VolumeMode", "core.v1.PersistentVolumeSpec:volumeMode", priority=1)

PRINTERS = {
    ("", "persistentvolumes"): Printer(
        (
            NAME,
            text("Capacity", "core.v1.PersistentVolumeSpec:capacity"),
            text("Access Modes", "core.v1.PersistentVolumeSpec:accessModes"),
            text("Reclaim Policy", "core.v1.PersistentVolumeSpec:persistentVolumeReclaimPolicy"),
            text("Status", "core.v1.PersistentVolumeStatus:phase"),
            text("Claim", "core.v1.PersistentVolumeSpec:claimRef"),
            text("StorageClass", "StorageClass of the pv"),
            text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
            text("Reason", "core.v1.PersistentVolumeStatus:reason"),
            AGE,
            _MODE_COLUMN,
        ),
        _volume,
    ),
    ("", "persistentvolumeclaims"): Printer(
        (
            NAME,
            text("Status", "core.v1.PersistentVolumeClaimStatus:phase"),
            text("Volume", "core.v1.PersistentVolumeClaimSpec:volumeName"),
            text("Capacity", "core.v1.PersistentVolumeClaimStatus:capacity"),
            text("Access Modes", "core.v1.PersistentVolumeClaimStatus:accessModes"),
            text("StorageClass", "StorageClass of the pvc"),
            text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
            AGE,
            _MODE_COLUMN,
        ),
        _claim,
    ),
    (_STORAGE, "storageclasses"): Printer(
        (
            NAME,
            text("Provisioner", "storage.v1.StorageClass:provisioner"),
            text("ReclaimPolicy", "storage.v1.StorageClass:reclaimPolicy"),
            text("VolumeBindingMode", "storage.v1.StorageClass:volumeBindingMode"),
            flag("AllowVolumeExpansion", "storage.v1.StorageClass:allowVolumeExpansion"),
            AGE,
        ),
        _class,
    ),
    (_STORAGE, "volumeattributesclasses"): named_and_aged(
        (text("DriverName", "storage.v1.VolumeAttributesClass:driverName"), lambda obj: obj.get("driverName", ""))
    ),
    (_STORAGE, "volumeattachments"): named_and_aged(
        (text("Attacher", "storage.v1.VolumeAttachmentSpec:attacher"), lambda obj: spec(obj).get("attacher", "")),
        (
            text("PV", "storage.v1.VolumeAttachmentSource:persistentVolumeName"),
            lambda obj: (spec(obj).get("source") or {}).get("persistentVolumeName", ""),
        ),
        (text("Node", "storage.v1.VolumeAttachmentSpec:nodeName"), lambda obj: spec(obj).get("nodeName", "")),
        (
            flag("Attached", "storage.v1.VolumeAttachmentStatus:attached"),
            lambda obj: bool(status(obj).get("attached")),
        ),
    ),
    (_STORAGE, "csidrivers"): named_and_aged(
        _driver_flag("AttachRequired", "attachRequired"),
        _driver_flag("PodInfoOnMount", "podInfoOnMount"),
        _driver_flag("StorageCapacity", "storageCapacity"),
        (text("TokenRequests", "storage.v1.CSIDriverSpec:tokenRequests"), _audiences),
        _driver_flag("RequiresRepublish", "requiresRepublish"),
        (
            text("Modes", "storage.v1.CSIDriverSpec:volumeLifecycleModes"),
            lambda obj: ",".join(spec(obj).get("volumeLifecycleModes") or ()),
        ),
    ),
    (_STORAGE, "csinodes"): named_and_aged(
        (number("Drivers", "storage.v1.CSINodeSpec:drivers"), lambda obj: len(spec(obj).get("drivers") or ()))
    ),
    (_STORAGE, "csistoragecapacities"): Printer(
        (
            NAME,
            text("StorageClassName", "storage.v1.CSIStorageCapacity:storageClassName"),
            text("Capacity", "storage.v1.CSIStorageCapacity:capacity"),
        ),
        lambda obj, now: [name_of(obj), obj.get("storageClassName", ""), obj.get("capacity", UNSET)],
    ),
}

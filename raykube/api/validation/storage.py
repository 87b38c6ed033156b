"""PersistentVolumes, claims and storage classes; places on a machine's disk."""

from typing import Any

from raykube.api import quantity
from raykube.api.errors import Cause, forbidden_field, invalid_value, not_supported, required
from raykube.api.validation.metadata import check_selector
from raykube.api.validation.names import IMMUTABLE
from raykube.api.validation.values import check_choice, check_choice_if_set
from raykube.api.volumes import phase, says_no_class, size_wanted

Object = dict[str, Any]

_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_POLICIES = ("Delete", "Recycle", "Retain")
_HOST_PATH_TYPES = (
    "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
# What a PersistentVolume's spec holds besides the source of the volume.
_NOT_SOURCES = frozenset(
    (
        "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
        "storageClassName", "volumeAttributesClassName", "volumeMode",
    )
)  # fmt: skip


def _check_access_modes(spec: Object, reason: str) -> list[Cause]:
    modes = spec.get("accessModes") or []
    if not modes:
        return [required("spec.accessModes", reason)]
    causes = [cause for mode in modes for cause in check_choice(mode, "spec.accessModes", _ACCESS_MODES)]
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        causes.append(forbidden_field("spec.accessModes", "may not use ReadWriteOncePod with other access modes"))
    return causes


# -- PersistentVolumes


def check_volume(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = _check_access_modes(spec, "")
    capacity = spec.get("capacity") or {}
    if not capacity:
        causes.append(required("spec.capacity"))
    elif list(capacity) != ["storage"]:
        causes.append(not_supported("spec.capacity", capacity, ["storage"]))
    elif quantity.parse(capacity["storage"]) <= 0:
        causes.append(invalid_value("spec.capacity[storage]", capacity["storage"], "must be greater than zero"))
    policy = spec.get("persistentVolumeReclaimPolicy")
    causes += check_choice_if_set(policy, "spec.persistentVolumeReclaimPolicy", _POLICIES)
    sources = _sources(spec)
    if not sources:
        causes.append(required("spec", "must specify a volume type"))
    causes += [forbidden_field(f"spec.{name}", "may not specify more than 1 volume type") for name in sources[1:]]
    if "hostPath" in spec:
        causes += check_host_path(spec["hostPath"] or {}, "spec.hostPath")
        if policy == "Recycle" and (spec["hostPath"] or {}).get("path") == "/":
            text = "may not be 'recycle' for a hostPath mount of '/'"
            causes.append(forbidden_field("spec.persistentVolumeReclaimPolicy", text))
    if "local" in spec:
        causes += _check_place((spec["local"] or {}).get("path"), "spec.local.path")
        if not (spec.get("nodeAffinity") or {}).get("required"):
            causes.append(required("metadata.annotations", "Local volume requires node affinity"))
    return causes


def _sources(spec: Object) -> list[str]:
    return [name for name in spec if name not in _NOT_SOURCES]


def check_host_path(source: Object, path: str) -> list[Cause]:
    """A hostPath of a pod or a PersistentVolume."""
    return _check_place(source.get("path"), f"{path}.path") + check_choice_if_set(
        source.get("type"), f"{path}.type", _HOST_PATH_TYPES
    )


def _check_place(path: str | None, field: str) -> list[Cause]:
    if not path:
        return [required(field)]
    return [invalid_value(field, path, "must not contain '..'")] if ".." in path.split("/") else []


def check_volume_update(new: Object, old: Object) -> list[Cause]:
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    causes = []
    if any(wanted.get(name) != stored.get(name) for name in {*_sources(wanted), *_sources(stored)}):
        text = "spec.persistentvolumesource is immutable after creation"
        causes.append(forbidden_field("spec.persistentvolumesource", text))
    return causes + [
        invalid_value(f"spec.{name}", wanted.get(name), IMMUTABLE)
        for name in ("volumeMode", "nodeAffinity")
        if stored.get(name) is not None and wanted.get(name) != stored[name]
    ]


# -- claims


def check_claim(obj: Object) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = _check_access_modes(spec, "at least 1 access mode is required")
    if "storage" not in ((spec.get("resources") or {}).get("requests") or {}):
        causes.append(required("spec.resources[storage]"))
    return causes + check_selector(spec.get("selector"), "spec.selector")


def check_claim_update(new: Object, old: Object) -> list[Cause]:
    wanted, stored = new.get("spec") or {}, old.get("spec") or {}
    is_bound = phase(new) == "Bound"
    free = {"resources"} | ({"volumeName"} if not stored.get("volumeName") else set())
    if is_bound and wanted.get("volumeAttributesClassName") is not None:
        free.add("volumeAttributesClassName")
    if says_no_class(old) and not stored.get("volumeName"):
        free.add("storageClassName")  # a default class that came later
    causes = []
    is_same = all(wanted.get(name) == stored.get(name) for name in {*wanted, *stored} - free)
    if not is_same or _amounts(wanted, sized=not is_bound) != _amounts(stored, sized=not is_bound):
        text = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        causes.append(forbidden_field("spec", text))
    held = quantity.parse(((old.get("status") or {}).get("capacity") or {}).get("storage", "0"))
    if size_wanted(new) < size_wanted(old) and size_wanted(new) <= held:
        # Down to what there is a request may be taken back, when the volume cannot grow.
        text = "field can not be less than status.capacity"
        causes.append(forbidden_field("spec.resources.requests.storage", text))
    return causes


def _amounts(spec: Object, *, sized: bool) -> dict[tuple[str, str], Any]:
    """What a claim asks for, by kind and resource; without the size of its volume unless `sized`."""
    resources = spec.get("resources") or {}
    return {
        (kind, name): quantity.parse(amount)
        for kind in ("requests", "limits")
        for name, amount in (resources.get(kind) or {}).items()
        if sized or (kind, name) != ("requests", "storage")
    }


# -- storage classes


def check_storage_class(obj: Object) -> list[Cause]:
    return [] if obj.get("provisioner") else [required("provisioner")]


def check_storage_class_update(new: Object, old: Object) -> list[Cause]:
    texts = {
        "parameters": "updates to parameters are forbidden.",
        "provisioner": "updates to provisioner are forbidden.",
        "reclaimPolicy": "updates to reclaimPolicy are forbidden.",
        "volumeBindingMode": "updates to volumeBindingMode are forbidden.",
    }
    return [forbidden_field(name, text) for name, text in texts.items() if new.get(name) != old.get(name)]

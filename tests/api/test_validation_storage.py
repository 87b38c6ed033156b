"""Validation of volumes, claims and mounts: the causes upstream gives."""

from typing import Any

import pytest

from raykube.api.volumes import CLASS_BETA
from tests.api.test_validation import causes, changed, pod

MOUNTS = "spec.containers[0].volumeMounts"
TYPES = '"BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"'
AFFINITY = {
    "required": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "h", "operator": "In", "values": ["n"]}]}],
    }
}


def mount(**fields: Any) -> list[str]:
    wanted = {"name": "v", "mountPath": "/x", **fields}
    return pod(volumes=[{"name": "v"}], containers=[{"name": "c", "image": "i", "volumeMounts": [wanted]}])


def spec_of(**spec: Any) -> dict[str, Any]:
    whole = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/mnt/x"},
        "nodeAffinity": AFFINITY,
        **spec,
    }
    return {name: value for name, value in whole.items() if value is not None}


def volume(**spec: Any) -> list[str]:
    return causes("v1", "PersistentVolume", spec=spec_of(**spec))


def test_volumes() -> None:
    assert volume() == []
    assert volume(nodeAffinity=None) == [
        "metadata.annotations: Required value: Local volume requires node affinity",
    ]
    assert volume(local=None) == ["spec: Required value: must specify a volume type"]
    assert volume(capacity=None) == ["spec.capacity: Required value"]
    assert volume(accessModes=None) == ["spec.accessModes: Required value"]
    assert volume(capacity={"storage": "0"}) == [
        'spec.capacity[storage]: Invalid value: "0": must be greater than zero',
    ]
    assert volume(nfs={"server": "s", "path": "/"}) == [
        "spec.nfs: Forbidden: may not specify more than 1 volume type",
    ]
    assert volume(local={"path": "/x/../y"}) == [
        "spec.local.path: Invalid value: \"/x/../y\": must not contain '..'",
    ]
    policies = '"Delete", "Recycle", "Retain"'
    assert volume(persistentVolumeReclaimPolicy="Burn") == [
        f'spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: {policies}',
    ]
    assert volume(accessModes=["ReadWriteOncePod", "ReadOnlyMany"]) == [
        "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"capacity": {"storage": "2Gi"}}, []),
        (
            {"local": {"path": "/mnt/y"}},
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"],
        ),
        ({"volumeMode": "Block"}, ['spec.volumeMode: Invalid value: "Block": field is immutable']),
    ],
)
def test_changes_of_a_volume(change: dict[str, Any], expected: list[str]) -> None:
    assert changed("v1", "PersistentVolume", {"spec": spec_of()}, {"spec": spec_of(**change)}) == expected


def test_a_claim_without_a_class_may_get_one() -> None:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    classed = wanted | {"storageClassName": "disks"}
    assert changed("v1", "PersistentVolumeClaim", {"spec": wanted}, {"spec": classed}) == []
    assert changed("v1", "PersistentVolumeClaim", {"spec": classed}, {"spec": wanted}) != []
    old = {"metadata": {"annotations": {CLASS_BETA: "tapes"}}}
    assert changed("v1", "PersistentVolumeClaim", old | {"spec": wanted}, old | {"spec": classed}) != []


def claim(phase: str, held: str = "", **spec: Any) -> dict[str, Any]:
    status = {"phase": phase, "capacity": {"storage": held}} if held else {"phase": phase}
    return {"spec": {"accessModes": ["ReadWriteOnce"], **spec}, "status": status}


def of_size(size: str, **requests: str) -> dict[str, Any]:
    return {"requests": {"storage": size, **requests}}


IMMUTABLE_CLAIM = (
    "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)
TOO_SMALL = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"


@pytest.mark.parametrize(
    ("phase", "before", "after", "expected"),
    [
        ("Bound", of_size("1Gi"), of_size("2Gi"), []),
        ("Bound", of_size("1Gi"), of_size("1024Mi"), []),
        ("Bound", of_size("4Gi"), of_size("2Gi"), []),  # it could not grow
        ("Bound", of_size("4Gi"), of_size("1Gi"), [TOO_SMALL]),
        ("Bound", of_size("1Gi"), of_size("1Gi", iops="5"), [IMMUTABLE_CLAIM]),
        ("Pending", of_size("1Gi"), of_size("1024Mi"), []),
        ("Pending", of_size("1Gi"), of_size("2Gi"), [IMMUTABLE_CLAIM]),
    ],
)
def test_sizes_of_claims(phase: str, before: dict[str, Any], after: dict[str, Any], expected: list[str]) -> None:
    held = "1Gi" if phase == "Bound" else ""
    old, new = claim(phase, held, resources=before), claim(phase, held, resources=after)
    assert changed("v1", "PersistentVolumeClaim", old, new) == expected


def test_the_attributes_of_a_volume_change_once_it_is_bound() -> None:
    size = of_size("1Gi")
    for phase, expected in (("Bound", []), ("Pending", [IMMUTABLE_CLAIM])):
        old = claim(phase, resources=size, volumeAttributesClassName="slow")
        new = claim(phase, resources=size, volumeAttributesClassName="fast")
        assert changed("v1", "PersistentVolumeClaim", old, new) == expected


def test_host_paths() -> None:
    assert pod(volumes=[{"name": "v", "hostPath": {"path": "/a/../b", "type": "Nothing"}}]) == [
        "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        f'spec.volumes[0].hostPath.type: Unsupported value: "Nothing": supported values: {TYPES}',
    ]
    assert pod(volumes=[{"name": "v", "hostPath": {"path": "/a", "type": "Socket"}}]) == []


def test_how_mounts_travel() -> None:
    bidirectional = "Bidirectional mount propagation is available only to privileged containers"
    below = "may only be specified when mountPropagation is None or not specified"
    assert mount(mountPropagation="Bidirectional", recursiveReadOnly="Enabled") == [
        f"{MOUNTS}.mountPropagation: Forbidden: {bidirectional}",
        f"{MOUNTS}.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        f"{MOUNTS}.recursiveReadOnly: Forbidden: {below}",
    ]
    known = '"Bidirectional", "HostToContainer", "None"'
    assert mount(mountPropagation="Sideways") == [
        f'{MOUNTS}.mountPropagation: Unsupported value: "Sideways": supported values: {known}',
    ]
    assert mount(readOnly=True, recursiveReadOnly="IfPossible", mountPropagation="None") == []

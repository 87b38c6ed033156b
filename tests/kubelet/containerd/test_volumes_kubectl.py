"""Claims and volumes from kubectl's side: from a manifest to a file on a disk, with RBAC and containerd."""

import json
from collections.abc import Iterator

import pytest

from tests.kit.containerd import Containerd
from tests.kit.controlplane import ControlPlane, until
from tests.kit.images import BUSYBOX

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with (
        Containerd() as containerd,
        ControlPlane(tmp_path_factory.mktemp("plane"), containerd=containerd) as plane,
    ):
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        yield plane


def manifest(plane: ControlPlane, disks: int) -> str:
    """A class whose claims wait, local volumes of it, a claim, a pod of it with an ephemeral volume beside."""
    assert plane.containerd is not None
    node = plane.state.machines[0].name
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    items: list[object] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "disks", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    ]
    for index in range(disks):
        place = plane.containerd.folder / f"disk{index}"
        place.mkdir()
        items.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"disk{index}"},
                "spec": {
                    "capacity": {"storage": f"{index + 1}Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "disks",
                    "local": {"path": str(place)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
                },
            }
        )
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    items.append(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim},
    )
    items.append(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "db"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "c",
                        "image": BUSYBOX,
                        "command": ["sh", "-c", "echo kept > /data/file; echo > /scratch/file; exec sleep 1000"],
                        "volumeMounts": [
                            {"name": "data", "mountPath": "/data"},
                            {"name": "scratch", "mountPath": "/scratch"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}},
                ],
            },
        }
    )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def phases(plane: ControlPlane, kind: str) -> dict[str, str]:
    return {one["metadata"]["name"]: one["status"]["phase"] for one in plane.objects(kind)}


def test_from_a_claim_to_a_file_and_back(plane: ControlPlane) -> None:
    assert plane.containerd is not None
    file = plane.folder / "db.json"
    file.write_text(manifest(plane, 2))
    plane.kubectl("apply", "-f", str(file))
    plane.kubectl("wait", "--for=condition=Ready", "pod/db", "--timeout=60s")
    assert phases(plane, "pvc") == {"data": "Bound", "db-scratch": "Bound"}
    assert phases(plane, "pv") == {"disk0": "Bound", "disk1": "Bound"}
    (data,) = [one for one in plane.objects("pvc") if one["metadata"]["name"] == "data"]
    disk = plane.containerd.folder / data["spec"]["volumeName"]
    until("the pod wrote", (disk / "file").exists)

    # A claim in use stays; with its pod it goes, and so does the pod's own.
    plane.kubectl("delete", "pvc", "data", "--wait=false")
    assert "Terminating" in plane.kubectl("get", "pvc", "data")
    plane.kubectl("delete", "pod", "db")
    until("the claims are gone", lambda: not plane.objects("pvc"))
    until("the volumes are released", lambda: set(phases(plane, "pv").values()) == {"Released"})
    assert (disk / "file").read_text() == "kept\n"

"""Binding, protecting and making claims on the model cluster: phases, events, and crashes between any two writes."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import volumes
from raykube.controllers.core import kinds
from raykube.controllers.core.ephemeral_volumes import EphemeralVolumes
from raykube.controllers.core.volume_binder import VolumeBinder
from raykube.controllers.core.volume_protection import ClaimProtection, VolumeProtection
from tests.controllers.model import Cluster, Crash, Running

Object = dict[str, Any]
CLAIMS, VOLUMES, CLASSES = kinds.PERSISTENT_VOLUME_CLAIMS, kinds.PERSISTENT_VOLUMES, kinds.STORAGE_CLASSES


def volume(name: str, size: str = "10Gi", **spec: Any) -> Object:
    labels = spec.pop("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": f"/mnt/{name}"},
            "storageClassName": "disks",
        }
        | spec,
        "status": {"phase": "Pending"},
    }


def claim(name: str, size: str = "5Gi", **spec: Any) -> Object:
    wanted = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
        "storageClassName": "disks",
    } | spec
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {key: value for key, value in wanted.items() if value is not None},
        "status": {"phase": "Pending"},
    }


def storage_class(name: str = "disks", mode: str = "Immediate", default: bool = False, **fields: Any) -> Object:
    marks = {"annotations": {volumes.DEFAULT_CLASS: "true"}} if default else {}
    return {
        "metadata": {"name": name, **marks},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": mode,
    } | fields


def phases(cluster: Cluster) -> dict[str, str]:
    return {one["metadata"]["name"]: volumes.phase(one) for kind in (CLAIMS, VOLUMES) for one in cluster.all(kind)}


def has(cluster: Cluster, name: str) -> str:
    """The volume of a claim."""
    found = cluster.get(CLAIMS, "default", name)
    assert found is not None
    return str(found["spec"].get("volumeName", ""))


def reasons(cluster: Cluster) -> list[str]:
    return [f"{event.reason}: {event.message}" for event in cluster.events]


def test_a_claim_gets_the_smallest_volume_that_fits() -> None:
    cluster = Cluster()
    for one in (volume("small", "1Gi"), volume("large", "100Gi"), volume("right", "6Gi")):
        cluster.add(VOLUMES, one)
    cluster.add(VOLUMES, volume("other-class", "5Gi", storageClassName="tapes"))
    cluster.add(VOLUMES, volume("other-mode", "5Gi", volumeMode="Block"))
    cluster.add(VOLUMES, volume("shared", "5Gi", accessModes=["ReadWriteOnce", "ReadOnlyMany"]))
    cluster.add(CLASSES, storage_class())
    cluster.add(CLAIMS, claim("c"))
    cluster.settle(VolumeBinder())
    assert has(cluster, "c") == "right"
    bound = cluster.get(CLAIMS, "default", "c")
    assert bound is not None
    assert bound["status"] == {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "6Gi"}}
    assert bound["metadata"]["annotations"] == {volumes.BIND_COMPLETED: "yes", volumes.BOUND_BY_CONTROLLER: "yes"}
    found = cluster.get(VOLUMES, "", "right")
    assert found is not None
    assert found["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]
    assert found["metadata"]["annotations"] == {volumes.BOUND_BY_CONTROLLER: "yes"}
    assert phases(cluster) == {"c": "Bound", "right": "Bound"} | dict.fromkeys(
        ("small", "large", "other-class", "other-mode", "shared"), "Available"
    )


def test_selectors_and_access_modes() -> None:
    cluster = Cluster()
    cluster.add(VOLUMES, volume("plain"))
    cluster.add(VOLUMES, volume("fast", labels={"speed": "fast"}))
    cluster.add(VOLUMES, volume("many", accessModes=["ReadWriteMany"]))
    cluster.add(CLAIMS, claim("a", selector={"matchLabels": {"speed": "fast"}}))
    cluster.add(CLAIMS, claim("b", accessModes=["ReadWriteMany"]))
    cluster.settle(VolumeBinder())
    assert (has(cluster, "a"), has(cluster, "b")) == ("fast", "many")


def test_a_claim_waits_for_a_volume_of_its_class() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("c", storageClassName=""))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    text = "FailedBinding: no persistent volumes available for this claim and no storage class is set"
    assert text in reasons(cluster)
    cluster.add(VOLUMES, volume("v", storageClassName=""))
    running.run()
    assert phases(cluster) == {"c": "Bound", "v": "Bound"}


def test_each_of_many_claims_gets_a_volume_of_its_own() -> None:
    cluster = Cluster()
    for index in range(20):
        cluster.add(VOLUMES, volume(f"v{index}"))
        cluster.add(CLAIMS, claim(f"c{index}"))
    binder = VolumeBinder()
    # All decisions are made before any of their writes is seen, as in one round of the shell.
    for one in cluster.all(VOLUMES):
        cluster.carry_out(binder.reconcile(cluster, one["metadata"]["name"], cluster.now))
    plans = [binder.reconcile(cluster, f"default/c{index}", cluster.now) for index in range(20)]
    assert len({write.name for plan in plans for write in plan.writes}) == 20
    cluster.settle(VolumeBinder())
    assert set(phases(cluster).values()) == {"Bound"}


def test_a_volume_on_its_way_to_a_claim_that_goes_is_for_others() -> None:
    cluster = Cluster()
    cluster.add(VOLUMES, volume("v"))
    cluster.add(CLASSES, storage_class())
    binder = VolumeBinder()
    running = Running(cluster, [binder])
    running.start()
    running.run()
    first = cluster.add(CLAIMS, claim("first"))
    binder.reconcile(cluster, "default/first", cluster.now)  # its write is lost
    cluster.add(CLAIMS, claim("second"))
    assert not binder.reconcile(cluster, "default/second", cluster.now).writes
    cluster.changes.clear()
    cluster.vanish(CLAIMS, first)
    running.run()
    assert has(cluster, "second") == "v"


def test_a_claim_that_names_its_volume() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("c", volumeName="v"))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    assert phases(cluster) == {"c": "Pending"}
    cluster.add(VOLUMES, volume("v", "1Gi"))
    running.run()
    assert phases(cluster) == {"c": "Pending", "v": "Available"}
    assert 'VolumeMismatch: Cannot bind to requested volume "v": requested PV is too small' in reasons(cluster)
    cluster.change(VOLUMES, "v", lambda v: v["spec"].update(capacity={"storage": "9Gi"}))
    running.run()
    assert phases(cluster) == {"c": "Bound", "v": "Bound"}
    cluster.add(CLAIMS, claim("late", volumeName="v"))
    running.run()
    assert phases(cluster)["late"] == "Pending"
    assert 'FailedBinding: volume "v" already bound to a different claim.' in reasons(cluster)


def test_a_volume_that_names_its_claim() -> None:
    cluster = Cluster()
    reserved = volume("reserved", "50Gi", claimRef={"namespace": "default", "name": "c"})
    cluster.add(VOLUMES, reserved)
    cluster.add(VOLUMES, volume("better", "5Gi"))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    cluster.add(CLAIMS, claim("other"))
    cluster.add(CLAIMS, claim("c"))
    running.run()
    assert (has(cluster, "c"), has(cluster, "other")) == ("reserved", "better")
    found = cluster.get(VOLUMES, "", "reserved")
    assert found is not None
    assert volumes.BOUND_BY_CONTROLLER not in volumes.annotations(found)


def test_waiting_for_the_first_consumer() -> None:
    cluster = Cluster()
    cluster.add(CLASSES, storage_class(mode="WaitForFirstConsumer"))
    cluster.add(VOLUMES, volume("v"))
    cluster.add(CLAIMS, claim("c"))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    assert phases(cluster) == {"c": "Pending", "v": "Available"}
    assert set(reasons(cluster)) == {"WaitForFirstConsumer: waiting for first consumer to be created before binding"}
    pod = {"metadata": {"name": "p"}, "spec": {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}}
    cluster.add(kinds.PODS, pod)
    running.run()
    assert reasons(cluster)[-1] == "WaitForPodScheduled: waiting for pod p to be scheduled"
    # What the scheduler does.
    found = cluster.get(CLAIMS, "default", "c")
    assert found is not None
    reference = {"namespace": "default", "name": "c", "uid": found["metadata"]["uid"]}
    cluster.change(VOLUMES, "v", lambda v: v["spec"].update(claimRef=reference))
    running.run()
    assert phases(cluster) == {"c": "Bound", "v": "Bound"}


EXTERNAL = (
    "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'example.com/nfs' or "
    "manually by the system administrator. If volume creation is delayed, please verify that the provisioner is "
    "running and correctly registered."
)
UNDELETABLE = 'error getting deleter volume plugin for volume "v": no deletable volume plugin matched'


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (None, 'ProvisioningFailed: storageclass.storage.k8s.io "disks" not found'),
        (storage_class(), "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"),
        (
            storage_class(provisioner="example.com/nfs"),
            EXTERNAL,
        ),
    ],
)
def test_who_could_make_a_volume(storage: Object | None, expected: str) -> None:
    cluster = Cluster()
    if storage is not None:
        cluster.add(CLASSES, storage)
    cluster.add(CLAIMS, claim("c"))
    cluster.settle(VolumeBinder())
    assert expected in reasons(cluster)
    if storage is not None and storage["provisioner"] == "example.com/nfs":
        found = cluster.get(CLAIMS, "default", "c")
        assert found is not None
        assert volumes.annotations(found)[volumes.PROVISIONER] == "example.com/nfs"


def test_a_default_class_that_comes_later() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("c", storageClassName=None))
    cluster.add(VOLUMES, volume("v"))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    assert phases(cluster)["c"] == "Pending"
    cluster.add(CLASSES, storage_class(default=True))
    running.run()
    assert has(cluster, "c") == "v"


@pytest.mark.parametrize(
    ("policy", "phase", "event"),
    [
        ("Retain", "Released", ""),
        (
            "Delete",
            "Failed",
            f"VolumeFailedDelete: {UNDELETABLE}",
        ),
        ("Recycle", "Failed", "VolumeFailedRecycle: No recycler plugin found for the volume!"),
    ],
)
def test_a_volume_whose_claim_went(policy: str, phase: str, event: str) -> None:
    cluster = Cluster()
    cluster.add(VOLUMES, volume("v", persistentVolumeReclaimPolicy=policy))
    cluster.add(CLAIMS, claim("c"))
    cluster.settle(VolumeBinder())
    cluster.remove(CLAIMS, "c")
    cluster.add(CLAIMS, claim("c"))  # another one of its name
    cluster.settle(VolumeBinder())
    assert phases(cluster) == {"v": phase, "c": "Pending"}
    assert not event or event in reasons(cluster)
    # An administrator makes it free again.
    cluster.change(VOLUMES, "v", lambda v: v["spec"].pop("claimRef"))
    cluster.settle(VolumeBinder())
    assert phases(cluster) == {"v": "Bound", "c": "Bound"}


def test_a_provisioned_volume_is_left_to_whoever_made_it() -> None:
    cluster = Cluster()
    made = volume("v", persistentVolumeReclaimPolicy="Delete")
    made["metadata"]["annotations"] = {volumes.PROVISIONED_BY: "example.com/nfs"}
    cluster.add(VOLUMES, made)
    cluster.add(CLAIMS, claim("c"))
    cluster.settle(VolumeBinder())
    cluster.remove(CLAIMS, "c")
    cluster.settle(VolumeBinder())
    assert phases(cluster) == {"v": "Released"}


def test_a_claim_that_lost_its_volume() -> None:
    cluster = Cluster()
    found = cluster.add(VOLUMES, volume("v"))
    cluster.add(CLAIMS, claim("c"))
    running = Running(cluster, [VolumeBinder()])
    running.start()
    running.run()
    found = cluster.get(VOLUMES, "", "v")  # type: ignore[assignment]  # it is there
    cluster.vanish(VOLUMES, found)
    running.run()
    assert phases(cluster) == {"c": "Lost"}
    lost = "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"
    assert reasons(cluster) == [lost]


def test_two_claims_of_one_volume() -> None:
    cluster = Cluster()
    cluster.add(VOLUMES, volume("v"))
    cluster.add(CLAIMS, claim("c"))
    cluster.settle(VolumeBinder())
    wrong = claim("wrong", volumeName="v")
    wrong["metadata"]["annotations"] = {volumes.BIND_COMPLETED: "yes"}
    cluster.add(CLAIMS, wrong)
    cluster.settle(VolumeBinder())
    assert phases(cluster) == {"v": "Bound", "c": "Bound", "wrong": "Lost"}
    misbound = "ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"
    assert misbound in reasons(cluster)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_crashes_between_any_two_writes_lose_and_double_nothing(
    crashes: list[int], sizes: list[int], data: st.DataObject
) -> None:
    cluster = Cluster()
    cluster.add(CLASSES, storage_class())
    for index, size in enumerate(sizes):
        cluster.add(VOLUMES, volume(f"v{index}", f"{size}Gi"))
        wanted = data.draw(st.integers(1, 9))
        cluster.add(CLAIMS, claim(f"c{index}", f"{wanted}Gi"))
    controllers = (VolumeBinder, ClaimProtection, VolumeProtection)
    for writes in crashes:
        cluster.writes_left = writes
        with contextlib.suppress(Crash):
            cluster.settle(*(make() for make in controllers))
    cluster.writes_left = -1
    cluster.settle(*(make() for make in controllers))
    owners: dict[str, str] = {}
    for one in cluster.all(CLAIMS):
        name = one["metadata"]["name"]
        if volumes.phase(one) == "Bound":
            assert owners.setdefault(has(cluster, name), name) == name
            found = cluster.get(VOLUMES, "", has(cluster, name))
            assert found is not None
            assert volumes.phase(found) == "Bound"
            assert found["spec"]["claimRef"]["uid"] == one["metadata"]["uid"]
    free = [one for one in cluster.all(VOLUMES) if volumes.is_free(one)]
    waiting = [one for one in cluster.all(CLAIMS) if volumes.phase(one) == "Pending"]
    assert len(free) == len(waiting)
    assert not any(volumes.may_serve(one, wanting) for one in free for wanting in waiting)


def pod(name: str = "p", node: str = "", **volume_source: Any) -> Object:
    source = volume_source or {"persistentVolumeClaim": {"claimName": "c"}}
    spec: Object = {"volumes": [{"name": "d"} | source]}
    return {"metadata": {"name": name}, "spec": spec | ({"nodeName": node} if node else {})}


def test_a_claim_in_use_stays_until_its_pod_is_gone() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("c"))
    user = cluster.add(kinds.PODS, pod(node="n"))
    running = Running(cluster, [ClaimProtection()])
    running.start()
    running.run()
    cluster.remove(CLAIMS, "c")
    running.run()
    found = cluster.get(CLAIMS, "default", "c")
    assert found is not None
    assert found["metadata"]["finalizers"] == [volumes.CLAIM_FINALIZER]
    cluster.vanish(kinds.PODS, user)
    running.run()
    assert cluster.get(CLAIMS, "default", "c") is None


def test_a_claim_that_only_an_unscheduled_pod_names_goes() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("c"))
    cluster.add(kinds.PODS, pod())
    cluster.settle(ClaimProtection())
    cluster.remove(CLAIMS, "c")
    cluster.settle(ClaimProtection())
    assert cluster.get(CLAIMS, "default", "c") is None


def test_a_bound_volume_stays_until_its_claim_is_gone() -> None:
    cluster = Cluster()
    cluster.add(VOLUMES, volume("v"))
    cluster.add(CLAIMS, claim("c"))
    controllers = VolumeBinder(), VolumeProtection()
    cluster.settle(*controllers)
    cluster.remove(VOLUMES, "v")
    cluster.settle(*controllers)
    assert phases(cluster) == {"v": "Bound", "c": "Bound"}
    cluster.remove(CLAIMS, "c")
    cluster.settle(*controllers)
    assert phases(cluster) == {}


def test_ephemeral_claims_come_with_their_pods() -> None:
    cluster = Cluster()
    template = {"metadata": {"labels": {"a": "b"}}, "spec": claim("")["spec"]}
    user = cluster.add(kinds.PODS, pod(ephemeral={"volumeClaimTemplate": template}))
    running = Running(cluster, [EphemeralVolumes()])
    running.start()
    running.run()
    found = cluster.get(CLAIMS, "default", "p-d")
    assert found is not None
    assert found["metadata"]["labels"] == {"a": "b"}
    assert found["metadata"]["ownerReferences"][0]["uid"] == user["metadata"]["uid"]
    cluster.vanish(CLAIMS, found)
    running.run()
    assert cluster.get(CLAIMS, "default", "p-d") is not None


def test_a_claim_of_somebody_else_is_not_taken() -> None:
    cluster = Cluster()
    cluster.add(CLAIMS, claim("p-d"))
    cluster.add(kinds.PODS, pod(ephemeral={"volumeClaimTemplate": {"spec": claim("")["spec"]}}))
    cluster.settle(EphemeralVolumes())
    text = "FailedBinding: ephemeral volume d: PVC default/p-d was not created for pod default/p (pod is not owner)"
    assert reasons(cluster) == [text]

"""Pods with claims: where their volumes let them run, which ones they get, and what is said when there is none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import volumes
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.scheduler.objects import Object, node, pod

HELPLESS = (
    "no new claims to deallocate, preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling."
)


class Storage:
    """A cluster with a class whose claims wait, and shorthands that speak for the API."""

    def __init__(self, *nodes: str, provisioner: str = "kubernetes.io/no-provisioner", **storage: Any) -> None:
        self.cluster = Cluster()
        self.revision = 0
        for name in nodes:
            self.cluster.on_node(node(name))
        waits = {"provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}
        self.cluster.volumes.set_class("local", {"metadata": {"name": "local"}} | waits | storage)

    def volume(self, name: str, node_name: str = "", size: str = "10Gi", **spec: Any) -> Object:
        self.revision += 1
        made: Object = {
            "metadata": {"name": name, "uid": f"pv-{name}", "resourceVersion": str(self.revision)},
            "spec": {"storageClassName": "local", "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}
            | spec,
            "status": {"phase": "Available"},
        }
        if node_name:
            term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name]}]}
            made["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
        self.cluster.volumes.set_volume(name, made)
        return made

    def claim(self, name: str, size: str = "5Gi", bound: str = "", phase: str = "", **spec: Any) -> Object:
        self.revision += 1
        made: Object = {
            "metadata": {"name": name, "namespace": "d", "uid": f"pvc-{name}", "resourceVersion": str(self.revision)},
            "spec": {
                "storageClassName": "local",
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
            }
            | spec,
            "status": {"phase": phase or ("Bound" if bound else "Pending")},
        }
        if bound:
            made["metadata"]["annotations"] = {volumes.BIND_COMPLETED: "yes"}
            made["spec"]["volumeName"] = bound
        self.cluster.volumes.set_claim(("d", name), made)
        return made

    def schedule(self, name: str, *claims: str, **more: Any) -> Placement | Diagnosis:
        return self.cluster.schedule(self.cluster.read_pod(user(name, *claims, **more)))

    def place(self, name: str, *claims: str, **more: Any) -> tuple[str, list[str]]:
        """The node, and the volumes that were chosen."""
        found = self.schedule(name, *claims, **more)
        assert isinstance(found, Placement), found
        return found.node, [one.volume["metadata"]["name"] if one.volume else "" for one in found.reservations]

    def message(self, name: str, *claims: str, **more: Any) -> str:
        found = self.schedule(name, *claims, **more)
        assert isinstance(found, Diagnosis), found
        return found.message


def user(name: str, *claims: str, **more: Any) -> Object:
    given_volumes = [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in claims]
    return pod(name, volumes=given_volumes, **more)


def test_a_bound_claim_keeps_its_pod_where_the_volume_is() -> None:
    storage = Storage("a", "b", "c")
    storage.volume("v", "b", claimRef={"namespace": "d", "name": "data", "uid": "pvc-data"})
    storage.claim("data", bound="v")
    assert storage.place("p", "data") == ("b", [])
    storage.cluster.on_node(node("b", unschedulable=True))
    assert storage.message("q", "data") == (
        "0/3 nodes are available: 1 node(s) were unschedulable, "
        "2 node(s) didn't match PersistentVolume's node affinity. " + HELPLESS.format(3)
    )


def test_the_first_consumer_gets_a_volume_and_with_it_a_node() -> None:
    storage = Storage("a", "b", "c")
    storage.volume("large", "b", "100Gi")
    storage.volume("right", "c", "6Gi")
    storage.volume("small", "a", "1Gi")
    for name in ("one", "two", "three"):
        storage.claim(name)
    first = storage.place("p", "one")
    second = storage.place("q", "two")
    assert {first[0]: first[1], second[0]: second[1]} == {"b": ["large"], "c": ["right"]}
    assert storage.message("r", "three") == (
        "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind. " + HELPLESS.format(3)
    )
    # A binding that failed gives its volume back.
    assert storage.cluster.forget("uid-p")
    assert storage.place("r", "three") == first


def test_of_the_volumes_on_a_node_the_smallest_is_taken() -> None:
    storage = Storage("a")
    storage.volume("large", "a", "100Gi")
    storage.volume("right", "a", "6Gi")
    storage.claim("data")
    assert storage.place("p", "data") == ("a", ["right"])


def test_several_claims_need_several_volumes() -> None:
    storage = Storage("a", "b")
    storage.volume("a1", "a")
    storage.volume("b1", "b", "6Gi")
    storage.volume("b2", "b", "20Gi")
    storage.claim("x", "15Gi")
    storage.claim("y", "5Gi")
    assert storage.place("p", "x", "y") == ("b", ["b1", "b2"])
    storage.claim("z")
    storage.claim("w")
    assert storage.message("q", "z", "w").startswith("0/2 nodes are available: 2 node(s) didn't find available")


def test_a_claim_that_pods_share_is_reserved_once() -> None:
    storage = Storage("a", "b")
    storage.volume("v", "b")
    storage.claim("data")
    found = [storage.schedule(name, "data") for name in ("p", "q")]
    assert [one.node for one in found if isinstance(one, Placement)] == ["b", "b"]
    assert [one.reservations[0].assumed for one in found if isinstance(one, Placement)] == [False, True]
    storage.cluster.forget("uid-p")
    storage.claim("other")
    assert "didn't find available" in storage.message("r", "other")  # the second still counts on it


def test_what_was_reserved_before_is_found_again() -> None:
    storage = Storage("a", "b")
    storage.volume("better", "a", "5Gi")
    storage.volume("mine", "b", "50Gi", claimRef={"namespace": "d", "name": "data", "uid": "pvc-data"})
    storage.claim("data")
    assert storage.place("p", "data") == ("b", ["mine"])


def test_claims_that_keep_a_pod_from_everywhere() -> None:
    storage = Storage("a", "b")
    assert storage.message("p", "absent") == (
        '0/2 nodes are available: persistentvolumeclaim "absent" not found. ' + HELPLESS.format(2)
    )
    storage.claim("now", storageClassName="other")
    assert storage.message("p", "now") == (
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. " + HELPLESS.format(2)
    )
    storage.claim("lost", bound="gone", phase="Lost")
    text = 'persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone"'
    assert text in storage.message("p", "lost")
    going = storage.claim("going", bound="v")
    going["metadata"]["deletionTimestamp"] = "now"
    assert 'persistentvolumeclaim "going" is being deleted' in storage.message("p", "going")
    storage.claim("dangling", bound="gone")
    text = "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
    assert text in storage.message("p", "dangling")


def test_ephemeral_claims() -> None:
    storage = Storage("a")
    storage.volume("v", "a")
    spec: Object = {"volumes": [{"name": "e", "ephemeral": {}}]}
    waiting = 'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-e"'
    found = storage.cluster.schedule(storage.cluster.read_pod(pod("p", **spec)))
    assert isinstance(found, Diagnosis)
    assert waiting in found.message
    made = storage.claim("p-e")
    found = storage.cluster.schedule(storage.cluster.read_pod(pod("p", **spec)))
    assert isinstance(found, Diagnosis)
    assert "was not created for the pod" in found.message
    made["metadata"]["ownerReferences"] = [{"uid": "uid-p", "controller": True}]
    assert isinstance(storage.cluster.schedule(storage.cluster.read_pod(pod("p", **spec))), Placement)


def test_only_one_pod_may_have_it() -> None:
    storage = Storage("a", "b")
    storage.volume("v", claimRef={"namespace": "d", "name": "data"})
    storage.claim("data", bound="v", accessModes=["ReadWriteOncePod"])
    storage.place("p", "data")
    text = "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
    assert text in storage.message("q", "data")
    storage.cluster.on_pod_gone("uid-p")
    storage.place("q", "data")


def test_somebody_can_make_a_volume() -> None:
    topology = [{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["b"]}]}]
    storage = Storage("a", "b", "c", provisioner="example.com/disks", allowedTopologies=topology)
    claim = storage.claim("data")
    assert storage.place("p", "data") == ("b", [""])
    claim["metadata"]["annotations"] = {volumes.SELECTED_NODE: "c"}
    assert storage.place("q", "data") == ("c", [""])


def test_when_claims_are_bound() -> None:
    storage = Storage("a")
    storage.volume("v", "a")
    storage.claim("data")
    found = storage.schedule("p", "data")
    assert isinstance(found, Placement)
    table = storage.cluster.volumes
    assert table.bound(found.reservations) is None
    storage.claim("data", bound="v")
    assert table.bound(found.reservations) is True
    storage.claim("data", bound="another")
    assert table.bound(found.reservations) is False
    table.set_claim(("d", "data"), None)
    assert table.bound(found.reservations) is False


PLACES = ("a", "b", "c")


@given(
    st.lists(st.tuples(st.sampled_from([*PLACES, ""]), st.integers(1, 9)), max_size=8),
    st.lists(st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans()), max_size=6),
)
def test_no_volume_is_given_twice_and_none_is_overlooked(
    disks: list[tuple[str, int]], pods: list[tuple[list[int], bool]]
) -> None:
    storage = Storage(*PLACES)
    made = {f"v{n}": (place, size) for n, (place, size) in enumerate(disks)}
    for name, (place, size) in made.items():
        storage.volume(name, place, f"{size}Gi")
    taken: dict[str, str] = {}
    for number, (sizes, fails) in enumerate(pods):
        claims = [f"c{number}-{index}" for index in range(len(sizes))]
        for name, size in zip(claims, sizes, strict=True):
            storage.claim(name, f"{size}Gi")
        found = storage.schedule(f"p{number}", *claims)
        free = {name: disk for name, disk in made.items() if name not in taken}
        if isinstance(found, Placement):
            assert len(found.reservations) == len(sizes)
            for claim, volume, place, _ in found.reservations:
                assert volume is not None
                name = volume["metadata"]["name"]
                assert name not in taken
                assert free[name][0] in ("", place)
                assert volumes.size_of(volume) >= volumes.size_wanted(claim)
                taken[name] = f"p{number}"
            if fails:
                storage.cluster.forget(f"uid-p{number}")
                taken = {name: owner for name, owner in taken.items() if owner != f"p{number}"}
        else:
            for place in PLACES:
                # The largest claims are the hardest: give each the largest disk.
                here = sorted((size for where, size in free.values() if where in ("", place)), reverse=True)
                fits = len(here) >= len(sizes) and all(
                    has >= wants for has, wants in zip(here, sorted(sizes, reverse=True), strict=False)
                )
                assert not fits, (place, here, sizes)


def test_messages_for_pods_that_never_preempt() -> None:
    storage = Storage("a")
    assert storage.message("p", "absent", preemptionPolicy="Never") == (
        '0/1 nodes are available: persistentvolumeclaim "absent" not found. '
        "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
    )


@pytest.mark.parametrize("change", ["volume", "claim"])
def test_only_what_matters_wakes_pods(change: str) -> None:
    storage = Storage("a")
    table = storage.cluster.volumes
    volume, claim = storage.volume("v", "a"), storage.claim("data")
    if change == "volume":
        assert not table.set_volume("v", volume | {"metadata": volume["metadata"] | {"resourceVersion": "99"}})
        assert table.set_volume("v", volume | {"status": {"phase": "Bound"}})
    else:
        assert not table.set_claim(("d", "data"), claim | {"metadata": claim["metadata"] | {"resourceVersion": "99"}})
        assert table.set_claim(("d", "data"), claim | {"status": {"phase": "Bound"}})


def test_a_volume_with_a_zone_is_used_there() -> None:
    storage = Storage()
    zone = "topology.kubernetes.io/zone"
    for name, labels in {"a": {zone: "1"}, "b": {zone: "2"}, "c": {zone: "3"}}.items():
        storage.cluster.on_node(node(name, labels=labels))
    volume = storage.volume("v", claimRef={"namespace": "d", "name": "data", "uid": "pvc-data"})
    volume["metadata"]["labels"] = {zone: "2__3"}
    storage.cluster.volumes.set_volume("v", volume)
    storage.claim("data", bound="v")
    assert storage.place("p", "data")[0] in "bc"
    for name in "bc":
        storage.cluster.on_node(node(name, unschedulable=True, labels={zone: "2"}))
    assert storage.message("q", "data") == (
        "0/3 nodes are available: 1 node(s) had no available volume zone, 2 node(s) were unschedulable. "
        + HELPLESS.format(3)
    )
    # A node that says nothing of where it is takes every volume; one with the old label is known by it.
    storage.cluster.on_node(node("d"))
    assert storage.place("r", "data")[0] == "d"
    volume["metadata"]["labels"] = {"failure-domain.beta.kubernetes.io/zone": "1"}
    storage.cluster.volumes.set_volume("v", volume | {"metadata": dict(volume["metadata"])})
    storage.cluster.on_node_gone("d")
    assert storage.place("s", "data")[0] == "a"


def test_a_driver_attaches_so_many_volumes_to_a_node() -> None:
    storage = Storage("a", "b")
    limit = {"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "csi.example.com", "allocatable": {"count": 2}}]}}
    storage.cluster.volumes.attachments.set_csi_node("a", limit)
    for number in range(4):
        name = f"v{number}"
        csi = {"driver": "csi.example.com", "volumeHandle": name}
        storage.volume(name, claimRef={"namespace": "d", "name": name, "uid": f"pvc-{name}"}, csi=csi)
        storage.claim(name, bound=name)
    storage.cluster.on_node(node("b", unschedulable=True))
    assert storage.place("p", "v0", "v1") == ("a", [])
    assert storage.message("q", "v2") == (
        "0/2 nodes are available: 1 node(s) exceed max volume count, 1 node(s) were unschedulable. "
        "no new claims to deallocate, preemption: 0/2 nodes are available: "
        "1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling."
    )
    assert storage.place("r", "v1") == ("a", [])  # it is there already
    storage.cluster.on_pod_gone("uid-p")
    assert storage.place("s", "v2") == ("a", [])
    assert storage.cluster.volumes.attachments.set_csi_node("a", None)
    assert storage.place("t", "v0", "v3") == ("a", [])


def test_what_is_attached_is_looked_up_only_near_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage("a")
    for number in range(4):
        name = f"v{number}"
        csi = {"driver": "csi.example.com", "volumeHandle": name}
        storage.volume(name, claimRef={"namespace": "d", "name": name, "uid": f"pvc-{name}"}, csi=csi)
        storage.claim(name, bound=name)
    driver = {"name": "csi.example.com", "allocatable": {"count": 3}}
    storage.cluster.volumes.attachments.set_csi_node("a", {"metadata": {"name": "a"}, "spec": {"drivers": [driver]}})
    assert storage.place("p", "v0", "v1") == ("a", [])
    asked: set[tuple[str, str]] = set()
    real = storage.cluster.volumes.driver_volume

    def driver_volume(key: tuple[str, str]) -> tuple[str, str]:
        asked.add(key)
        return real(key)

    monkeypatch.setattr(storage.cluster.volumes, "driver_volume", driver_volume)
    assert storage.place("q", "v2") == ("a", [])
    assert asked == {("d", "v2")}
    assert storage.place("r", "v1") == ("a", [])  # as many claims as there may be volumes, one of them the same
    assert asked == {("d", f"v{number}") for number in range(3)}
    assert storage.message("s", "v3").startswith("0/1 nodes are available: 1 node(s) exceed max volume count. ")


def capacity(storage: Storage, name: str, zone: str = "", **told: Any) -> bool:
    topology: Object = {"matchLabels": {"zone": zone}} if zone else {}
    made = {"metadata": {"name": name, "namespace": "csi"}, "storageClassName": "local", "nodeTopology": topology}
    return storage.cluster.volumes.capacities.set_capacity(("csi", name), made | told)


def test_volumes_are_made_where_their_driver_has_room_for_them() -> None:
    storage = Storage(provisioner="csi.example.com")
    for name, zone in (("a", "1"), ("b", "2"), ("c", "3")):
        storage.cluster.on_node(node(name, labels={"zone": zone}))
    storage.claim("data", size="5Gi")
    capacity(storage, "one", "1", capacity="4Gi")
    capacity(storage, "two", "2", capacity="100Gi", maximumVolumeSize="3Gi")
    assert storage.place("before", "data") == ("a", [""]), "drivers that do not opt in are asked nothing"
    storage.cluster.forget("uid-before")
    driver = {"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": True}}
    assert storage.cluster.volumes.capacities.set_driver("csi.example.com", driver)
    assert storage.message("p", "data") == (
        "0/3 nodes are available: 3 node(s) did not have enough free storage. " + HELPLESS.format(3)
    )
    assert capacity(storage, "two", "2", capacity="100Gi", maximumVolumeSize="5Gi")
    assert storage.place("p", "data") == ("b", [""])
    storage.cluster.forget("uid-p")
    storage.cluster.volumes.capacities.set_capacity(("csi", "two"), None)
    assert not capacity(storage, "one", "1", capacity="4Gi"), "nothing new"
    assert "enough free storage" in storage.message("p", "data")
    assert capacity(storage, "one", storageClassName="other", capacity="100Gi")
    assert "enough free storage" in storage.message("p", "data")
    assert capacity(storage, "one", capacity="100Gi")
    assert storage.place("p", "data")[1] == [""]


def test_a_volume_that_is_there_needs_no_room_of_the_driver() -> None:
    storage = Storage("a", "b", provisioner="csi.example.com")
    driver = {"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": True}}
    storage.cluster.volumes.capacities.set_driver("csi.example.com", driver)
    storage.volume("v", "b")
    storage.claim("data")
    storage.claim("more")
    assert storage.place("p", "data") == ("b", ["v"])
    storage.cluster.forget("uid-p")
    assert "2 node(s) did not have enough free storage" in storage.message("q", "data", "more")

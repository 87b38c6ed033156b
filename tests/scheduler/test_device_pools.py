"""What slices offer: pools and their generations, devices that several nodes reach, and counters they share."""

from typing import Any

from raykube.scheduler.core.cluster import Placement
from tests.scheduler.device_cluster import cluster, give, gpus, grants, results, schedule, user, why
from tests.scheduler.device_objects import DRIVER, claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import node

Object = dict[str, Any]
ATTRIBUTES = f'device.attributes["{DRIVER}"]'
ZONE = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]}]}


def test_a_pool_that_is_not_complete_gives_out_nothing() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0"), count=2), device_class())
    give(found, claim("c0", exactly()))
    give(found, claim("c1", exactly("gpu", 0)))
    assert why(schedule(found, user("p0", "c0"))) == "1 cannot allocate all claims"
    updated = f"1 request gpu: asks for all devices, but resource pool {DRIVER}/a is currently being updated"
    assert why(schedule(found, user("p1", "c1"))) == updated
    give(found, resource_slice("t", "a", gpus("g1"), count=2))
    assert results(schedule(found, user("p1", "c1"))) == ["gpu=g0", "gpu=g1"]


def test_of_a_pool_the_newest_generation_counts() -> None:
    found = cluster(
        node("a"),
        resource_slice("s", "a", gpus("old"), generation=1),
        resource_slice("t", "a", gpus("new"), generation=2),
        device_class(),
        claim("c", exactly("gpu", 0)),
    )
    assert results(schedule(found, user("p", "c"))) == ["gpu=new"]


def test_a_pool_with_two_devices_of_one_name_is_not_used() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0", "g0")), device_class(), claim("c", exactly()))
    assert why(schedule(found, user("p", "c"))) == "1 cannot allocate all claims"


def test_a_slice_that_goes_takes_its_devices_along() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class(), claim("c", exactly()))
    assert results(schedule(found, user("p", "c")))
    found.refused("uid-p")
    found.devices.set_slice("s", None)
    assert why(schedule(found, user("p", "c"))) == "1 cannot allocate all claims"


def test_devices_that_several_nodes_reach() -> None:
    found = cluster(
        node("a"),
        node("b", labels={"zone": "1"}),
        resource_slice("s", devices=gpus("n0"), nodeSelector=ZONE, pool="net"),
        device_class(),
        claim("c0", exactly()),
        claim("c1", exactly()),
    )
    placed = schedule(found, user("p0", "c0"))
    assert isinstance(placed, Placement) and placed.node == "b"
    assert (grants(placed)[0].allocation or {})["nodeSelector"] == ZONE
    assert why(schedule(found, user("p1", "c1"))) == "2 cannot allocate all claims"
    give(found, resource_slice("t", devices=gpus("n1"), allNodes=True, pool="all"))
    second = schedule(found, user("p1", "c1"))
    assert results(second) == ["gpu=n1"]
    assert "nodeSelector" not in (grants(second)[0].allocation or {})


def test_a_node_whose_labels_change_reaches_other_devices() -> None:
    found = cluster(
        node("a"),
        resource_slice("s", devices=gpus("n0"), nodeSelector=ZONE, pool="net"),
        device_class(),
        claim("c", exactly()),
    )
    assert why(schedule(found, user("p", "c"))) == "1 cannot allocate all claims"
    give(found, node("a", labels={"zone": "1"}))
    assert results(schedule(found, user("p", "c"))) == ["gpu=n0"]


def test_each_device_may_say_where_it_is() -> None:
    devices = [device("a0") | {"nodeName": "a"}, device("b0") | {"nodeName": "b"}]
    found = cluster(
        node("a"),
        node("b"),
        resource_slice("s", devices=devices, perDeviceNodeSelection=True, pool="p"),
        device_class(),
        claim("c", exactly()),
    )
    assert results(schedule(found, user("p", "c", nodeSelector={"kubernetes.io/hostname": "b"}))) == ["gpu=b0"]


def test_partitions_of_a_device_share_its_counters() -> None:
    counters = [{"name": "g0", "counters": {"memory": {"value": "40Gi"}}}]

    def part(name: str, memory: str) -> Object:
        consumes = [{"counterSet": "g0", "counters": {"memory": {"value": memory}}}]
        return device(name, memory=int(memory.removesuffix("Gi"))) | {"consumesCounters": consumes}

    found = cluster(
        node("a"),
        resource_slice("s", "a", count=2, sharedCounters=counters),
        resource_slice("t", "a", [part("whole", "40Gi"), part("half0", "20Gi"), part("half1", "20Gi")], count=2),
        device_class(),
        claim("c0", exactly("gpu", 1, f"{ATTRIBUTES}.memory == 20")),
        claim("c1", exactly("gpu", 1, f"{ATTRIBUTES}.memory == 40")),
        claim("c2", exactly()),
        claim("c3", exactly()),
    )
    assert results(schedule(found, user("p0", "c0"))) == ["gpu=half0"]
    assert why(schedule(found, user("p1", "c1"))) == "1 cannot allocate all claims"
    assert results(schedule(found, user("p2", "c2"))) == ["gpu=half1"]
    assert why(schedule(found, user("p3", "c3"))) == "1 cannot allocate all claims"


def test_counters_of_a_device_that_does_not_fit_after_all_are_there_for_the_next() -> None:
    counters = [{"name": "g", "counters": {"memory": {"value": "4"}}}]
    consumes = {"consumesCounters": [{"counterSet": "g", "counters": {"memory": {"value": "4"}}}]}
    found = cluster(
        node("a"),
        resource_slice("s", "a", count=2, sharedCounters=counters),
        resource_slice("t", "a", [device("d0") | consumes, device("d1", half=1) | consumes], count=2),
        device_class(),
        claim("c", exactly(), constraints=[{"matchAttribute": f"{DRIVER}/half"}]),
    )
    assert results(schedule(found, user("p", "c"))) == ["gpu=d1"]

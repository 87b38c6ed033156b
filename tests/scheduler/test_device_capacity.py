"""Devices that several claims use, as far as their capacity goes."""

from typing import Any

from raykube.scheduler.core.cluster import Placement
from tests.scheduler.device_cluster import cluster, give, grants, results, schedule, user, why
from tests.scheduler.device_objects import claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import node

Object = dict[str, Any]


def test_amounts_that_make_no_sense_are_no_other_nodes_trouble() -> None:
    shared = device("nic", {"bandwidth": "10G"}) | {"allowMultipleAllocations": True}
    limits = {"min": "1G", "step": "0", "max": "8G"}
    shared["capacity"]["bandwidth"]["requestPolicy"] = {"default": "1G", "validRange": limits}
    sound = device("nic", {"bandwidth": "10G"}) | {"allowMultipleAllocations": True}
    found = cluster(
        node("a"),
        node("b"),
        resource_slice("s", "a", [shared]),
        resource_slice("t", "b", [sound]),
        device_class(),
        claim("c", exactly(capacity={"requests": {"bandwidth": "2G"}})),
    )
    placed = schedule(found, user("p", "c"))
    assert isinstance(placed, Placement) and placed.node == "b"


def test_a_device_that_is_shared_is_used_as_far_as_its_capacity_goes() -> None:
    shared = device("nic", {"bandwidth": "10G"}) | {"allowMultipleAllocations": True}
    shared["capacity"]["bandwidth"]["requestPolicy"] = {
        "default": "1G",
        "validRange": {"min": "1G", "step": "1G", "max": "8G"},
    }
    found = cluster(node("a"), resource_slice("s", "a", [shared]), device_class())

    def wants(name: str, amount: str) -> Object:
        capacity = {"capacity": {"requests": {"bandwidth": amount}}} if amount else {}
        return claim(name, exactly(**capacity))

    for number, amount in enumerate(("4500M", "", "5G", "4G", "9G")):
        give(found, wants(f"c{number}", amount))
    first = schedule(found, user("p0", "c0"))
    (one,) = (grants(first)[0].allocation or {})["devices"]["results"]
    assert one["consumedCapacity"] == {"bandwidth": "5G"} and one["shareID"]
    (other,) = (grants(schedule(found, user("p1", "c1")))[0].allocation or {})["devices"]["results"]
    assert other["consumedCapacity"] == {"bandwidth": "1G"} and other["shareID"] != one["shareID"]
    assert why(schedule(found, user("p2", "c2"))) == "1 cannot allocate all claims"
    assert results(schedule(found, user("p3", "c3"))) == ["gpu=nic"]
    assert why(schedule(found, user("p4", "c4"))) == "1 cannot allocate all claims"

"""Devices as a filter: which claims get them, who waits for what, and what is said."""

from raykube.scheduler.core.cluster import Placement
from raykube.scheduler.core.devices import Grant
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.scheduler.device_cluster import cluster, give, gpus, grants, results, schedule, user, why
from tests.scheduler.device_objects import DRIVER, claim, device_class, exactly, option, resource_slice
from tests.scheduler.objects import node, pod
from tests.scheduler.test_gangs import Room


def test_a_claim_gets_a_device_of_the_node_that_the_pod_is_placed_on() -> None:
    found = cluster(node("a"), node("b"), resource_slice("s", "b", gpus("g0")), device_class(), claim("c", exactly()))
    placed = schedule(found, user("p", "c"))
    (grant,) = grants(placed)
    assert isinstance(placed, Placement) and placed.node == "b"
    assert grant.pod == {"resource": "pods", "name": "p", "uid": "uid-p"}
    assert grant.allocation == {
        "devices": {"results": [{"request": "gpu", "driver": DRIVER, "pool": "b", "device": "g0"}]},
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]
        },
    }


def test_a_device_that_is_taken_is_nobody_elses_until_it_is_given_back() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class())
    for name in ("c0", "c1"):
        give(found, claim(name, exactly()))
    assert results(schedule(found, user("p0", "c0"))) == ["gpu=g0"]
    assert why(schedule(found, user("p1", "c1"))) == "1 cannot allocate all claims"
    assert found.refused("uid-p0")
    assert results(schedule(found, user("p1", "c1"))) == ["gpu=g0"]


def test_what_the_api_says_is_allocated_counts_and_replaces_what_was_assumed() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0", "g1")), device_class())
    for name in ("c0", "c1", "c2"):
        give(found, claim(name, exactly()))
    placed = schedule(found, user("p0", "c0"))
    allocation = grants(placed)[0].allocation
    give(found, claim("c0", exactly(), status={"allocation": allocation}, revision=2))
    found.on_pod(found.read_pod(user("p0", "c0", nodeName="a")))  # bound: nothing is assumed any more
    assert results(schedule(found, user("p1", "c1"))) == ["gpu=g1"]
    # A watch that lags frees nothing.
    give(found, claim("c0", exactly(), revision=1))
    assert why(schedule(found, user("p2", "c2"))) == "1 cannot allocate all claims"
    give(found, claim("c0", exactly(), revision=3))
    assert results(schedule(found, user("p2", "c2"))) == ["gpu=g0"]


def test_what_keeps_a_pod_from_all_nodes() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class())
    template = pod("p", resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "t"}])
    assert why(schedule(found, template)) == 'pod "d/p": ResourceClaim not created yet'
    told = template | {"status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]}}
    assert why(schedule(found, told)) == 'could not find ResourceClaim "d/c"'
    give(found, claim("c", exactly(), owner="somebody"))
    owner = "ResourceClaim d/c was not created for pod d/p (pod is not owner)"
    assert why(schedule(found, told)) == owner
    give(found, claim("c", exactly(device_class="tpu"), owner="uid-p"))
    assert why(schedule(found, told)) == "request gpu: device class tpu does not exist"
    alternatives = {"name": "gpu", "firstAvailable": [{"name": "big"} | option(device_class="big")]}
    give(found, claim("c", alternatives, owner="uid-p"))
    assert why(schedule(found, told)) == "request gpu/big: device class big does not exist"
    leaving = claim("c", exactly(), owner="uid-p")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-29T00:00:00Z"
    give(found, leaving)
    assert why(schedule(found, told)) == 'resourceclaim "c" is being deleted'
    give(found, claim("c", exactly(), owner="uid-p"))
    assert results(schedule(found, told)) == ["gpu=g0"]
    # A second pod of the same claim waits for what comes of the first.
    assert why(schedule(found, user("q", "c"))) == "resource claim d/c is in the process of being allocated"
    unneeded = template | {"status": {"resourceClaimStatuses": [{"name": "gpu"}]}}
    unneeded["metadata"] = unneeded["metadata"] | {"name": "r", "uid": "uid-r"}
    assert isinstance(schedule(found, unneeded), Placement)


def test_pods_that_share_a_claim_go_where_its_devices_are() -> None:
    found = cluster(node("a"), node("b"), resource_slice("s", "b", gpus("g0")), device_class(), claim("c", exactly()))
    allocation = grants(schedule(found, user("p", "c")))[0].allocation
    entry = {"resource": "pods", "name": "p", "uid": "uid-p"}
    status = {"allocation": allocation, "reservedFor": [entry]}
    give(found, claim("c", exactly(), status=status, revision=2))
    second = schedule(found, user("q", "c"))
    assert isinstance(second, Placement) and second.node == "b"
    assert grants(second) == [Grant(found.devices.claim(("d", "c")) or {}, None, entry | {"name": "q", "uid": "uid-q"})]
    elsewhere = user("r", "c", nodeSelector={"kubernetes.io/hostname": "a"})
    assert why(schedule(found, elsewhere)) == (
        "1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node"
    )
    many = [entry | {"uid": f"uid-{number}"} for number in range(256)]
    give(found, claim("c", exactly(), status=status | {"reservedFor": many}, revision=3))
    assert why(schedule(found, user("s", "c"))) == "resourceclaim in use"


def test_pods_that_wait_are_told_of_what_may_help() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class())
    table = found.devices
    assert table.news() == (True, set()) and table.news() == (False, set())
    assert isinstance(schedule(found, user("p", "c")), Diagnosis)
    table.set_claim(("d", "c"), claim("c", exactly()))
    assert table.news() == (False, {"uid-p"}) and not table.waits, "it helps nobody else"
    allocation = grants(schedule(found, user("p", "c")))[0].allocation
    table.set_claim(("d", "c"), claim("c", exactly(), status={"allocation": allocation}, revision=2))
    table.set_claim(("d", "c"), claim("c", exactly(), revision=3))
    assert not table.news().free, "the pod holds it still"
    found.refused("uid-p")
    assert table.news().free
    table.set_claim(("d", "c"), claim("c", exactly(), status={"allocation": allocation}, revision=4))
    assert not table.news().free
    table.set_claim(("d", "c"), None)
    assert table.news().free
    table.set_class("gpu", device_class("gpu", "true"))
    assert table.news().free
    table.set_class("gpu", None)
    assert not table.news().free


def test_a_pod_that_waits_for_a_claim_is_forgotten_with_it() -> None:
    found = cluster(node("a"))
    assert isinstance(schedule(found, user("p", "c")), Diagnosis)
    found.on_settled("uid-p")
    give(found, claim("c", exactly()))
    assert not found.devices.waits and not found.devices.news().waiters


def test_a_claim_that_is_gone_does_not_come_back_with_a_late_answer() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class())
    for name in ("c0", "c1"):
        give(found, claim(name, exactly()))
    allocation = grants(schedule(found, user("p0", "c0")))[0].allocation
    found.on_pod_gone("uid-p0")
    found.devices.set_claim(("d", "c0"), None)
    written = claim("c0", exactly(), status={"allocation": allocation}, revision=2)
    found.devices.wrote(written)
    assert found.devices.claim(("d", "c0")) is None
    assert results(schedule(found, user("p1", "c1"))) == ["gpu=g0"]
    # Nor is another one of its name taken for it.
    give(found, claim("c0", exactly(), revision=1) | {"spec": {}})
    found.devices.wrote(written | {"metadata": written["metadata"] | {"uid": "another"}})
    assert found.devices.claim(("d", "c0")) == claim("c0", exactly(), revision=1) | {"spec": {}}


def test_a_gang_that_does_not_fit_holds_no_devices() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0", "g1")), device_class())
    room = Room(0)
    room.cluster = found
    room.group("gang", 3)
    members = []
    for number in range(3):
        give(found, claim(f"c{number}", exactly()))
        members.append(user(f"p{number}", f"c{number}", schedulingGroup={"podGroupName": "gang"}))
    pods = room.wait(*members)
    assert all(isinstance(one, Diagnosis) for one in room.place(pods))
    give(found, resource_slice("t", "a", gpus("g2"), pool="more"))
    placed = room.place(pods)
    assert sorted(name for one in placed for name in results(one)) == ["gpu=g0", "gpu=g1", "gpu=g2"]


def test_a_claim_that_keeps_its_pod_from_other_nodes_is_given_back() -> None:
    found = cluster(node("a", cpu="1"), node("b"), resource_slice("s", "a", gpus("g0")), device_class())
    give(found, claim("c", exactly()))
    allocation = grants(schedule(found, user("p", "c")))[0].allocation
    found.refused("uid-p")
    entry = {"resource": "pods", "name": "p", "uid": "uid-p"}
    held = claim("c", exactly(), status={"allocation": allocation, "reservedFor": [entry]}, revision=2)
    give(found, held)
    verdict = schedule(found, user("p", "c", cpu="2"))
    assert isinstance(verdict, Diagnosis) and verdict.idle == held
    assert "deallocation of ResourceClaim completed" in verdict.message
    other = entry | {"uid": "uid-q"}
    give(found, claim("c", exactly(), status={"allocation": allocation, "reservedFor": [entry, other]}, revision=3))
    verdict = schedule(found, user("p", "c", cpu="2"))
    assert isinstance(verdict, Diagnosis) and verdict.idle is None and "still not schedulable" in verdict.message


def test_each_node_says_what_it_has_against_the_pod() -> None:
    found = cluster(node("a"), node("b"), resource_slice("s", "b", gpus("g0")), device_class(), claim("c", exactly()))
    verdicts = {one.node: one for one in found.explain(found.read_pod(user("p", "c"))).verdicts}
    assert verdicts["a"].rejected_by == {"DynamicResources": ["cannot allocate all claims"]}
    assert not verdicts["b"].rejected_by

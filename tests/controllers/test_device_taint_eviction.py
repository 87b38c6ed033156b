"""Pods leave when their devices get a taint that their claim does not tolerate, at once or when its time is over."""

from typing import Any

import pytest

from raykube.base.clock import rfc3339
from raykube.controllers.core import kinds
from raykube.controllers.core.device_taint_eviction import DeviceTaintEvictionController
from tests.controllers.model import Cluster, Running
from tests.scheduler.device_objects import DRIVER, claim, device, exactly, resource_slice

Obj = dict[str, Any]


def offer(cluster: Cluster, *taints: Obj, generation: int = 1) -> None:
    devices = [device("g0") | {"taints": list(taints)}, device("g1")]
    cluster.add(kinds.RESOURCE_SLICES, resource_slice(f"s{generation}", "n1", devices, generation=generation))


def pod_of(name: str, node: str = "n1") -> Obj:
    """A pod that names the claim which is called as itself."""
    spec: Obj = {"resourceClaims": [{"name": "gpu", "resourceClaimName": name}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec, "status": {"phase": "Pending"}}


def reserve(cluster: Cluster, name: str, device_name: str, **more: Any) -> Obj:
    """The claim of a pod, as the scheduler writes it before the pod has its node."""
    result = {"request": "gpu", "driver": DRIVER, "pool": "n1", "device": device_name} | more
    status = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": f"uid-{name}"}],
    }
    return cluster.add(kinds.RESOURCE_CLAIMS, claim(name, exactly(), namespace="default", status=status))


def use(cluster: Cluster, name: str, device_name: str, **more: Any) -> None:
    cluster.add(kinds.PODS, pod_of(name))
    reserve(cluster, name, device_name, **more)


def taint(cluster: Cluster, **more: Any) -> None:
    one = {"key": "broken", "effect": "NoExecute"} | more

    def edit(obj: Obj) -> None:
        obj["spec"]["devices"][0]["taints"] = [one]

    cluster.change(kinds.RESOURCE_SLICES, "s1", edit, namespace="")


def left(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.all(kinds.PODS) if "deletionTimestamp" not in pod["metadata"]}


def running(cluster: Cluster) -> Running:
    found = Running(cluster, [DeviceTaintEvictionController()])
    found.start()
    found.run()
    return found


def test_a_pod_leaves_with_its_device_and_others_stay() -> None:
    cluster = Cluster()
    offer(cluster)
    use(cluster, "p", "g0")
    use(cluster, "q", "g1")
    use(cluster, "tolerant", "g0", tolerations=[{"key": "broken", "operator": "Exists"}])
    work = running(cluster)
    assert left(cluster) == {"p", "q", "tolerant"} and not cluster.log
    taint(cluster, effect="NoSchedule")
    work.run()
    assert not cluster.log, "it is for new pods"
    taint(cluster)
    work.run()
    assert left(cluster) == {"q", "tolerant"}
    mark, deletion = cluster.log
    (condition,) = mark.body["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("DisruptionTarget", "DeletionByDeviceTaintManager")
    assert condition["message"] == "Device Taint manager: deleting due to NoExecute taint"
    assert deletion.verb == "delete"
    (event,) = cluster.events
    assert (event.reason, event.message) == ("DeviceTaintManagerEviction", "Marking for deletion")


def test_a_toleration_may_be_for_some_time() -> None:
    cluster = Cluster()
    offer(cluster)
    for name, seconds in (("soon", 10), ("late", 100)):
        use(cluster, name, "g0", tolerations=[{"key": "broken", "operator": "Exists", "tolerationSeconds": seconds}])
    work = running(cluster)
    taint(cluster, timeAdded=rfc3339(cluster.now - 5))
    work.run()
    assert left(cluster) == {"soon", "late"}
    work.advance(6)
    assert left(cluster) == {"late"}
    taint(cluster, effect="NoSchedule")
    work.advance(200)
    assert left(cluster) == {"late"}, "the device is well again"


def test_a_pod_that_comes_to_a_tainted_device_leaves_too() -> None:
    cluster = Cluster()
    offer(cluster, {"key": "broken", "effect": "NoExecute"})
    work = running(cluster)
    use(cluster, "p", "g0")
    work.run()
    assert left(cluster) == set()


def test_a_pod_that_has_no_node_yet_leaves_once_it_has_one() -> None:
    cluster = Cluster()
    offer(cluster)
    work = running(cluster)
    cluster.add(kinds.PODS, pod_of("p", node=""))
    reserve(cluster, "p", "g0")
    taint(cluster)
    work.run()
    assert left(cluster) == {"p"} and not cluster.log

    def bind(obj: Obj) -> None:
        obj["spec"]["nodeName"] = "n1"

    cluster.change(kinds.PODS, "p", bind)
    work.run()
    assert left(cluster) == set()


@pytest.mark.parametrize("template", [False, True])
def test_a_pod_that_is_seen_later_than_its_claim_leaves_too(template: bool) -> None:
    cluster = Cluster()
    offer(cluster, {"key": "broken", "effect": "NoExecute"})
    work = running(cluster)
    made = reserve(cluster, "p", "g0")
    pod = pod_of("p")
    if template:  # whose claim its status does not tell yet
        pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "t"}]
        made["metadata"]["ownerReferences"] = [{"controller": True, "kind": "Pod", "name": "p", "uid": "uid-p"}]
    work.run()
    cluster.add(kinds.PODS, pod)
    work.run()
    assert left(cluster) == set()


def test_of_a_pool_the_newest_generation_counts() -> None:
    cluster = Cluster()
    offer(cluster, {"key": "broken", "effect": "NoExecute"})
    offer(cluster, generation=2)
    use(cluster, "p", "g0")
    running(cluster)
    assert left(cluster) == {"p"}


def test_a_new_generation_may_come_slice_by_slice() -> None:
    cluster = Cluster()
    offer(cluster)
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("other", "n1", [device("g2")], generation=1))
    use(cluster, "p", "g0", tolerations=[{"key": "broken", "operator": "Exists"}])
    work = running(cluster)

    def newer(obj: Obj) -> None:
        obj["spec"]["pool"]["generation"] = 2

    cluster.change(kinds.RESOURCE_SLICES, "other", newer, namespace="")
    taint(cluster)
    work.run()
    use(cluster, "q", "g0")
    work.run()
    assert left(cluster) == {"p", "q"}, "the tainted slice is an old one"
    cluster.change(kinds.RESOURCE_SLICES, "s1", newer, namespace="")
    work.run()
    assert left(cluster) == {"p"}


def test_an_older_generation_counts_again_when_the_newer_one_is_gone() -> None:
    cluster = Cluster()
    offer(cluster, {"key": "broken", "effect": "NoExecute"})
    offer(cluster, generation=2)
    use(cluster, "p", "g0")
    work = running(cluster)
    assert left(cluster) == {"p"}
    cluster.remove(kinds.RESOURCE_SLICES, "s2")
    work.run()
    assert left(cluster) == set()


def test_a_slice_that_is_another_pools_now_counts_no_more_in_its_old_one() -> None:
    cluster = Cluster()
    offer(cluster, {"key": "broken", "effect": "NoExecute"})
    cluster.add(kinds.RESOURCE_SLICES, resource_slice("s2", "n1", pool="n1", generation=2))
    use(cluster, "p", "g0")
    work = running(cluster)

    def move(obj: Obj) -> None:
        obj["spec"]["pool"]["name"] = "elsewhere"

    cluster.change(kinds.RESOURCE_SLICES, "s2", move, namespace="")
    work.run()
    assert left(cluster) == set()

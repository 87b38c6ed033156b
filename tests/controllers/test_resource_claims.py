"""Claims are made from templates, told in the pod's status, given back and deleted; every step may be the last."""

from typing import Any

import pytest

from raykube.api import resource_claims
from raykube.api.resource_claims import FINALIZER, POD_CLAIM_ANNOTATION
from raykube.controllers.core import kinds
from raykube.controllers.core.plan import Write
from raykube.controllers.core.resource_claims import ResourceClaimController
from tests.controllers.model import Cluster, Crash, Running

Obj = dict[str, Any]
SPEC = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu", "count": 1}}]}}


def template(cluster: Cluster, name: str = "gpu", **metadata: Any) -> None:
    cluster.add(
        kinds.RESOURCE_CLAIM_TEMPLATES, {"metadata": {"name": name}, "spec": {"metadata": metadata, "spec": SPEC}}
    )


def pod(cluster: Cluster, name: str = "web", **fields: Any) -> Obj:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    return cluster.add(kinds.PODS, {"metadata": {"name": name}, "spec": {"resourceClaims": claims} | fields})


def allocate(cluster: Cluster, claim: str, *pods: Obj) -> None:
    """What the scheduler does."""

    def edit(obj: Obj) -> None:
        obj["metadata"]["finalizers"] = [FINALIZER]
        reserved = [resource_claims.consumer(one["metadata"]["name"], one["metadata"]["uid"]) for one in pods]
        obj["status"] = {"allocation": {"devices": {"results": []}}, "reservedFor": reserved}

    cluster.change(kinds.RESOURCE_CLAIMS, claim, edit)


def end(obj: Obj) -> None:
    obj.setdefault("status", {})["phase"] = "Succeeded"


def only_claim(cluster: Cluster) -> Obj:
    (claim,) = cluster.all(kinds.RESOURCE_CLAIMS)
    return claim


def test_a_pod_gets_its_claim_and_hears_its_name() -> None:
    cluster = Cluster()
    template(cluster, labels={"a": "b"}, annotations={"c": "d"})
    owner = pod(cluster)
    cluster.settle(ResourceClaimController())
    claim = only_claim(cluster)
    meta = claim["metadata"]
    assert meta["name"].startswith("web-gpu-") and len(meta["name"]) == len("web-gpu-") + 5
    assert meta["annotations"] == {"c": "d", POD_CLAIM_ANNOTATION: "gpu"} and meta["labels"] == {"a": "b"}
    assert meta["ownerReferences"][0]["uid"] == owner["metadata"]["uid"] and meta["ownerReferences"][0]["controller"]
    assert claim["spec"] == SPEC
    told = cluster.all(kinds.PODS)[0]["status"]["resourceClaimStatuses"]
    assert told == [{"name": "gpu", "resourceClaimName": meta["name"]}]


def test_long_names_are_cut_in_proportion() -> None:
    cluster = Cluster()
    template(cluster)
    claims = [{"name": "c" * 60, "resourceClaimTemplateName": "gpu"}]
    pod(cluster, "p" * 60, resourceClaims=claims)
    cluster.settle(ResourceClaimController())
    name = only_claim(cluster)["metadata"]["name"]
    assert len(name) <= 63 and name.startswith("p" * 28 + "-" + "c" * 20)


def test_a_missing_template_is_an_event_and_wakes_the_pod_when_it_comes() -> None:
    cluster = Cluster()
    running = Running(cluster, [ResourceClaimController()])
    pod(cluster)
    running.run()
    (event,) = {(one.reason, one.message) for one in cluster.events}
    missing = 'resourceclaimtemplate.resource.k8s.io "gpu" not found'
    assert event == (
        "FailedResourceClaimCreation",
        f'PodResourceClaim gpu: resource claim template "gpu": {missing}',
    )
    template(cluster)
    running.run()
    assert only_claim(cluster)["metadata"]["name"].startswith("web-gpu-")


def test_what_is_refused_is_told() -> None:
    cluster = Cluster()
    template(cluster)
    pod(cluster)
    cluster.refuse = lambda write: "exceeded quota" if write.resource == kinds.RESOURCE_CLAIMS else ""
    cluster.settle(ResourceClaimController())
    assert cluster.events[0].message == "PodResourceClaim gpu: create ResourceClaim : {error}"


@pytest.mark.parametrize("writes", range(4))
def test_a_crash_between_any_two_writes_makes_no_second_claim(writes: int) -> None:
    cluster = Cluster()
    template(cluster)
    pod(cluster)
    cluster.writes_left = writes
    try:
        cluster.settle(ResourceClaimController())
    except Crash:
        cluster.writes_left = -1
        cluster.settle(ResourceClaimController())
    claim = only_claim(cluster)["metadata"]["name"]
    assert cluster.all(kinds.PODS)[0]["status"]["resourceClaimStatuses"][0]["resourceClaimName"] == claim


def test_a_claim_that_was_deleted_is_made_again() -> None:
    cluster = Cluster()
    template(cluster)
    pod(cluster)
    running = Running(cluster, [ResourceClaimController()])
    running.start()
    running.run()
    cluster.remove(kinds.RESOURCE_CLAIMS, only_claim(cluster)["metadata"]["name"])
    running.run()
    assert only_claim(cluster)


def test_the_devices_of_a_pod_that_ended_are_free_and_its_claim_goes() -> None:
    cluster = Cluster()
    template(cluster)
    owner = pod(cluster, nodeName="node-1")
    running = Running(cluster, [ResourceClaimController()])
    running.start()
    running.run()
    allocate(cluster, only_claim(cluster)["metadata"]["name"], owner)
    running.run()
    assert only_claim(cluster)["status"]["allocation"]
    cluster.log.clear()
    cluster.change(kinds.PODS, "web", end)
    running.run()
    assert cluster.all(kinds.RESOURCE_CLAIMS) == []
    # The devices are given back first, then the finalizer, and the claim last.
    assert [one.verb for one in cluster.log] == ["patch", "patch", "delete"]
    assert cluster.log[0].body == {"status": {"reservedFor": None, "allocation": None, "devices": None}}


def test_a_shared_claim_is_kept_until_its_last_pod_is_gone() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_CLAIMS, {"metadata": {"name": "shared"}, "spec": SPEC})
    claims = [{"name": "gpu", "resourceClaimName": "shared"}]
    one, other = (pod(cluster, name, resourceClaims=claims, nodeName="node-1") for name in ("one", "other"))
    running = Running(cluster, [ResourceClaimController()])
    running.start()
    allocate(cluster, "shared", one, other)
    running.run()
    cluster.vanish(kinds.PODS, one)
    running.run()
    claim = only_claim(cluster)
    assert [each["name"] for each in claim["status"]["reservedFor"]] == ["other"] and claim["status"]["allocation"]
    cluster.vanish(kinds.PODS, other)
    running.run()
    claim = only_claim(cluster)
    assert not claim["status"].get("allocation") and not claim["status"].get("reservedFor")
    assert not claim["metadata"].get("finalizers")


def test_a_claim_that_is_deleted_goes_when_nobody_uses_it() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_CLAIMS, {"metadata": {"name": "shared"}, "spec": SPEC})
    claims = [{"name": "gpu", "resourceClaimName": "shared"}]
    user = pod(cluster, resourceClaims=claims, nodeName="node-1")
    allocate(cluster, "shared", user)
    running = Running(cluster, [ResourceClaimController()])
    running.start()
    cluster.remove(kinds.RESOURCE_CLAIMS, "shared")
    running.run()
    assert only_claim(cluster)["status"]["reservedFor"]
    cluster.change(kinds.PODS, "web", end)
    running.run()
    assert cluster.all(kinds.RESOURCE_CLAIMS) == []


def test_the_finalizer_of_an_allocation_that_begins_is_left_alone() -> None:
    cluster = Cluster()
    claim = {"metadata": {"name": "shared", "finalizers": [FINALIZER]}, "spec": SPEC}
    cluster.add(kinds.RESOURCE_CLAIMS, claim)
    cluster.settle(ResourceClaimController())
    assert only_claim(cluster)["metadata"]["finalizers"] == [FINALIZER]


def test_a_pod_that_was_put_on_a_node_by_name_reserves_its_claim() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_CLAIMS, {"metadata": {"name": "shared"}, "spec": SPEC})
    allocate(cluster, "shared")
    claims = [{"name": "gpu", "resourceClaimName": "shared"}]
    user = pod(cluster, resourceClaims=claims, nodeName="node-1")
    cluster.settle(ResourceClaimController())
    assert resource_claims.is_reserved_for(only_claim(cluster), user["metadata"]["uid"])


def test_a_pod_that_has_a_node_hears_when_it_can_reserve_its_claim() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_CLAIMS, {"metadata": {"name": "shared"}, "spec": SPEC})
    claims = [{"name": "gpu", "resourceClaimName": "shared"}]
    late = pod(cluster, "late", resourceClaims=claims, nodeName="node-1")
    running = Running(cluster, [ResourceClaimController()])
    running.start()
    running.run()
    others = [pod(cluster, f"pod-{number}", resourceClaims=claims, nodeName="node-1") for number in range(256)]
    allocate(cluster, "shared", *others)
    running.run()
    assert not resource_claims.is_reserved_for(only_claim(cluster), late["metadata"]["uid"]), "there is no room"
    cluster.vanish(kinds.PODS, others[0])
    running.run()
    assert resource_claims.is_reserved_for(only_claim(cluster), late["metadata"]["uid"])

    def free(obj: Obj) -> None:
        obj["status"] = {}

    cluster.change(kinds.RESOURCE_CLAIMS, "shared", free)
    running.run()
    allocate(cluster, "shared")
    running.run()
    assert len(resource_claims.reserved_for(only_claim(cluster))) == 256


def test_of_many_pods_that_name_a_claim_only_those_look_that_can_do_something() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_CLAIMS, {"metadata": {"name": "shared"}, "spec": SPEC})
    claims = [{"name": "gpu", "resourceClaimName": "shared"}]
    waiting = [pod(cluster, f"pod-{number}", resourceClaims=claims) for number in range(20)]
    placed = [pod(cluster, f"placed-{number}", resourceClaims=claims, nodeName="node-1") for number in range(3)]
    controller = ResourceClaimController()

    def queued() -> set[str]:
        """By the changes of the claim."""
        keys: set[str] = set()
        for resource, old, new in cluster.changes:
            if resource == kinds.RESOURCE_CLAIMS:
                keys.update(controller.observe(cluster, resource, old, new, cluster.now))
        cluster.changes.clear()
        return keys - {"claim:default/shared"}

    assert not queued(), "it has no devices"
    allocate(cluster, "shared", *waiting[:10], placed[0])
    assert queued() == {"pod:default/placed-1", "pod:default/placed-2"}
    allocate(cluster, "shared", *waiting[:11], placed[0])
    assert not queued(), "one more came"
    end(placed[2])
    allocate(cluster, "shared", *waiting[:11])
    assert queued() == {"pod:default/placed-0", "pod:default/placed-1"}
    cluster.remove(kinds.RESOURCE_CLAIMS, "shared")
    assert not queued()


def test_a_pod_without_claims_is_nobodys_business() -> None:
    cluster = Cluster()
    cluster.add(kinds.PODS, {"metadata": {"name": "web"}, "spec": {"containers": []}})
    seen: list[Write] = []
    cluster.refuse = lambda write: seen.append(write) or ""
    cluster.settle(ResourceClaimController())
    assert seen == []

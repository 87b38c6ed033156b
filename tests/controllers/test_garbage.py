"""garbage-collector-controller on the model cluster, against a dumb twin."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.controllers.caches import resource_table
from raykube.controllers.core import kinds
from raykube.controllers.core.garbage import FOREGROUND, ORPHAN, GarbageCollector
from raykube.controllers.core.plan import Obj, Write
from tests.controllers.model import Cluster, Running

KINDS = {kinds.DEPLOYMENTS: "Deployment", kinds.REPLICA_SETS: "ReplicaSet", kinds.PODS: "Pod"}


def reference(resource: str, owner: Obj, block: bool = True) -> Obj:
    meta = owner["metadata"]
    version = "v1" if resource == kinds.PODS else "apps/v1"
    return {
        "apiVersion": version,
        "kind": KINDS[resource],
        "name": meta["name"],
        "uid": meta["uid"],
        "blockOwnerDeletion": block,
    }


def add(cluster: Cluster, resource: str, name: str, *owners: Obj, **meta: Any) -> Obj:
    metadata = {"name": name, **({"ownerReferences": list(owners)} if owners else {}), **meta}
    return cluster.add(resource, {"metadata": metadata, "spec": {}})


def family(cluster: Cluster) -> tuple[Obj, Obj, list[Obj]]:
    deployment = add(cluster, kinds.DEPLOYMENTS, "web")
    replica_set = add(cluster, kinds.REPLICA_SETS, "web-1", reference(kinds.DEPLOYMENTS, deployment))
    pods = [add(cluster, kinds.PODS, f"p{number}", reference(kinds.REPLICA_SETS, replica_set)) for number in range(2)]
    return deployment, replica_set, pods


def delete(cluster: Cluster, resource: str, name: str, policy: str) -> None:
    """What the apiserver does with a propagation policy: a finalizer, then the deletion."""
    finalizer = {"Foreground": [FOREGROUND], "Orphan": [ORPHAN], "Background": []}[policy]
    if finalizer:
        cluster.change(resource, name, lambda obj: obj["metadata"].update(finalizers=finalizer))
    cluster.remove(resource, name)


class Policies(Cluster):
    """A cluster that gives deletions their policy's finalizer."""

    def apply(self, write: Write) -> tuple[int, str]:
        policy = (write.body or {}).get("propagationPolicy") if write.verb == "delete" else None
        found = self.get(write.resource, write.namespace, write.name)
        if policy in ("Foreground", "Orphan") and found is not None and not found["metadata"].get("finalizers"):
            if write.resource_version and int(found["metadata"]["resourceVersion"]) != write.resource_version:
                return 409, "changed"
            finalizer = FOREGROUND if policy == "Foreground" else ORPHAN
            self.change(write.resource, write.name, lambda obj: obj["metadata"].update(finalizers=[finalizer]))
            return super().apply(Write("delete", write.resource, write.namespace, write.name))
        return super().apply(write)


def start(cluster: Cluster) -> Running:
    running = Running(cluster, [GarbageCollector(resource_table())])
    running.start()
    running.run()
    return running


def left(cluster: Cluster) -> set[str]:
    return {obj["metadata"]["name"] for resource in KINDS for obj in cluster.all(resource)}


def test_living_owners_keep_their_dependents() -> None:
    cluster = Policies()
    family(cluster)
    start(cluster)
    assert left(cluster) == {"web", "web-1", "p0", "p1"} and not cluster.log


def test_background() -> None:
    cluster = Policies()
    family(cluster)
    running = start(cluster)
    delete(cluster, kinds.DEPLOYMENTS, "web", "Background")
    running.run()
    assert left(cluster) == set()


def test_foreground_deletes_the_dependents_first() -> None:
    cluster = Policies()
    family(cluster)
    running = start(cluster)
    cluster.change(kinds.PODS, "p0", lambda pod: pod["metadata"].update(finalizers=["example.com/hold"]))
    delete(cluster, kinds.DEPLOYMENTS, "web", "Foreground")
    running.run()
    assert left(cluster) == {"web", "web-1", "p0"}, "the pod that holds on holds its owners too"
    cluster.apply(Write("patch", kinds.PODS, "default", "p0", {"metadata": {"finalizers": None}}))
    running.run()
    assert left(cluster) == set()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_owners_that_go_round_in_a_circle_do_not_wait_for_each_other(count: int) -> None:
    cluster = Policies()
    names = [f"r{number}" for number in range(count)]
    made = [add(cluster, kinds.REPLICA_SETS, name) for name in names]
    for name, owner in zip(names, [made[-1], *made[:-1]], strict=True):
        references = [reference(kinds.REPLICA_SETS, owner)]
        cluster.change(
            kinds.REPLICA_SETS, name, lambda obj, refs=references: obj["metadata"].update(ownerReferences=refs)
        )
    pod = add(cluster, kinds.PODS, "p", reference(kinds.REPLICA_SETS, made[0]), finalizers=["example.com/hold"])
    running = start(cluster)
    delete(cluster, kinds.REPLICA_SETS, "r0", "Foreground")
    running.run()
    assert {"p", "r0"} <= left(cluster), "what is outside of the circle is waited for"
    cluster.vanish(kinds.PODS, pod)
    running.run()
    assert left(cluster) == set()


def test_orphan_takes_the_references_out() -> None:
    cluster = Policies()
    family(cluster)
    running = start(cluster)
    delete(cluster, kinds.DEPLOYMENTS, "web", "Orphan")
    running.run()
    assert left(cluster) == {"web-1", "p0", "p1"}
    replica_set = cluster.get(kinds.REPLICA_SETS, "default", "web-1")
    assert replica_set is not None and not replica_set["metadata"].get("ownerReferences")


def test_a_second_owner_keeps_the_dependent_and_the_dangling_reference_goes() -> None:
    cluster = Policies()
    _, replica_set, _ = family(cluster)
    other = add(cluster, kinds.REPLICA_SETS, "web-2")
    both = [reference(kinds.REPLICA_SETS, replica_set), reference(kinds.REPLICA_SETS, other)]
    add(cluster, kinds.PODS, "shared", *both)
    running = start(cluster)
    delete(cluster, kinds.REPLICA_SETS, "web-1", "Background")
    running.run()
    shared = cluster.get(kinds.PODS, "default", "shared")
    assert shared is not None and [each["name"] for each in shared["metadata"]["ownerReferences"]] == ["web-2"]


def test_an_owner_that_never_was() -> None:
    cluster = Policies()
    ghost = {"metadata": {"name": "ghost", "uid": "gone"}}
    add(cluster, kinds.PODS, "p", reference(kinds.REPLICA_SETS, ghost))
    start(cluster)
    assert left(cluster) == set()


def test_an_owner_of_another_namespace_does_not_exist() -> None:
    cluster = Policies()
    elsewhere = add(cluster, kinds.REPLICA_SETS, "far", namespace="other")
    add(cluster, kinds.PODS, "p", reference(kinds.REPLICA_SETS, elsewhere))
    start(cluster)
    assert cluster.get(kinds.PODS, "default", "p") is None


def test_owners_of_unknown_kinds_are_left_alone() -> None:
    cluster = Policies()
    unknown = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "x", "uid": "u"}
    add(cluster, kinds.PODS, "p", unknown)
    start(cluster)
    assert left(cluster) == {"p"}


@given(
    edges=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20),
    gone=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["Background", "Foreground"])), max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_like_the_twin(edges: list[tuple[int, int]], gone: list[tuple[int, str]]) -> None:
    """After deletions exactly those are left that were roots, or have a chain of owners to a root that is left."""
    owners: dict[int, set[int]] = {number: set() for number in range(10)}
    for child, owner in edges:
        if owner < child:
            owners[child].add(owner)
    cluster = Policies()
    made: dict[int, Obj] = {}
    for number in range(10):
        references = [reference(kinds.REPLICA_SETS, made[owner], block=True) for owner in sorted(owners[number])]
        made[number] = add(cluster, kinds.REPLICA_SETS, f"r{number}", *references)
    running = start(cluster)
    removed: set[int] = set()
    for number, policy in gone:
        if cluster.get(kinds.REPLICA_SETS, "default", f"r{number}") is not None:
            removed.add(number)
            delete(cluster, kinds.REPLICA_SETS, f"r{number}", policy)
            running.run()
    alive: set[int] = set()
    for number in range(10):
        if number not in removed and (not owners[number] or owners[number] & alive):
            alive.add(number)
    assert left(cluster) == {f"r{number}" for number in alive}

"""The claims of StatefulSets: made before their pods, kept or deleted with them."""

from typing import Any

import pytest

from raykube.controllers.core import kinds
from raykube.controllers.core import statefulset_claims as storage
from raykube.controllers.core.statefulset import StatefulSetController
from tests.controllers.model import Cluster, Running
from tests.controllers.statefulsets import (
    CLAIM,
    LABELS,
    begin,
    claims_of,
    edit,
    going,
    grow,
    names,
    pod,
    stateful_set,
)


def test_claims_are_made_before_their_pod_and_outlive_it() -> None:
    cluster, running = begin(stateful_set(2, volumeClaimTemplates=[CLAIM]))
    made = [(write.resource, write.name) for write in cluster.log if write.verb == "create"][1:]
    assert made == [(kinds.PERSISTENT_VOLUME_CLAIMS, "data-web-0"), (kinds.PODS, "web-0")]
    assert pod(cluster, "web-0")["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}
    ]
    assert cluster.events[0].message == "create Claim data-web-0 Pod web-0 in StatefulSet web success"
    (claim,) = cluster.all(kinds.PERSISTENT_VOLUME_CLAIMS)
    assert claim["metadata"]["labels"] == LABELS and claim["spec"] == CLAIM["spec"]
    grow(cluster, running)
    edit(cluster, replicas=0)
    running.run()
    grow(cluster, running)
    assert claims_of(cluster) == {"data-web-0": [], "data-web-1": []} and not names(cluster)


def test_a_refused_claim_keeps_its_pod_back() -> None:
    cluster = Cluster()
    cluster.add(kinds.STATEFUL_SETS, stateful_set(1, volumeClaimTemplates=[CLAIM]))
    cluster.refuse = lambda write: "exceeded quota" if write.resource == kinds.PERSISTENT_VOLUME_CLAIMS else ""
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    assert not names(cluster)
    assert cluster.events[0].reason == "FailedCreate"
    assert cluster.events[0].message.startswith("create Claim data-web-0 for Pod web-0 in StatefulSet web failed error")


def test_a_pending_pod_gets_a_claim_that_went() -> None:
    cluster, running = begin(stateful_set(1, volumeClaimTemplates=[CLAIM]))
    cluster.vanish(kinds.PERSISTENT_VOLUME_CLAIMS, cluster.all(kinds.PERSISTENT_VOLUME_CLAIMS)[0])
    running.run()
    assert list(claims_of(cluster)) == ["data-web-0"]


def test_a_claim_that_is_being_deleted_is_waited_for() -> None:
    cluster = Cluster()
    metadata = {"name": "data-web-0", "finalizers": ["kubernetes.io/pvc-protection"]}
    cluster.add(kinds.PERSISTENT_VOLUME_CLAIMS, {"metadata": metadata, "spec": {}})
    cluster.remove(kinds.PERSISTENT_VOLUME_CLAIMS, "data-web-0")
    cluster.add(kinds.STATEFUL_SETS, stateful_set(1, volumeClaimTemplates=[CLAIM]))
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    assert not names(cluster)
    assert "pvc data-web-0 is being deleted" in cluster.events[0].message
    cluster.vanish(kinds.PERSISTENT_VOLUME_CLAIMS, cluster.all(kinds.PERSISTENT_VOLUME_CLAIMS)[0])
    running.run()
    assert names(cluster) == ["web-0"]


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_claims_go_with_pods_that_are_scaled_away_and_with_no_others(policy: str) -> None:
    retention = {"whenDeleted": "Retain", "whenScaled": "Delete"}
    wanted = stateful_set(
        3,
        podManagementPolicy=policy,
        volumeClaimTemplates=[CLAIM],
        persistentVolumeClaimRetentionPolicy=retention,
    )
    cluster, running = begin(wanted)
    grow(cluster, running)
    assert claims_of(cluster) == {"data-web-0": [], "data-web-1": [], "data-web-2": []}
    cluster.remove(kinds.PODS, "web-2")
    grow(cluster, running)
    assert claims_of(cluster)["data-web-2"] == [], "a pod that comes back keeps its claim"
    edit(cluster, replicas=1)
    running.run()
    assert going(cluster) and all(claims_of(cluster)[f"data-{name}"] == [name] for name in going(cluster))
    grow(cluster, running)
    assert claims_of(cluster) == {"data-web-0": [], "data-web-1": ["web-1"], "data-web-2": ["web-2"]}
    edit(cluster, replicas=2)
    running.run()
    assert names(cluster) == ["web-0"], "web-1 waits until its old claim is gone"
    claim = cluster.get(kinds.PERSISTENT_VOLUME_CLAIMS, "default", "data-web-1")
    assert claim is not None
    cluster.vanish(kinds.PERSISTENT_VOLUME_CLAIMS, claim)
    running.run()
    assert names(cluster) == ["web-0", "web-1"]


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_no_pod_is_scaled_away_before_its_claims_go_with_it(policy: str) -> None:
    retention = {"whenDeleted": "Retain", "whenScaled": "Delete"}
    wanted = stateful_set(
        1, podManagementPolicy=policy, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=retention
    )
    cluster, running = begin(wanted)
    grow(cluster, running)
    cluster.refuse = lambda write: "no" if write.verb == "update" else ""
    edit(cluster, replicas=0)
    running.advance(10)
    assert going(cluster) == []
    cluster.refuse = lambda write: ""
    running.advance(10)
    assert going(cluster) == ["web-0"]


def test_claims_go_with_the_set_when_asked_and_can_be_kept_again() -> None:
    retention = {"whenDeleted": "Delete", "whenScaled": "Retain"}
    cluster, running = begin(
        stateful_set(1, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=retention)
    )
    grow(cluster, running)
    assert claims_of(cluster) == {"data-web-0": ["web"]}
    edit(cluster, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"})
    running.run()
    assert claims_of(cluster) == {"data-web-0": []}


def test_a_claim_that_somebody_else_controls_is_left_to_him() -> None:
    retention = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    cluster, running = begin(
        stateful_set(1, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=retention)
    )
    grow(cluster, running)
    other = {"apiVersion": "v1", "kind": "Other", "name": "other", "uid": "other", "controller": True}

    def take(claim: dict[str, Any]) -> None:
        claim["metadata"]["ownerReferences"].append(other)

    cluster.change(kinds.PERSISTENT_VOLUME_CLAIMS, "data-web-0", take)
    running.run()
    assert claims_of(cluster) == {"data-web-0": ["other"]}
    assert cluster.events[-1].reason == "ConflictingController"


def test_claims_are_told_apart_by_name() -> None:
    cluster = Cluster()
    for name, claim in (("c", "a-b"), ("b-c", "a"), ("d", "a")):
        found = stateful_set(0, volumeClaimTemplates=[{"metadata": {"name": claim}}])
        cluster.add(kinds.STATEFUL_SETS, {**found, "metadata": {"name": name}})

    def owners(name: str) -> list[str]:
        claim = {"metadata": {"name": name, "namespace": "default"}}
        return sorted(each["metadata"]["name"] for each in storage.sets_of(cluster, claim))

    assert owners("a-b-c-0") == ["b-c", "c"]
    assert owners("a-d-7") == ["d"] and not owners("a-d-x") and not owners("a-0") and not owners("b-d-0")

"""statefulset-controller on the model cluster: its pods, their identities and their order."""

from typing import Any

import pytest

from raykube.controllers.core import kinds
from raykube.controllers.core import statefulset_pods as identities
from raykube.controllers.core.statefulset import BURST, StatefulSetController
from tests.controllers.model import Cluster, Running, set_pod
from tests.controllers.statefulsets import (
    LABELS,
    begin,
    edit,
    end,
    going,
    grow,
    names,
    pod,
    ready,
    stateful_set,
    status,
)


def test_pods_come_one_after_another_with_their_identities() -> None:
    cluster, running = begin(stateful_set(3))
    assert names(cluster) == ["web-0"]
    made = pod(cluster, "web-0")
    assert made["spec"]["hostname"] == "web-0" and made["spec"]["subdomain"] == "net"
    revision = cluster.all(kinds.CONTROLLER_REVISIONS)[0]["metadata"]["name"]
    assert made["metadata"]["labels"] == {
        **LABELS,
        "statefulset.kubernetes.io/pod-name": "web-0",
        "apps.kubernetes.io/pod-index": "0",
        "controller-revision-hash": revision,
    }
    ready(cluster, "web-0", is_ready=False)
    running.run()
    assert names(cluster) == ["web-0"], "the next one waits until the first is ready"
    ready(cluster, "web-0")
    running.run()
    assert names(cluster) == ["web-0", "web-1"]
    grow(cluster, running)
    assert names(cluster) == ["web-0", "web-1", "web-2"]
    assert status(cluster) == {
        "replicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "currentReplicas": 3,
        "updatedReplicas": 3,
        "currentRevision": revision,
        "updateRevision": revision,
        "collisionCount": 0,
        "observedGeneration": 1,
    }
    assert [(event.type, event.reason, event.message) for event in cluster.events] == [
        ("Normal", "SuccessfulCreate", f"create Pod web-{number} in StatefulSet web successful") for number in range(3)
    ]


def test_parallel_makes_and_ends_all_at_once() -> None:
    cluster, running = begin(stateful_set(3, podManagementPolicy="Parallel"))
    assert names(cluster) == ["web-0", "web-1", "web-2"]
    grow(cluster, running)
    edit(cluster, replicas=0)
    running.run()
    assert all(each["metadata"].get("deletionTimestamp") for each in cluster.all(kinds.PODS))


@pytest.mark.parametrize(("policy", "expected"), [("OrderedReady", 1), ("Parallel", BURST)])
def test_a_set_of_all_the_replicas_there_can_be_costs_what_it_has(
    monkeypatch: pytest.MonkeyPatch, policy: str, expected: int
) -> None:
    looked_at = 0
    replica = identities.Replica

    def count(*fields: Any) -> identities.Replica:
        nonlocal looked_at
        looked_at += 1
        assert looked_at <= 2 * BURST, "all replicas are gone through"
        return replica(*fields)

    monkeypatch.setattr(identities, "Replica", count)
    cluster = Cluster()
    cluster.add(kinds.STATEFUL_SETS, stateful_set(2**31 - 1, podManagementPolicy=policy))
    for _ in range(2):  # the revision, then pods
        cluster.carry_out(StatefulSetController().reconcile(cluster, "default/web", cluster.now))
    assert len(names(cluster)) == expected and 0 < looked_at <= expected
    looked_at = 0
    cluster.carry_out(StatefulSetController().reconcile(cluster, "default/web", cluster.now))
    assert len(names(cluster)) == (1 if policy == "OrderedReady" else 2 * BURST)
    assert 0 < looked_at <= len(names(cluster))


def test_scaling_down_goes_from_the_highest_and_waits_for_each() -> None:
    cluster, running = begin(stateful_set(3))
    grow(cluster, running)
    edit(cluster, replicas=1)
    running.run()
    assert going(cluster) == ["web-2"]
    running.advance(3600)
    assert names(cluster) == ["web-0", "web-1", "web-2"]
    end(cluster, "web-2")
    ready(cluster, "web-0", is_ready=False)
    running.run()
    assert not pod(cluster, "web-1")["metadata"].get("deletionTimestamp"), "web-0 is down: nothing else may go"
    ready(cluster, "web-0")
    running.run()
    assert pod(cluster, "web-1")["metadata"].get("deletionTimestamp")


def test_of_pods_to_go_that_are_down_the_lowest_goes_first() -> None:
    cluster, running = begin(stateful_set(4))
    grow(cluster, running)
    for name in ("web-2", "web-3"):
        ready(cluster, name, is_ready=False)
    edit(cluster, replicas=2)
    running.run()
    assert going(cluster) == []
    ready(cluster, "web-3")
    running.run()
    assert going(cluster) == ["web-3"]


def test_ordinals_start_where_it_is_asked() -> None:
    cluster, running = begin(stateful_set(2, ordinals={"start": 5}))
    grow(cluster, running)
    assert names(cluster) == ["web-5", "web-6"]
    edit(cluster, ordinals={"start": 6})
    running.run()
    grow(cluster, running)
    assert names(cluster) == ["web-6", "web-7"]


def test_an_identity_waits_until_its_last_pod_is_gone() -> None:
    """A pod whose node is lost stays Terminating; nothing takes its name before somebody confirms its end."""
    cluster, running = begin(stateful_set(2))
    grow(cluster, running)
    first = pod(cluster, "web-0")["metadata"]["uid"]
    cluster.remove(kinds.PODS, "web-0")
    running.advance(36_000)
    assert pod(cluster, "web-0")["metadata"]["uid"] == first
    assert not [write for write in cluster.log if write.verb == "delete"], "nor does the set force it"
    end(cluster, "web-0")
    running.run()
    assert pod(cluster, "web-0")["metadata"]["uid"] != first


@pytest.mark.parametrize(
    ("phase", "reason", "text"),
    [
        ("Failed", "RecreatingFailedPod", "StatefulSet default/web is recreating failed Pod web-0"),
        ("Succeeded", "RecreatingTerminatedPod", "StatefulSet default/web is recreating terminated Pod web-0"),
    ],
)
def test_it_is_told_why_a_pod_is_made_anew(phase: str, reason: str, text: str) -> None:
    cluster, running = begin(stateful_set(1))
    cluster.change(kinds.PODS, "web-0", set_pod(phase, False, cluster.now))
    running.run()
    assert [event.message for event in cluster.events if event.reason == reason] == [text]


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_ended_pods_are_replaced(phase: str, policy: str) -> None:
    cluster, running = begin(stateful_set(2, podManagementPolicy=policy))
    grow(cluster, running)
    before = pod(cluster, "web-1")["metadata"]["uid"]
    cluster.change(kinds.PODS, "web-1", set_pod(phase, False, cluster.now))
    running.run()
    assert pod(cluster, "web-1")["metadata"]["uid"] != before
    assert [event.reason for event in cluster.events][-2:] == ["SuccessfulDelete", "SuccessfulCreate"]
    assert cluster.events[-2].message == "delete Pod web-1 in StatefulSet web successful"


def test_a_name_that_a_stranger_has_is_waited_for() -> None:
    cluster = Cluster()
    cluster.add(kinds.PODS, {"metadata": {"name": "web-0"}, "spec": {}})
    cluster.add(kinds.STATEFUL_SETS, stateful_set(1))
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    assert not pod(cluster, "web-0")["metadata"].get("ownerReferences")
    end(cluster, "web-0")
    running.run()
    assert pod(cluster, "web-0")["metadata"]["ownerReferences"][0]["name"] == "web"


def test_adopts_by_name_and_selector_and_releases() -> None:
    cluster = Cluster()
    for name in ("web-0", "other-0", "web-x"):
        cluster.add(kinds.PODS, {"metadata": {"name": name, "labels": dict(LABELS)}, "spec": {"containers": []}})
    cluster.add(kinds.STATEFUL_SETS, stateful_set(1, updateStrategy={"type": "OnDelete"}))
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    owned = [each["metadata"]["name"] for each in cluster.all(kinds.PODS) if each["metadata"].get("ownerReferences")]
    assert owned == ["web-0"]
    ready(cluster, "web-0")
    running.run()
    assert pod(cluster, "web-0")["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0"
    assert cluster.events[-1].message == "update Pod web-0 in StatefulSet web successful"
    cluster.change(kinds.PODS, "web-0", lambda obj: obj["metadata"].update(labels={"app": "other"}))
    running.run()
    assert not pod(cluster, "web-0")["metadata"].get("ownerReferences")


def test_available_after_min_ready_seconds() -> None:
    cluster, running = begin(stateful_set(2, minReadySeconds=10))
    ready(cluster, "web-0")
    running.advance(9)
    assert names(cluster) == ["web-0"] and status(cluster)["availableReplicas"] == 0
    running.advance(1)
    assert names(cluster) == ["web-0", "web-1"] and status(cluster)["availableReplicas"] == 1


def test_refused_pods_are_told_of_and_tried_again() -> None:
    cluster = Cluster()
    cluster.add(kinds.STATEFUL_SETS, stateful_set(1))
    cluster.refuse = lambda write: "exceeded quota" if write.resource == kinds.PODS else ""
    running = Running(cluster, [StatefulSetController()])
    running.start()
    running.run()
    (event,) = {event.message: event for event in cluster.events}.values()
    assert (event.type, event.reason) == ("Warning", "FailedCreate")
    assert event.message.startswith("create Pod web-0 in StatefulSet web failed error: ")
    cluster.refuse = lambda write: ""
    running.advance(3)
    assert names(cluster) == ["web-0"]


def test_a_large_parallel_set_whose_pods_are_refused_reports_and_asks_with_one() -> None:
    cluster, running = begin(stateful_set(3, podManagementPolicy="Parallel"))
    grow(cluster, running)
    cluster.refuse = lambda write: "full" if write.verb == "create" and write.resource == kinds.PODS else ""
    edit(cluster, replicas=2 * BURST)
    running.run()
    assert status(cluster)["observedGeneration"] == 2, "however many cannot be created"
    cluster.log.clear()
    cluster.change(kinds.PODS, "web-2", set_pod("Failed", False, cluster.now))
    running.advance(3)
    assert status(cluster)["readyReplicas"] == 2
    assert 1 <= sum(write.verb == "create" for write in cluster.log) < 10, "one at a time asks whether that is over"
    assert "web-2" not in names(cluster), "what there is is looked after meanwhile"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web-0", ("web", 0)),
        ("web-2-10", ("web-2", 10)),
        ("web", ("", -1)),
        ("web-00", ("", -1)),
        ("web-x", ("", -1)),
        ("web-2147483648", ("", -1)),
    ],
)
def test_names_are_parsed(name: str, expected: tuple[str, int]) -> None:
    assert identities.parse(name) == expected

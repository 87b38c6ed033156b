"""Roll-outs of StatefulSets: their order, partitions, how many may be down, revisions."""

from typing import Any

import pytest

from raykube.controllers.core import kinds
from raykube.controllers.core.statefulset import StatefulSetController
from tests.controllers.model import Cluster, kubelet, template
from tests.controllers.statefulsets import (
    LABELS,
    begin,
    edit,
    end,
    going,
    grow,
    images,
    names,
    pod,
    ready,
    rolling,
    stateful_set,
    status,
)


def test_a_roll_out_goes_from_the_highest_and_waits_for_each() -> None:
    cluster, running = begin(stateful_set(3))
    grow(cluster, running)
    first = status(cluster)["currentRevision"]
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    assert pod(cluster, "web-2")["metadata"].get("deletionTimestamp")
    assert status(cluster)["currentRevision"] == first != status(cluster)["updateRevision"]
    end(cluster, "web-2")
    running.advance(60)
    assert images(cluster) == {"web-0": "web:1", "web-1": "web:1", "web-2": "web:2"}
    assert not pod(cluster, "web-1")["metadata"].get("deletionTimestamp")
    assert (status(cluster)["currentReplicas"], status(cluster)["updatedReplicas"]) == (2, 1)
    grow(cluster, running)
    assert set(images(cluster).values()) == {"web:2"}
    assert status(cluster)["currentRevision"] == status(cluster)["updateRevision"] != first
    assert [each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)] == [1, 2]


def test_a_partition_keeps_those_below_it_at_the_current_revision() -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    cluster, running = begin(stateful_set(3, updateStrategy=rolling))
    grow(cluster, running)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    grow(cluster, running)
    old_and_new = {"web-0": "web:1", "web-1": "web:1", "web-2": "web:2"}
    assert images(cluster) == old_and_new
    cluster.remove(kinds.PODS, "web-1")
    cluster.remove(kinds.PODS, "web-2")
    grow(cluster, running)
    assert images(cluster) == old_and_new, "also when they are made anew"
    edit(cluster, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    running.run()
    grow(cluster, running)
    assert set(images(cluster).values()) == {"web:2"}


def test_on_delete_updates_what_somebody_deletes() -> None:
    cluster, running = begin(stateful_set(2, updateStrategy={"type": "OnDelete"}))
    grow(cluster, running)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    assert not any(each["metadata"].get("deletionTimestamp") for each in cluster.all(kinds.PODS))
    cluster.remove(kinds.PODS, "web-0")
    grow(cluster, running)
    assert images(cluster) == {"web-0": "web:2", "web-1": "web:1"}


@pytest.mark.parametrize("maximum", [2, "50%", "59%"])
@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_max_unavailable_bounds_how_many_are_down(maximum: Any, policy: str) -> None:
    cluster, running = begin(stateful_set(4, podManagementPolicy=policy, updateStrategy=rolling(maximum)))
    grow(cluster, running)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    assert going(cluster) == ["web-2", "web-3"]
    end(cluster, "web-3")
    running.run()
    ready(cluster, "web-3") if policy == "Parallel" else None
    running.run()
    assert going(cluster) == (["web-1", "web-2"] if policy == "Parallel" else ["web-2"])
    grow(cluster, running)
    assert set(images(cluster).values()) == {"web:2"}


def test_in_parallel_old_pods_that_are_down_go_first() -> None:
    cluster, running = begin(stateful_set(4, podManagementPolicy="Parallel", updateStrategy=rolling(1)))
    grow(cluster, running)
    ready(cluster, "web-0", is_ready=False)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    assert going(cluster) == ["web-0"], "it is down already; another one would be too many"


def test_also_in_parallel_a_roll_out_waits_for_each() -> None:
    cluster, running = begin(stateful_set(3, podManagementPolicy="Parallel"))
    grow(cluster, running)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    end(cluster, "web-2")
    running.run()
    ready(cluster, "web-2", is_ready=False)
    running.run()
    assert going(cluster) == []
    ready(cluster, "web-2")
    running.run()
    assert going(cluster) == ["web-1"]


def test_a_broken_first_revision_can_be_rolled_over_in_parallel() -> None:
    cluster, running = begin(stateful_set(2, podManagementPolicy="Parallel"))
    kubelet(cluster, ready=False)
    running.run()
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    grow(cluster, running)
    assert set(images(cluster).values()) == {"web:2"}


def test_back_to_an_old_template_gives_its_revision_a_new_number() -> None:
    cluster, running = begin(stateful_set(1))
    grow(cluster, running)
    first = status(cluster)["updateRevision"]
    for image in ("web:2", "web:1"):
        edit(cluster, template=template(LABELS, image))
        running.run()
        grow(cluster, running)
    assert status(cluster)["currentRevision"] == status(cluster)["updateRevision"] == first
    assert sorted(each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)) == [2, 3]


def test_history_is_cut_but_for_what_lives() -> None:
    cluster, running = begin(stateful_set(2, revisionHistoryLimit=1))
    grow(cluster, running)
    for number in range(2, 6):
        edit(cluster, template=template(LABELS, f"web:{number}"))
        running.run()
        grow(cluster, running)
    assert sorted(each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)) == [4, 5]
    edit(cluster, revisionHistoryLimit=0, template=template(LABELS, "web:6"))
    running.run()
    assert sorted(each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)) == [5, 6], "web-0 has 5"
    grow(cluster, running)
    assert [each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)] == [6]


def test_a_revision_that_a_pod_has_is_kept_between_two_roll_outs() -> None:
    cluster, running = begin(stateful_set(3, revisionHistoryLimit=0))
    grow(cluster, running)
    edit(cluster, template=template(LABELS, "web:2"))
    running.run()
    end(cluster, "web-2")
    running.run()
    edit(cluster, template=template(LABELS, "web:3"))
    running.run()
    assert images(cluster)["web-2"] == "web:2"
    assert sorted(each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)) == [1, 2, 3]
    grow(cluster, running)
    assert [each["revision"] for each in cluster.all(kinds.CONTROLLER_REVISIONS)] == [3]


def test_a_taken_name_of_a_revision_is_gone_round() -> None:
    cluster, _ = begin(stateful_set(0))
    (mine,) = cluster.all(kinds.CONTROLLER_REVISIONS)
    taken = Cluster()
    taken.add(
        kinds.CONTROLLER_REVISIONS,
        {"metadata": {"name": mine["metadata"]["name"]}, "data": {"spec": {}}, "revision": 1},
    )
    taken.add(kinds.STATEFUL_SETS, stateful_set(1))
    taken.settle(StatefulSetController())
    assert status(taken)["collisionCount"] == 1
    assert status(taken)["updateRevision"] != mine["metadata"]["name"]
    assert len(taken.all(kinds.CONTROLLER_REVISIONS)) == 2 and names(taken) == ["web-0"]

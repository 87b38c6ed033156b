"""Evenness, compared with and without the pod."""

import pytest

from raykube.scheduler.core.arguments import DEFAULTS
from tests.scheduler.objects import node, pod
from tests.scheduler.scores.score_of import cluster, run, scores

NAME = "NodeResourcesBalancedAllocation"
GPU = "example.com/gpu"


def test_what_changes_nothing_is_75() -> None:
    found = cluster(node("a", "4", "4Gi"))
    assert scores(found, pod("p", "1", "1Gi"), NAME) == {"a": 75}


def test_at_worst_50_and_at_best_100() -> None:
    found = cluster(node("a", "4", "4Gi"))
    assert scores(found, pod("p", "4"), NAME) == {"a": 50}
    run(found, pod("q", "4"), "a")
    assert scores(found, pod("p", memory="4Gi"), NAME) == {"a": 100}


def test_three_resources_by_their_standard_deviation() -> None:
    arguments = DEFAULTS._replace(balanced_resources=("cpu", "memory", GPU))
    found = cluster(node("a", "4", "4Gi", extra={GPU: "4"}), node("b", "4", "4Gi"), arguments=arguments)
    wanted = pod("p", "1", "2Gi", extra={GPU: "3"})
    deviation = ((0.25**2 + 0.25**2) / 3) ** 0.5  # of 1/4, 1/2 and 3/4
    assert scores(found, wanted, NAME) == {"a": pytest.approx(75 - 50 * deviation, abs=0.001)}


def test_pods_that_ask_for_nothing_get_nothing() -> None:
    assert scores(cluster(node("a")), pod("p"), NAME) == {}

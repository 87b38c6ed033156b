"""The three strategies, with the numbers of upstream's documentation and tests."""

import pytest

from raykube.scheduler.core.arguments import (
    DEFAULTS,
    MOST_ALLOCATED,
    REQUESTED_TO_CAPACITY,
    Arguments,
    Point,
    Resource,
)
from tests.scheduler.objects import node, pod
from tests.scheduler.scores.score_of import cluster, run, scores

NAME = "NodeResourcesFit"
GPU = "example.com/gpu"


def packing(*resources: Resource) -> Arguments:
    shape = (Point(0, 0), Point(100, 10))
    return DEFAULTS._replace(strategy=REQUESTED_TO_CAPACITY, shape=shape, fit_resources=resources)


def test_least_allocated_is_the_mean_of_what_is_free() -> None:
    found = cluster(node("a", cpu="4", memory="10Gi"), node("b", cpu="6", memory="10Gi"))
    assert scores(found, pod("p", "3", "5Gi"), NAME) == {"a": (25 + 50) / 2, "b": (50 + 50) / 2}


def test_most_allocated_is_the_mean_of_what_is_used() -> None:
    found = cluster(
        node("a", "4", "10Gi"), node("b", "6", "10Gi"), arguments=DEFAULTS._replace(strategy=MOST_ALLOCATED)
    )
    assert scores(found, pod("p", "3", "5Gi"), NAME) == {"a": (75 + 50) / 2, "b": (50 + 50) / 2}


def test_weights() -> None:
    weighed = (Resource("cpu", 3), Resource("memory", 1))
    found = cluster(node("a", "4", "10Gi"), arguments=DEFAULTS._replace(fit_resources=weighed))
    assert scores(found, pod("p", "3", "5Gi"), NAME) == {"a": (3 * 25 + 50) / 4}


def test_a_pod_without_requests_counts_as_a_small_one() -> None:
    found = cluster(node("a", cpu="1", memory="400Mi"))
    assert scores(found, pod("p"), NAME) == {"a": (90 + 50) / 2}
    run(found, pod("q"), "a")
    assert scores(found, pod("p"), NAME) == {"a": (80 + 0) / 2}


def test_requested_to_capacity_follows_its_shape() -> None:
    # The documentation's example: https://kubernetes.io/docs/concepts/scheduling-eviction/resource-bin-packing/
    arguments = packing(Resource(GPU, 5), Resource("memory", 1), Resource("cpu", 3))
    found = cluster(node("a", "8", "1Gi", extra={GPU: "4"}), arguments=arguments)
    run(found, pod("q", "1", "256Mi", extra={GPU: "1"}), "a")
    wanted = pod("p", "2", "256Mi", extra={GPU: "2"})
    assert scores(found, wanted, NAME) == {"a": round((5 * 75 + 1 * 50 + 3 * 37.5) / 9, 3)}
    # An extended resource that the pod does not ask for is no part of the mean.
    assert scores(found, pod("p", "2", "256Mi"), NAME) == {"a": round((1 * 50 + 3 * 37.5) / 4, 3)}


@pytest.mark.parametrize(("cpu", "expected"), [("1", 20), ("2", 40), ("3", 60), ("4", 80), ("6", 90), ("8", 100)])
def test_a_shape_is_straight_between_its_points(cpu: str, expected: float) -> None:
    shape = (Point(0, 0), Point(50, 8), Point(100, 10))
    arguments = DEFAULTS._replace(strategy=REQUESTED_TO_CAPACITY, shape=shape, fit_resources=(Resource("cpu"),))
    found = cluster(node("a", cpu="8"), arguments=arguments)
    assert scores(found, pod("p", cpu), NAME) == {"a": expected}


def test_what_scores_nothing_is_no_part_of_the_mean() -> None:
    arguments = packing(Resource("cpu"), Resource("ephemeral-storage"))
    found = cluster(node("a", cpu="4", extra={"ephemeral-storage": "10Gi"}), arguments=arguments)
    assert scores(found, pod("p", "2"), NAME) == {"a": 50}


def test_resources_that_are_ignored_do_not_keep_a_pod_away() -> None:
    arguments = DEFAULTS._replace(ignored_resources=frozenset({GPU}), ignored_groups=frozenset({"other.com"}))
    found = cluster(node("a"), arguments=arguments)
    assert set(scores(found, pod("p", extra={GPU: "1", "other.com/x": "1"}), NAME)) == {"a"}
    assert set(scores(found, pod("p", extra={"example.com/fpga": "1"}), NAME)) == set()

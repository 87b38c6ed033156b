"""What a pod asks for at its worst moment."""

from typing import Any

import pytest

from raykube.scheduler.core.requests import AMOUNT_MAX, nonzero, offered, pod_requests

Object = dict[str, Any]
MIB = 1 << 20


def container(cpu: str = "", memory: str = "", limit: str = "", always: bool = False, **extra: str) -> Object:
    requests = {name: text for name, text in {"cpu": cpu, "memory": memory, **extra}.items() if text}
    resources: Object = {"requests": requests} | ({"limits": {"cpu": limit}} if limit else {})
    return {"resources": resources} | ({"restartPolicy": "Always"} if always else {})


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("1"), container("500m")]}, 1500),
        ({"containers": [container(limit="2")]}, 2000),
        ({"containers": [container("100m", limit="2")]}, 100),
        # One init container at a time, before all others.
        ({"containers": [container("1")], "initContainers": [container("3"), container("2")]}, 3000),
        # A side-car runs on: beside the containers, and beside the init containers after it.
        ({"containers": [container("1")], "initContainers": [container("1", always=True), container("3")]}, 4000),
        ({"containers": [container("1")], "initContainers": [container("3"), container("1", always=True)]}, 3000),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
        # The pod's own request stands for all of its containers'; its limit only where nobody asks.
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}}, 4000),
        ({"containers": [container()], "resources": {"limits": {"cpu": "2"}}}, 2000),
        ({"containers": [container("1")], "resources": {"limits": {"cpu": "2"}}}, 1000),
    ],
)
def test_cpu(spec: Object, cpu: int) -> None:
    assert pod_requests(spec)["cpu"] == cpu


def test_other_resources_are_counted_in_whole_units() -> None:
    spec = {"containers": [container(memory="1500m", **{"example.com/gpu": "2"})], "overhead": {"memory": "1Ki"}}
    assert pod_requests(spec) == {"memory": 1026, "example.com/gpu": 2}


def test_containers_that_ask_for_nothing_count_a_little_in_scores() -> None:
    assert nonzero({"containers": [container(), container("1")]}) == (1100, 400 * MIB)
    assert nonzero({"containers": [container()], "resources": {"limits": {"cpu": "2"}}}) == (2000, 200 * MIB)
    assert nonzero({"containers": [container()], "overhead": {"cpu": "1"}}) == (1100, 200 * MIB)


def test_what_no_node_has_is_cut() -> None:
    most = str(2**63 - 1)
    spec = {"containers": [container(most, most), container(most, most, **{"example.com/gpu": most})]}
    assert pod_requests(spec) == {"cpu": AMOUNT_MAX, "memory": AMOUNT_MAX, "example.com/gpu": AMOUNT_MAX}
    assert nonzero(spec) == (AMOUNT_MAX, AMOUNT_MAX)
    spec["resources"] = {"requests": {"cpu": most}}
    spec["overhead"] = {"cpu": most}
    assert pod_requests(spec)["cpu"] == AMOUNT_MAX
    assert nonzero(spec)[0] == AMOUNT_MAX
    assert all(offered(name, most) < AMOUNT_MAX for name in ("cpu", "memory", "example.com/gpu", "pods"))

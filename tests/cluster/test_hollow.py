"""Hollow machines of a cluster on real Ray: added, fewer, moved to another process, gone."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.running import Cluster, running_cluster
from tests.kit.components import pids
from tests.kit.controlplane import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), "--machines", "2", "--hollow", "40") as made:
        yield made


def hollow(cluster: Cluster) -> list[dict[str, Any]]:
    return [row for row in cluster.status()["components"] if row["component"] == "hollow"]


def nodes(cluster: Cluster) -> set[str]:
    return {node["metadata"]["name"] for node in cluster.objects("nodes", "-l", "type=hollow")}


def named(count: int) -> set[str]:
    return {f"hollow-{number:05}" for number in range(count)}


def test_they_are_nodes_beside_the_real_ones(cluster: Cluster) -> None:
    assert nodes(cluster) == named(40)
    (row,) = hollow(cluster)
    assert row["healthy"] and row["detail"].startswith("40 of 40 nodes ready")
    until("all are ready", lambda: cluster.nodes_ready() == 42)


def test_a_killed_actor_comes_back_to_its_machines_and_pods(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=x", "--replicas=30")
    patch = '{"spec": {"template": {"spec": {"nodeSelector": {"type": "hollow"}}}}}'
    cluster.kubectl("patch", "deployment", "web", "-p", patch)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    (before,) = pids(cluster.status, "hollow").values()
    os.kill(before, signal.SIGKILL)
    until("another process plays them", lambda: hollow(cluster)[0]["pid"] not in (0, before))
    cluster.kubectl("scale", "deployment", "web", "--replicas=60")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert nodes(cluster) == named(40)


def test_up_without_the_flag_leaves_them(cluster: Cluster) -> None:
    until("all is healthy", cluster.healthy)
    before = hollow(cluster)[0]["pid"]
    cluster.up()
    assert (hollow(cluster)[0]["pid"], nodes(cluster)) == (before, named(40))


def test_fewer_and_none(cluster: Cluster) -> None:
    cluster.up("--hollow", "25")
    assert nodes(cluster) == named(25)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.up("--hollow", "0")
    assert (nodes(cluster), hollow(cluster)) == (set(), [])
    assert cluster.nodes_ready() == 2

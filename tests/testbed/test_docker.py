"""Machines that have Docker and nothing else: `raykube up` finds it, and runs a CRI server for it on each of them."""

import json
from collections.abc import Iterator

import pytest

from tests.kit.components import pids
from tests.kit.controlplane import until
from tests.testbed import OUTSIDE, Testbed, docker, loss
from tests.testbed.cluster import HostCluster, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    with (
        Testbed(hosts=2, folder=tmp_path_factory.mktemp("bed")) as bed,
        running(bed, *docker.FLAGS, control_plane=1, install=docker.install) as made,
    ):
        yield made


def test_the_doctor_names_what_a_cluster_takes(cluster: HostCluster) -> None:
    hosts = [host.address for host in cluster.hosts]
    command = ["raykube", "doctor", "--ssh-user", "root", "-o", "json", *hosts]
    found = json.loads(cluster.bed.run(OUTSIDE, command, check=False).stdout)
    version = cluster.head.run("docker version --format '{{.Server.Version}}'").stdout.strip()
    for host in hosts:
        (row,) = [row for row in found[host] if row["check"] == "runtime"]
        assert (row["level"], row["detail"]) == ("ok", f"Docker {version}, through raykube cri-docker")


def test_pods_are_docker_s_containers_on_every_machine(cluster: HostCluster) -> None:
    until("all is healthy", cluster.healthy, 60)
    loss.start_workload(cluster)
    for host in cluster.hosts:
        assert "steady" in host.run("docker ps --format '{{.Names}}'").stdout
    versions = {node["status"]["nodeInfo"]["containerRuntimeVersion"] for node in cluster.objects("nodes")}
    assert all(version.startswith("docker://") for version in versions)


def test_pods_of_one_machine_reach_those_of_another(cluster: HostCluster) -> None:
    pods = cluster.objects("pods", "-l", "app=steady")
    first = pods[0]
    other = next(pod for pod in pods if pod["spec"]["nodeName"] != first["spec"]["nodeName"])
    name, address = first["metadata"]["name"], other["status"]["podIP"]
    assert " 0% packet loss" in cluster.kubectl("exec", name, "--", "ping", "-c", "1", "-W", "5", address)


def test_a_killed_cri_server_comes_back_and_containers_go_on(cluster: HostCluster) -> None:
    before = {host.name: loss.containers(host) for host in cluster.hosts}
    killed = pids(cluster.status, "cri-docker")
    assert set(killed) == set(before)
    for machine, pid in killed.items():
        cluster.bed.run(machine, ["kill", "-9", str(pid)])

    def back() -> bool:
        found = [row for row in cluster.status().get("components", []) if row["component"] == "cri-docker"]
        return (
            len(found) == 2
            and all(row["healthy"] for row in found)
            and not set(killed.values()) & {row["pid"] for row in found}
        )

    until("they are back", back, 60)
    until("all is healthy", cluster.healthy, 60)
    assert {host.name: loss.containers(host) for host in cluster.hosts} == before


def test_status_says_that_docker_is_away(cluster: HostCluster) -> None:
    host = cluster.hosts[1]
    host.run("kill -STOP $(pgrep -x dockerd)")

    def told() -> bool:
        rows = cluster.status().get("components", [])
        found = {row["machine"]: row["healthy"] for row in rows if row["component"] == "cri-docker"}
        return found == {cluster.head.name: True, host.name: False}

    try:
        until("it is told", told, 60)
    finally:
        host.run("kill -CONT $(pgrep -x dockerd)")
    until("all is healthy", cluster.healthy, 60)


def test_the_end_leaves_no_container(cluster: HostCluster) -> None:
    done = cluster.raykube("down")
    assert done.returncode == 0, done.stderr
    for host in cluster.hosts:
        assert host.run("docker ps -a -q").stdout == ""

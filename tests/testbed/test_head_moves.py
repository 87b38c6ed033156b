"""Ray's head is lost for good, and moves to another machine with what Redis kept, as README's "Ray's head" says."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.controlplane import until
from tests.testbed import OUTSIDE, Host, Testbed, loss, ray, redis
from tests.testbed.bed import NETWORK
from tests.testbed.cluster import HostCluster, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

ADDRESS = f"{NETWORK}.100"  # the head's own, which moves with it
GCS = f"{ADDRESS}:{ray.PORT}"
PASSWORD = "of-redis"
PATIENCE = ("--extra-config", "steward.replace-after=20s")


def take_address(host: Host) -> None:
    """Gives a host the head's address, and tells its neighbours."""
    host.run(f"ip addr add {ADDRESS}/24 dev eth0 && busybox arping -U -c 2 -I eth0 {ADDRESS} >/dev/null")


def with_redis(server: str) -> str:
    return f"--gcs-storage redis --redis-address {server} --redis-password-file /root/redis-password"


def unwell(cluster: HostCluster) -> set[str]:
    """Machines of which a part is not healthy."""
    return {machine for (_, machine), row in rows(cluster).items() if not row["healthy"]}


def rows(cluster: HostCluster) -> dict[tuple[str, str], dict[str, Any]]:
    """What `raykube status` says, by component and machine."""
    return {(row["component"], row["machine"]): row for row in cluster.status().get("components", [])}


def ray_processes(host: Host) -> set[str]:
    """The raylet and the actors of a host, by pid."""
    return set(host.run("pgrep -f '^ray::[^IDR]|/raylet '", check=False).stdout.split())


def pods(hosts: list[Host]) -> dict[str, set[tuple[int, int]]]:
    return {host.name: loss.containers(host) for host in hosts}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    with Testbed(hosts=4, folder=tmp_path_factory.mktemp("bed")) as bed:
        server = redis.install(bed.hosts[OUTSIDE], PASSWORD)
        for host in bed.hosts.values():
            (host.disk / "root" / "redis-password").write_text(PASSWORD)
        take_address(bed.hosts["host1"])
        with running(bed, *PATIENCE, gcs=GCS, head_flags=with_redis(server)) as made:
            loss.start_workload(made)
            yield made


def test_the_head_moves_and_nothing_else_does(cluster: HostCluster) -> None:
    bed, (lost, *others) = cluster.bed, cluster.hosts
    members = {machine for component, machine in rows(cluster) if component == "kv"}
    # The record of a cluster is where its store is; the head goes where there is none of it.
    others.sort(key=lambda host: host.name not in members)
    new = others[-1]
    before, actors = pods(others), {host.name: ray_processes(host) for host in others}
    with loss.writing(cluster) as client:
        time.sleep(loss.CALM_S)
        bed.kill(lost.name)
        away = time.monotonic()
        cluster.head = others[0]
        until("the others are well", lambda: unwell(cluster) == {lost.name}, report=cluster.report)
        told = rows(cluster)
        assert {("pod-network", host.name) for host in others} <= told.keys()
        assert [row["role"] for (component, _), row in told.items() if component == "kv"].count("leader") == 1
        assert "Ray's head" in cluster.status()["note"]

        ray.end(new)
        take_address(new)
        ray.at_boot(new, f"--head {with_redis(f'{bed.hosts[OUTSIDE].address}:{redis.PORT}')}")
        ray.wait(new, 2)
        cluster.head = new
        cluster.up()
        alive = {host.name for host in others}

        def whole() -> bool:
            store = {machine for (component, machine), row in rows(cluster).items() if component == "kv"}
            return store == alive and not unwell(cluster) & alive

        until("the others have all there is of the control plane", whole, 300, cluster.report)
        sys.stderr.write(f"\nthe head on {new.name}, all well after {time.monotonic() - away:.1f} s\n")
        time.sleep(loss.CALM_S)
        stored = client.finish()
        names = [str(each["write"]) for each in client.acknowledged()]
    assert names
    assert [name for name in names if name not in stored] == [], "acknowledged writes are gone"
    kept = pods(others)
    assert all(before[name] <= kept[name] for name in before), "pods are not the same processes"
    for host in others[:-1]:
        assert actors[host.name] <= ray_processes(host), f"{host.name} began anew"


def test_the_old_head_comes_back_as_a_machine_like_others(cluster: HostCluster) -> None:
    host = cluster.hosts[0]
    before = pods(cluster.hosts[1:])
    ray.forget(host)
    cluster.bed.boot(host.name)
    ray.at_boot(host, f"--address {GCS}")
    until("all is healthy", cluster.healthy, 180, cluster.report)
    kept = pods(cluster.hosts[1:])
    assert all(before[name] <= kept[name] for name in before), "pods are not the same processes"


def test_the_end_is_everybody_s(cluster: HostCluster) -> None:
    done = cluster.raykube("down", "--ray")
    assert done.returncode == 0, done.stderr
    for host in cluster.hosts:
        until(f"no Ray is left on {host.name}", lambda: not ray_processes(host), 30)  # noqa: B023
        assert host.run("ls -A /var/lib/cni/networks", check=False).stdout == "", "addresses of pods that are gone"
    done = cluster.raykube("status")
    assert (done.returncode, done.stdout) == (1, "Cluster raykube is stopped: 'raykube up' starts it\n")

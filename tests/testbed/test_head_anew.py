"""Ray's head lost its disk: Ray begins anew around the pods, as README's "Ray's head" says; and a cluster's end."""

import shutil
import sys
import time
from collections.abc import Iterator

import pytest

from tests.kit.controlplane import until
from tests.testbed import Host, Testbed, containerd, loss, ray
from tests.testbed.cluster import HostCluster, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

PATIENCE = ("--extra-config", "steward.replace-after=20s")


def pods(hosts: list[Host]) -> dict[str, set[tuple[int, int]]]:
    return {host.name: loss.containers(host) for host in hosts}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    with Testbed(hosts=3, folder=tmp_path_factory.mktemp("bed")) as bed, running(bed, *PATIENCE) as made:
        loss.start_workload(made)
        yield made


def test_ray_begins_anew_around_the_pods(cluster: HostCluster) -> None:
    lost, *others = cluster.hosts
    before = pods(others)
    with loss.writing(cluster) as client:
        time.sleep(loss.CALM_S)
        cluster.bed.kill(lost.name)
        away = time.monotonic()
        for folder in ("var/lib/raykube", "root/.local", "root/.kube"):
            shutil.rmtree(lost.disk / folder, ignore_errors=True)
        cluster.bed.boot(lost.name)
        ray.wait(lost, 2)
        cluster.up("--existing")
        sys.stderr.write(f"\nup after {time.monotonic() - away:.1f} s\n")
        until("all is healthy", cluster.healthy, 240)
        sys.stderr.write(f"all well after {time.monotonic() - away:.1f} s\n")
        time.sleep(loss.CALM_S)
        stored = client.finish()
        names = [str(each["write"]) for each in client.acknowledged()]
    assert [name for name in names if name not in stored] == [], "acknowledged writes are gone"
    kept = pods(others)
    assert all(before[name] <= kept[name] for name in before), "pods are not the same processes"
    # Not at once: of a member that does not answer in time it is not known whether it is well.
    until("a machine may be lost again", lambda: cluster.status().get("failures_tolerated") == 1, 30)


def test_down_tells_what_stays_and_goes_on_with_it(cluster: HostCluster) -> None:
    """One machine's containerd does not run meanwhile; its containers do."""
    _, host, other = cluster.hosts
    host.run("kill $(pgrep -x containerd)")
    host.wait_for("! pgrep -x containerd")
    done = cluster.raykube("down", "--ray")
    assert done.returncode == 1
    assert f"kubelet-{host.name}: the runtime does not tell which pods run" in done.stderr
    assert "run 'raykube down' again" in done.stderr
    assert other.name not in done.stderr
    assert loss.containers(host)
    assert not loss.containers(other)

    host.run("setsid containerd >>/var/log/containerd.log 2>&1 </dev/null &")
    containerd.wait(host)
    done = cluster.raykube("down", "--ray")
    assert done.returncode == 0, done.stderr
    assert not loss.containers(host)
    for each in cluster.hosts:
        assert each.run("nft list tables | grep raykube; pgrep -x raylet", check=False).stdout == ""

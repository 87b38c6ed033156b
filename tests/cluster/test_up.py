"""A cluster on real Ray: brought up, used by real kubectl, hurt in every place, brought back, taken down.

One cluster of three machines serves all tests, in their order: each leaves it as healthy as it found it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.cluster import processes, ray_nodes, state
from tests.cluster.running import NAME, Cluster, running_cluster
from tests.kit.components import pids
from tests.kit.controlplane import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "web.yaml"


def listening_ports(cluster: state.ClusterState) -> list[str]:
    """The ports that something listens on at the cluster's addresses."""
    own = {f"{last:02X}00{cluster.subnet:02X}7F" for last in range(1, len(cluster.machines) + 2)}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[1][:8] in own and row[3] == "0A"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), "--machines", "3", "--control-plane", "3") as made:
        yield made


def test_every_component_is_there_and_healthy(cluster: Cluster) -> None:
    status = cluster.status()
    assert status["healthy"], status
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in status["components"]:
        by_kind.setdefault(row["component"], []).append(row)
    assert {kind: len(rows) for kind, rows in by_kind.items()} == dict.fromkeys(
        ("kv", "apiserver", "router", "controller-manager", "scheduler", "kubelet", "kube-proxy"), 3
    )
    assert sorted(row["role"] for row in by_kind["kv"]) == ["follower", "follower", "leader"]
    assert sorted(row["role"] for row in by_kind["scheduler"]) == ["leader", "standby", "standby"]
    assert sorted(row["role"] for row in by_kind["controller-manager"]) == ["leader", "standby", "standby"]
    assert len({row["pid"] for row in status["components"]}) == len(status["components"])
    assert status["failures_tolerated"] == 1


def test_the_kubeconfig_is_private_and_names_the_context(cluster: Cluster) -> None:
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert cluster.kubectl("config", "current-context").strip() == f"raykube-{NAME}"
    assert cluster.nodes_ready() == 3


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    before = {(row["component"], row["machine"]): row["pid"] for row in cluster.status()["components"]}
    cluster.up()
    assert {(row["component"], row["machine"]): row["pid"] for row in cluster.status()["components"]} == before


def test_up_gives_renewed_certificates_to_what_runs(cluster: Cluster) -> None:
    before = {(row["component"], row["machine"]): row["pid"] for row in cluster.status()["components"]}
    made = cluster.data_dir / "pki"
    old = (made / "kv.crt").read_bytes()
    (made / "kv.crt").unlink()
    cluster.up()
    assert (made / "kv.crt").read_bytes() != old
    for machine in cluster.state().machines:
        for name in ("kv.crt", "kv.key"):
            assert (cluster.data_dir / "machines" / machine.name / "pki" / name).read_bytes() == (
                made / name
            ).read_bytes()
    assert {(row["component"], row["machine"]): row["pid"] for row in cluster.status()["components"]} == before
    until("all is healthy", cluster.healthy)


def test_a_manifest_runs_and_is_served(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(EXAMPLE))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.kubectl("wait", "job/sums", "--for=condition=Complete", "--timeout=60s")
    assert len(cluster.ready_pods()) == 3
    assert len({pod["spec"]["nodeName"] for pod in cluster.ready_pods()}) == 3
    until("the page is served everywhere", cluster.page_is_served, 20)


READERS = """
import sys
import numpy
import ray
import raykube

ray.init(address=sys.argv[1], log_to_driver=False)
with raykube.Client(sys.argv[2]) as client:
    for machine in sys.argv[3:]:
        make = ray.remote(lambda: numpy.zeros(30_000_000, numpy.uint8))
        reference = make.options(num_cpus=0, label_selector={"raykube.io/machine": machine}).remote()
        ray.wait([reference], fetch_local=False)
        container = {"name": "c", "image": "any", "command": ["true"]}
        annotations = raykube.inputs([reference])
        assert annotations, f"Ray names no place of the object on {machine}"
        metadata = {"name": f"reads-{machine}", "namespace": "default", "annotations": annotations}
        spec = {"restartPolicy": "Never", "containers": [container]}
        client.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        client.wait(f"pod/reads-{machine}", "PodScheduled")
        print(machine, client.get("pods", f"reads-{machine}").spec["nodeName"])
        client.delete("pods", f"reads-{machine}")
        del reference
"""


def test_pods_go_where_rays_objects_lie(cluster: Cluster) -> None:
    until("three nodes are ready", lambda: cluster.nodes_ready() == 3)
    found = cluster.state()
    machines = [machine.name for machine in found.machines]
    done = subprocess.run(
        [sys.executable, "-c", READERS, found.gcs_address, str(cluster.kubeconfig), *machines],
        env=os.environ | ray_nodes.ray_environment(cluster.data_dir),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [[name, name] for name in machines]


@pytest.mark.parametrize(
    "component", ["kv", "apiserver", "router", "controller-manager", "scheduler", "kubelet", "kube-proxy"]
)
def test_a_killed_component_comes_back_and_nothing_else_moves(cluster: Cluster, component: str) -> None:
    starts = {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        for pod in cluster.ready_pods()
    }
    victim = pids(cluster.status, component)[f"{NAME}-1"]
    name = f"before-{component}"
    cluster.kubectl("create", "configmap", name, "--from-literal=a=b")
    os.kill(victim, signal.SIGKILL)

    def back() -> bool:
        row = cluster.component(component, 1)
        return bool(row["healthy"] and row["pid"] not in (0, victim))

    until(f"{component} is back", back)
    until("kubectl works", cluster.kubectl_works, 20)
    assert cluster.kubectl("get", "configmap", name, "-o", "jsonpath={.data.a}") == "b"
    until("all is healthy", cluster.healthy)
    until("the page is served", cluster.page_is_served, 30)
    until("three pods are ready", lambda: len(cluster.ready_pods()) == 3, 30)
    now = {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        for pod in cluster.ready_pods()
    }
    assert now == starts, "containers outlive every component"


def unwell(cluster: Cluster) -> set[str]:
    """Machines of which a part is not healthy."""
    return {row["machine"] for row in cluster.status()["components"] if not row["healthy"]}


@pytest.mark.parametrize("number", [3, 2, 1], ids=["third", "second", "head"])
def test_a_killed_machine_is_survived_and_comes_back(cluster: Cluster, number: int) -> None:
    cluster.kubectl("create", "configmap", f"before-machine-{number}", "--from-literal=a=b")
    victim = cluster.kill_machine(number)
    until("kubectl works without it", cluster.kubectl_works, 30)
    if number == 1:
        until("the others are known to be well, without Ray's head", lambda: unwell(cluster) == {victim.name}, 30)
    cluster.kubectl("create", "configmap", f"after-machine-{number}", "--from-literal=a=b")

    def healed() -> bool:
        pods = cluster.ready_pods()
        return len(pods) == 3 and all(pod["spec"]["nodeName"] != victim.name for pod in pods)

    until("its pods run elsewhere", healed, 120)
    others = tuple(n for n in (1, 2, 3) if n != number)
    until("the page is served", lambda: cluster.page_is_served(others), 30)
    cluster.up()
    until("all is healthy", cluster.healthy)
    until("three nodes are ready", lambda: cluster.nodes_ready() == 3, 60)
    for when in ("before", "after"):
        assert cluster.kubectl("get", "configmap", f"{when}-machine-{number}", "-o", "jsonpath={.data.a}") == "b"


def test_down_leaves_nothing_and_up_brings_it_back(cluster: Cluster) -> None:
    before = {item["metadata"]["uid"] for item in cluster.objects("configmaps")}
    identifier, scratch = cluster.state().id, cluster.state().scratch_dir
    done = cluster.raykube("down")
    assert done.returncode == 0, done.stderr
    assert list(processes.find(identifier)) == []
    assert not scratch.exists()
    assert f"raykube-{NAME}" not in cluster.kubeconfig.read_text()
    # A killed process gives up its sockets a moment after it has left the list of processes.
    until("no port is left", lambda: not listening_ports(cluster.state()), 5)

    cluster.up()
    assert {item["metadata"]["uid"] for item in cluster.objects("configmaps")} == before
    until("the workload is back", lambda: len(cluster.ready_pods()) == 3, 120)
    until("the page is served", cluster.page_is_served, 30)


def test_status_and_up_say_what_is_wrong_in_one_line(cluster: Cluster) -> None:
    for arguments, message in (
        (["up", "--control-plane", "1"], "give --control-plane 3"),
        (["up", "--machines", "1", "--control-plane", "1"], "give --control-plane 3"),
        (["up", "--extra-config", "kubelet.no-such-flag=1"], "--no-such-flag"),
    ):
        done = cluster.raykube(*arguments)
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert done.stderr.startswith("raykube: ")
        assert "Traceback" not in done.stderr

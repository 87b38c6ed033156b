"""Statistics and metrics: what the pages say, and `kubectl top` over a real kubelet."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import quantity
from raykube.apiserver.core.resourcemetrics import FRESH_S_MAX, Point, Reading, UsageStore, parse
from raykube.kubelet.core.exposition import cadvisor, resource
from raykube.kubelet.core.summary import summary
from raykube.kubelet.core.usage import (
    ContainerUsage,
    Cpu,
    Filesystem,
    Interface,
    Memory,
    Network,
    NodeUsage,
    PodUsage,
    Sample,
    with_rates,
)
from raykube.kubelet.counted import operation
from tests.kit.controlplane import ControlPlane, until

DISK = Filesystem(100.0, 60, 6, 100, 40, 10, 4)


def sample(at: float, cpu_ns: int, name: str = "c", memory: int = 4096) -> Sample:
    container = ContainerUsage("id", name, 0, "img", 50.0, Cpu(at, cpu_ns), Memory(at, memory), DISK, DISK)
    network = Network(at, (Interface("eth0", 1, 2, 3, 4),))
    pod = PodUsage(
        "u", "p", "ns", "s", 50.0, Cpu(at, cpu_ns), Memory(at, memory), network, 3, (container,), {"v": DISK}
    )
    node = NodeUsage(1.0, Cpu(at, 10 * cpu_ns), Memory(at, 2**30, available=2**20), 2**31, DISK, DISK, 7, 1000)
    return Sample(node, (pod,))


def test_rates_come_from_two_samples() -> None:
    later = with_rates(sample(102.0, 3_000_000_000), sample(100.0, 1_000_000_000))
    assert later.pods[0].containers[0].cpu == Cpu(102.0, 3_000_000_000, 1_000_000_000)
    assert later.node.cpu.nano_cores == 10_000_000_000
    restarted = with_rates(sample(104.0, 5), later)
    assert restarted.pods[0].cpu == Cpu(104.0, 5, None)


def test_summary_says_what_upstreams_does() -> None:
    shown = summary(sample(100.0, 7), "n1")
    (pod,) = shown["pods"]
    assert pod["podRef"] == {"name": "p", "namespace": "ns", "uid": "u"}
    assert pod["process_stats"] == {"process_count": 3}
    assert pod["network"]["name"] == "eth0"
    assert pod["ephemeral-storage"]["usedBytes"] == 180  # writable layer, log, volume
    assert pod["volume"][0]["name"] == "v"
    assert pod["containers"][0]["rootfs"]["availableBytes"] == 40
    assert shown["node"]["rlimit"]["maxpid"] == 1000
    only = summary(sample(100.0, 7), "n1", only_cpu_and_memory=True)
    assert set(only["node"]) == {"nodeName", "startTime", "cpu", "memory"}
    assert set(only["pods"][0]) == {"podRef", "startTime", "containers", "cpu", "memory"}


def test_cadvisor_names_pods_and_containers() -> None:
    lines = cadvisor(sample(100.0, 2_000_000_000)).splitlines()
    mine = [line for line in lines if line.startswith("container_cpu_usage_seconds_total")]
    assert len(mine) == 3  # the machine, the pod, the container
    assert mine[2].endswith('name="id",namespace="ns",pod="p"} 2 100000')


@given(
    st.integers(0, 10**15),
    st.integers(0, 2**50),
    st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8),
)
def test_what_a_kubelet_writes_is_what_an_apiserver_reads(cpu_ns: int, memory: int, name: str) -> None:
    if name.splitlines() != [name]:
        return  # no name of a container has one
    page = parse(resource(sample(1234.5, cpu_ns, name, memory)))
    assert page.pods == {("ns", "p"): {name: Point(1234.5, cpu_ns / 1e9, memory, 50.0)}}
    assert page.node == Point(1234.5, 10 * cpu_ns / 1e9, 2**30)


def test_a_page_of_nonsense_is_an_empty_one() -> None:
    assert parse("<html>\ncontainer_cpu_usage_seconds_total{} x\nnode_cpu_usage_seconds_total\n\0") == Reading()
    assert parse(resource(None)) == Reading()


def point(at: float, cpu_s: float, started_at: float = 1.0) -> Reading:
    return Reading(Point(at, cpu_s, 100), {("ns", "p"): {"c": Point(at, cpu_s, 100, started_at)}})


def test_use_is_known_after_two_readings() -> None:
    store = UsageStore()
    store.put("n", point(1000, 5))
    assert store.node("n", 1001) is None
    assert store.pod("n", "ns", "p", 1001) is None
    store.put("n", point(1000, 5))  # the same sample again
    assert not store.has("n")
    store.put("n", point(1015, 8))
    usage = store.node("n", 1016)
    assert usage is not None
    assert (usage.window_s, usage.cpu) == (15, 0.2)
    assert usage.amounts() == {"cpu": "200m", "memory": "100"}
    assert store.pod("n", "ns", "p", 1016) is not None
    assert store.node("n", 1015 + 91) is None  # too old to be told
    store.put("n", Reading(point(1030, 9).node))
    assert store.pod("n", "ns", "p", 1031) is None  # gone from the page
    store.keep(set())
    assert store.node("n", 1031) is None


def test_a_container_is_measured_from_its_start_while_it_is_young() -> None:
    store = UsageStore()
    store.put("n", point(1000, 5, started_at=980))
    found = store.pod("n", "ns", "p", 1000)
    assert found is not None
    assert (found["c"].cpu, found["c"].window_s) == (0.25, 20)
    store.put("n", point(1015, 1, started_at=1010))  # restarted 5 s ago
    assert store.pod("n", "ns", "p", 1015) is None
    store.put("old", point(1000, 5, started_at=1000 - FRESH_S_MAX))
    assert store.pod("old", "ns", "p", 1000) is None


@pytest.mark.parametrize(
    ("method", "name"),
    [("RunPodSandbox", "run_podsandbox"), ("ListPodSandboxStats", "list_podsandbox_stats"), ("Version", "version")],
)
def test_names_of_runtime_operations(method: str, name: str) -> None:
    assert operation(method) == name


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        plane.kubectl("run", "idle", "--image=any", "-l", "app=idle", "--command", "--", "sleep", "1000")
        busy = "while :; do :; done"
        plane.kubectl("run", "busy", "--image=any", "-l", "app=busy", "--command", "--", "nice", "sh", "-c", busy)
        plane.kubectl("wait", "--for=condition=Ready", "pod/idle", "pod/busy", "--timeout=60s")
        yield plane


def _shows_both(plane: ControlPlane) -> bool:
    return len(plane.kubectl_run("top", "pods", "--no-headers").stdout.splitlines()) == 2


@pytest.mark.integration
def test_the_kubelets_own_metrics(plane: ControlPlane) -> None:
    (node,) = plane.objects("nodes")
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    address = node["status"]["addresses"][0]["address"]
    context = ssl.create_default_context(cafile=str(plane.data_dir / "pki" / "ca.crt"))
    context.load_cert_chain(plane.data_dir / "pki" / "admin.crt", plane.data_dir / "pki" / "admin.key")

    def read(path: str) -> str:
        with urllib.request.urlopen(f"https://{address}:{port}{path}", context=context) as answer:
            return str(answer.read().decode())

    page = read("/metrics")
    assert 'kubelet_runtime_operations_total{operation_type="run_podsandbox"} 2' in page
    assert "\nkubelet_running_pods 2\n" in page
    assert 'container_memory_working_set_bytes{container="busy",namespace="default",pod="busy"}' in read(
        "/metrics/resource"
    )
    assert 'container="idle"' in read("/metrics/cadvisor")
    shown = json.loads(read("/stats/summary"))
    assert {pod["podRef"]["name"] for pod in shown["pods"]} == {"busy", "idle"}
    assert all(pod["containers"][0]["logs"]["inodesUsed"] >= 1 for pod in shown["pods"])


@pytest.mark.integration
def test_kubectl_top(plane: ControlPlane) -> None:
    until("use of both pods", lambda: _shows_both(plane))
    names = [line.split()[0] for line in plane.kubectl("top", "pods", "--sort-by=cpu", "--no-headers").splitlines()]
    assert names == ["busy", "idle"]
    assert int(plane.kubectl("top", "pod", "busy", "--no-headers").split()[1].removesuffix("m")) > 10
    assert plane.kubectl("top", "pod", "idle", "--containers", "--no-headers").split()[:2] == ["idle", "idle"]
    assert plane.kubectl("top", "pod", "-A", "-l", "app=idle", "--no-headers").split()[:2] == ["default", "idle"]
    (node,) = plane.kubectl("top", "node", "--no-headers").splitlines()
    assert node.split()[0] == "plane-1"
    assert node.split()[2].endswith("%")
    assert "pods.metrics.k8s.io" in plane.kubectl("api-resources", "--api-group=metrics.k8s.io", "-o", "name")
    assert plane.kubectl("get", "nodes.metrics.k8s.io").splitlines()[0].split() == ["NAME", "CPU", "MEMORY", "WINDOW"]
    missing = plane.kubectl_run("top", "pod", "none")
    assert 'pods "none" not found' in missing.stderr
    raw = json.loads(plane.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/busy"))
    assert raw["kind"] == "PodMetrics"
    (container,) = raw["containers"]
    assert quantity.parse(container["usage"]["cpu"]) > Fraction(1, 100)
    refused = plane.kubectl_run("delete", "nodes.metrics.k8s.io", "plane-1")
    assert "MethodNotAllowed" in refused.stderr or "does not allow this method" in refused.stderr

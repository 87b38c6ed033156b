"""A host's containerd runs pods that other hosts reach; both come back after a power cut."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import images
from tests.testbed import OUTSIDE, Host, Testbed, containerd
from tests.testbed.traces import Traces, traces

pytestmark = pytest.mark.integration

POD = """
import asyncio, json, sys
from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2

async def main(image, *command):
    cri = Cri("unix:///run/containerd/containerd.sock", "test", 30)
    linux = cri_pb2.LinuxPodSandboxConfig(cgroup_parent="/kubepods/podweb")
    config = cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(name="web", namespace="default", uid="web", attempt=1),
        labels={"raykube.io/node": "test"}, log_directory="/var/log/pods", linux=linux)
    sandbox = await cri.run_sandbox(config)
    limits = cri_pb2.LinuxContainerConfig(resources=cri_pb2.LinuxContainerResources(memory_limit_in_bytes=50 << 20))
    container = await cri.create_container(sandbox, cri_pb2.ContainerConfig(
        metadata=cri_pb2.ContainerMetadata(name="web"), image=cri_pb2.ImageSpec(image=image), command=command,
        log_path="web.log", linux=limits), config)
    await cri.start_container(container)
    status = await cri._runtime.PodSandboxStatus(cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox), timeout=30)
    print(json.dumps({"ip": status.status.network.ip, "container": container}))
    await cri.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def bed(bed: Testbed) -> Testbed:
    """Its hosts, without "outside", have containerd and a pod network."""
    hosts = [host for name, host in bed.hosts.items() if name != OUTSIDE]
    containerd.install(*hosts)
    containerd.connect_pods(*hosts)
    return bed


def serve_page(host: Host) -> str:
    """Starts a pod that serves the host's name; returns its address."""
    serve = f"mkdir /www; echo {host.name} > /www/index.html; exec httpd -f -p 80 -h /www"
    done = host.run(["python", "-c", POD, images.BUSYBOX, "sh", "-c", serve])
    return str(json.loads(done.stdout)["ip"])


def page(host: Host, address: str) -> str:
    return host.run(f"exec 3<>/dev/tcp/{address}/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -1 <&3").stdout


def test_pods_of_one_host_are_reached_from_the_other(bed: Testbed) -> None:
    for here, there in (("host1", "host2"), ("host2", "host1")):
        address = serve_page(bed.hosts[here])
        assert address.rpartition(".")[0] == containerd.pod_cidr(bed.hosts[here]).rpartition(".")[0]
        assert page(bed.hosts[there], address) == f"{here}\n"


def test_containers_are_in_the_control_groups_of_their_host(bed: Testbed) -> None:
    limits = [
        path.read_text().strip()
        for group in bed.hosts["host1"].groups
        for path in Path(group).glob("kubepods/podweb/*/memory.*")
        if path.name in ("memory.limit_in_bytes", "memory.max")
    ]
    assert str(50 << 20) in limits


def test_a_power_cut_ends_pods_and_keeps_images(bed: Testbed) -> None:
    host = bed.hosts["host1"]
    bed.kill("host1")
    bed.boot("host1")
    containerd.wait(host)
    assert "RUNNING" not in host.run("ctr -n k8s.io tasks ls").stdout
    assert images.BUSYBOX in host.run("ctr -n k8s.io images ls -q").stdout.split()


@pytest.fixture
def remains(tmp_path: Path) -> Iterator[Traces]:
    """Of a testbed with a pod, after its end."""
    with Testbed(hosts=1, folder=tmp_path) as bed:
        host = bed.hosts["host1"]
        containerd.install(host)
        containerd.connect_pods(host)
        serve_page(host)
        made = traces(bed)
        assert any("httpd" in each for each in made.left())
    yield made


def test_pods_leave_nothing(remains: Traces) -> None:
    assert remains.left() == []

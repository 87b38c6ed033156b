"""What a pod on containerd lives in: namespaces, names, DNS, hosts, ports, kernel parameters, control groups."""

import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.kit import images
from tests.kit.waiting import until
from tests.kubelet.conftest import Object, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration

RESOLV_CONF = "nameserver 192.0.2.53\nsearch corp.example lan\noptions rotate timeout:1\n"


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    return {
        "cluster_dns": ["10.96.0.10"],
        "cluster_domain": "cluster.test",
        "resolv_conf": tmp_path / "resolv.conf",
        "allowed_unsafe_sysctls": ["net.core.*"],
    }


async def said(node: ContainerdNode, name: str, script: str, **spec: Any) -> str:
    """What a pod says that runs `script` to its end."""
    extra = spec.pop("container", {})
    await node.pod(name, shell(script, **extra), restartPolicy="Never", **spec)
    await node.phase(name, "Succeeded")
    return node.log(name)


async def test_names(node: ContainerdNode) -> None:
    assert await said(node, "plain", "hostname; hostname -f") == "plain\nplain\n"
    named = await said(node, "named", "hostname; hostname -f", hostname="host", subdomain="sub")
    assert named == "host\nhost.sub.default.svc.cluster.test\n"
    full = await said(node, "full", "hostname", hostname="host", subdomain="sub", setHostnameAsFQDN=True)
    assert full == "host.sub.default.svc.cluster.test\n"
    await node.pod("long", shell("true"), hostname="h" * 40, subdomain="s" * 40, setHostnameAsFQDN=True)
    await node.event("FailedCreatePodSandBox", "Failed to create pod sandbox: failed to construct FQDN")


async def test_hosts(node: ContainerdNode) -> None:
    text = await said(
        node,
        "hosts",
        "cat /etc/hosts",
        hostname="host",
        subdomain="sub",
        hostAliases=[{"ip": "192.0.2.7", "hostnames": ["one.test", "two.test"]}],
    )
    pod = await node.phase("hosts", "Succeeded")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert f"\n{pod['status']['podIP']}\thost.sub.default.svc.cluster.test\thost\n" in text
    assert text.endswith("\n\n# Entries added by HostAliases.\n192.0.2.7\tone.test\ttwo.test\n")
    text = await said(node, "machine", "cat /etc/hosts", hostNetwork=True)
    assert text == "# Kubernetes-managed hosts file (host network).\n" + Path("/etc/hosts").read_text()


CLUSTER_LINES = (
    "search default.svc.cluster.test svc.cluster.test cluster.test corp.example lan\n"
    "nameserver 10.96.0.10\noptions ndots:5\n"
)
MACHINE_LINES = "search corp.example lan\nnameserver 192.0.2.53\noptions rotate timeout:1\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, CLUSTER_LINES),
        ({"dnsPolicy": "Default"}, MACHINE_LINES),
        ({"hostNetwork": True}, MACHINE_LINES),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER_LINES),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["192.0.2.1"],
                    "searches": ["own.test"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
                },
            },
            "search own.test\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
        ),
    ],
)
async def test_resolv_conf(node: ContainerdNode, spec: Object, expected: str) -> None:
    assert await said(node, "dns", "cat /etc/resolv.conf", **spec) == expected


async def test_namespaces_of_the_machine(node: ContainerdNode) -> None:
    script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ls -d /proc/[0-9]* | wc -l"
    own = (await said(node, "own", script)).split()
    host = (await said(node, "host", script, hostNetwork=True, hostPID=True, hostIPC=True)).split()
    network = Path("/proc/thread-self/ns/net").readlink()
    assert host[0] == str(network) != own[0]
    assert host[1] == str(Path("/proc/self/ns/ipc").readlink()) != own[1]
    assert int(host[2]) > int(own[2])
    pod = await node.phase("host", "Succeeded")
    assert pod["status"]["podIP"] == pod["status"]["hostIP"]


async def test_a_shared_process_namespace(node: ContainerdNode) -> None:
    await node.pod(
        "shared",
        shell("until ps | grep '[s]leep 4242'; do sleep 0.1; done; exec sleep 1000", "watcher"),
        shell("exec sleep 4242", "watched"),
        shareProcessNamespace=True,
    )
    await node.phase("shared", "Running")
    await until(lambda: "sleep 4242" in node.log("shared", "watcher"))


async def test_host_ports(node: ContainerdNode) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = shell(
        "mkdir /www; echo found > /www/index.html; exec httpd -f -p 8080 -h /www",
        ports=[{"containerPort": 8080, "hostPort": port}],
        readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    )
    await node.pod("server", server)
    await node.sees("server", lambda pod: state(pod)["ready"])
    address = "10.77.0.1"  # the machine's, on the bridge

    def get() -> bytes:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as answer:
            return bytes(answer.read())

    assert get() == b"found\n"
    await node.empty()
    with pytest.raises(OSError):
        get()


async def test_sysctls(node: ContainerdNode) -> None:
    sysctls = [
        {"name": "net.ipv4.ip_local_port_range", "value": "4000 5000"},
        {"name": "net.core.somaxconn", "value": "77"},
    ]
    text = await said(
        node,
        "tuned",
        "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/core/somaxconn",
        securityContext={"sysctls": sysctls},
    )
    assert text.split() == ["4000", "5000", "77"]
    unsafe = {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}
    await node.pod("refused", shell("true"), securityContext=unsafe)
    pod = await node.phase("refused", "Failed")
    assert pod["status"]["reason"] == "SysctlForbidden"
    assert pod["status"]["message"] == 'Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted'


async def test_runtime_classes(node: ContainerdNode) -> None:
    for name, handler in (("fast", "second"), ("lost", "no-such-handler")):
        await node.client.create(
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}
        )
    await node.pod(
        "fast", shell("exec sleep 1000"), runtimeClassName="fast", overhead={"cpu": "100m", "memory": "64Mi"}
    )
    pod = await node.phase("fast", "Running")
    # The overhead is the pod's: 100m of a CPU, where its container asks for nothing.
    assert node.cgroup(pod, "cpu", "cpu.shares") == "102"
    await node.pod("lost", shell("true"), runtimeClassName="lost")
    await node.event(
        "FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get"
    )
    await node.pod("none", shell("true"), runtimeClassName="none")
    message = 'Failed to create pod sandbox: failed to get sandbox runtime: runtimeclass.node.k8s.io "none" not found'
    await node.event("FailedCreatePodSandBox", message)


async def test_control_groups(node: ContainerdNode) -> None:
    def sized(**limits: str) -> Object:
        return {"resources": {"limits": limits, "requests": {"cpu": "250m", "memory": "32Mi"}}}

    await node.pod(
        "burstable",
        shell("exec sleep 1000", "one", **sized(cpu="500m", memory="64Mi")),
        shell("exec sleep 1000", "two", **sized(cpu="250m", memory="64Mi")),
    )
    await node.pod("guaranteed", shell("exec sleep 1000", **sized(cpu="250m", memory="32Mi")))
    await node.pod("effort", shell("exec sleep 1000"))
    pod = await node.phase("burstable", "Running")
    assert node.cgroup(pod, "cpu", "cpu.shares") == "512"
    assert node.cgroup(pod, "cpu", "cpu.cfs_quota_us") == "75000"
    assert node.cgroup(pod, "memory", "memory.limit_in_bytes") == str(128 * 1024**2)
    one = state(pod)["containerID"]
    assert node.cgroup(pod, "cpu", "cpu.shares", one) == "256"
    assert node.cgroup(pod, "cpu", "cpu.cfs_quota_us", one) == "50000"
    assert node.cgroup(pod, "memory", "memory.limit_in_bytes", one) == str(64 * 1024**2)
    assert node.place(pod).parent.name == "burstable"
    guaranteed = await node.phase("guaranteed", "Running")
    assert node.place(guaranteed).parent.name == "kubepods"
    effort = await node.phase("effort", "Running")
    assert node.place(effort).parent.name == "besteffort"
    assert node.cgroup(effort, "cpu", "cpu.shares") == "2"
    assert (node.place(effort).parent / "cpu.shares").read_text() == "2\n"
    await node.empty()
    left = [
        path
        for root in Path("/sys/fs/cgroup").iterdir()
        for path in root.glob(f"{node.containerd.cgroup_root[1:]}/**/pod*")
    ]
    assert left == []


async def test_who_is_killed_first_when_memory_runs_out(node: ContainerdNode) -> None:
    text = await said(node, "effort", "cat /proc/self/oom_score_adj")
    assert text.strip() == "1000"
    asks = {"resources": {"requests": {"memory": "1Gi"}}}
    text = await said(node, "burstable", "cat /proc/self/oom_score_adj", container=asks)
    assert 3 <= int(text) < 1000


async def test_an_image_for_its_stop_signal(node: ContainerdNode) -> None:
    image = images.build("example.test/stop:1", stop_signal="SIGUSR1")
    node.containerd.import_image(image)
    script = "trap 'echo usr1; exit 0' USR1; while :; do sleep 0.1; done"
    await node.pod("stops", shell(script, image=image.name, imagePullPolicy="Never"))
    await node.phase("stops", "Running")
    log = next((node.root / "kubelet" / "logs" / "pods").glob("default_stops_*/c")) / "0.log"
    with log.open() as file:  # it is removed with the pod
        await node.empty()
        assert "usr1" in file.read()

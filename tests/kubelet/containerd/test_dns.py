"""Cluster DNS from inside a container: resolv.conf as the kubelet gives it to containerd, and what busybox finds."""

from collections.abc import Iterator

import pytest

from tests.kit.containerd import POD_CIDR, Containerd
from tests.kit.controlplane import ControlPlane, until
from tests.kit.images import BUSYBOX

pytestmark = pytest.mark.integration

GATEWAY = POD_CIDR.replace(".0/24", ".1")  # the machine, as its pods see it
DB = f"""
apiVersion: v1
kind: Pod
metadata: {{name: db-0, labels: {{app: db}}}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: "{BUSYBOX}", command: [sleep, "1000"], ports: [{{name: pg, containerPort: 5432}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec:
  clusterIP: None
  selector: {{app: db}}
  ports: [{{name: pg, port: 5432}}]
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    config = {
        "kubelet": {"cluster-dns": GATEWAY},
        "dns": {"bind-addresses": "0.0.0.0", "port": "53", "forward": "127.0.0.1:9"},
    }
    with (
        Containerd() as containerd,
        ControlPlane(tmp_path_factory.mktemp("plane"), containerd=containerd, extra_config=config) as plane,
    ):
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet", "kube-proxy")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        yield plane


def test_a_container_finds_pods_of_a_headless_service(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=DB)
    plane.kubectl("wait", "--for=condition=Ready", "pod/db-0", "--timeout=60s")
    ip = next(pod for pod in plane.objects("pods") if pod["metadata"]["name"] == "db-0")["status"]["podIP"]
    script = """
        cat /etc/resolv.conf
        until nslookup db-0.db.default.svc.cluster.local; do sleep 0.1; done
        nslookup -type=srv _pg._tcp.db.default.svc.cluster.local
        until ping -c 1 -w 1 db; do sleep 0.1; done
    """
    plane.kubectl("run", "client", f"--image={BUSYBOX}", "--restart=Never", "--command", "--", "sh", "-c", script)
    plane.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", "--timeout=60s")
    lines = plane.kubectl("logs", "client").splitlines()
    assert lines[0].startswith("search default.svc.cluster.local svc.cluster.local cluster.local")
    assert f"nameserver {GATEWAY}" in lines
    assert "options ndots:5" in lines
    assert f"Address: {ip}" in lines
    assert any(line.endswith("5432 db-0.db.default.svc.cluster.local") for line in lines)
    assert any(line.startswith(f"PING db ({ip})") for line in lines)

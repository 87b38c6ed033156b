"""Names as pods see them: their resolv.conf, the libc's resolver, busybox's nslookup."""

import json
import signal
from itertools import count

import pytest

from raykube.cluster.addresses import cluster_dns
from tests.e2e.user import User, until
from tests.kit.require import missing, require_program

pytestmark = pytest.mark.integration

WORLD = """
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: any, command: [sleep, infinity], ports: [{name: pg, containerPort: 5432}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, labels: {app: db}}
spec:
  hostname: db-1
  subdomain: db
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: any, command: [sleep, infinity], ports: [{name: pg, containerPort: 5432}]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: pg, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {app: db}
  ports: [{name: pg, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: front.dns.svc.cluster.local}
"""


@pytest.fixture(scope="module")
def client(user: User) -> User:
    if not cluster_dns(user.plane.state):
        missing("needs to serve port 53")
    user.apply(WORLD)
    user.wait_phase("Running", "db-0", "db-1")
    return user


_numbers = count()


def shell(user: User, script: str) -> str:
    """What a script prints in a pod of its own."""
    name = f"client-{next(_numbers)}"
    command = json.dumps(["sh", "-c", script])
    user.apply(
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: any, command: {command}}}]
"""
    )
    done = user.pod_when(name, "ends", lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"))
    text = user("logs", name)
    assert done["status"]["phase"] == "Succeeded", text
    return text


def resolves(user: User, *names: str) -> list[list[str]]:
    """What a pod's libc finds for each name: its addresses; nothing for a name that there is not."""
    text = shell(user, "; ".join(f"getent ahostsv4 {name} | cut -d' ' -f1; echo --" for name in names))
    return [sorted(set(part.split())) for part in text.split("--\n")[: len(names)]]


def test_resolv_conf_is_as_upstream_writes_it(client: User) -> None:
    lines = shell(client, "cat /etc/resolv.conf").splitlines()
    assert lines[0].startswith("search dns.svc.cluster.local svc.cluster.local cluster.local")
    assert lines[1] == f"nameserver {cluster_dns(client.plane.state)[0]}"
    assert lines[-1] == "options ndots:5"


def test_services_by_short_and_long_names(client: User) -> None:
    ip = client.get("service", "front")["spec"]["clusterIP"]
    names = ["front", "front.dns", "front.dns.svc", "front.dns.svc.cluster.local", "front.dns.svc.cluster.local."]
    until("all names resolve", lambda: resolves(client, *names) == [[ip]] * len(names))
    assert resolves(client, "alias", "nobody", "front") == [[ip], [], [ip]]


def test_the_pods_of_a_headless_service(client: User) -> None:
    one, two = (client.get("pod", name)["status"]["podIP"] for name in ("db-0", "db-1"))
    until("both pods", lambda: resolves(client, "db", "db-1.db") == [sorted([one, two]), [two]])
    client("delete", "pod", "db-1")
    until("one pod", lambda: resolves(client, "db", "db-1.db") == [[one], []])


def test_nslookup(client: User) -> None:
    require_program("busybox")
    ip = client.get("service", "front")["spec"]["clusterIP"]
    text = shell(client, "busybox nslookup front.dns.svc.cluster.local")
    assert f"Address: {ip}" in text
    assert "front.dns.svc.cluster.local" in shell(client, f"busybox nslookup {ip}")
    srv = shell(client, "busybox nslookup -type=srv _pg._tcp.front.dns.svc.cluster.local")
    assert "5432 front.dns.svc.cluster.local" in srv


def test_the_dns_service_is_upstreams(client: User) -> None:
    service = client.plane.objects("services", "-n", "kube-system", "-l", "k8s-app=kube-dns")[0]
    assert service["metadata"]["name"] == "kube-dns"
    assert service["spec"]["clusterIPs"] == cluster_dns(client.plane.state)
    slices = client.plane.objects("endpointslices", "-n", "kube-system", "-l", "kubernetes.io/service-name=kube-dns")
    machines = {machine.name: machine.address for machine in client.plane.state.machines}
    points = [point for each in slices for point in each["endpoints"]]
    assert {point["nodeName"]: point["addresses"][0] for point in points} == machines


def test_a_server_that_stops_leaves_the_service(client: User) -> None:
    """The machine's pods go on with the other machine's server."""
    plane = client.plane
    ip = client.get("service", "front")["spec"]["clusterIP"]

    def servers() -> set[str]:
        found = plane.objects("endpointslices", "-n", "kube-system", "-l", "kubernetes.io/service-name=kube-dns")
        return {point["nodeName"] for each in found for point in each["endpoints"]}

    names = {machine.name for machine in plane.state.machines}
    plane.kill("kube-proxy-plane-2", signal.SIGTERM)
    try:
        assert servers() == {"plane-1"}
        assert resolves(client, "front") == [[ip]]
    finally:
        plane.start("kube-proxy-plane-2")
    until("both serve", lambda: servers() == names)
    assert resolves(client, "front") == [[ip]]

"""Services, DNS and NetworkPolicy between real machines: from pods, machines and a host outside the cluster, with and
without a kube-proxy that runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.controlplane import until
from tests.testbed import Host, Testbed
from tests.testbed.cluster import HostCluster, running

pytestmark = [pytest.mark.integration, pytest.mark.ray, pytest.mark.timeout(900)]

READY_S = 150
MANIFEST = (Path(__file__).parent / "testdata" / "services.yaml").read_text()
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]
"""
ASK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
try:
    with socket.create_connection((host, port), 3) as ask:
        ask.sendall(b"GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n")
        ask.settimeout(5)
        text = b"".join(iter(lambda: ask.recv(4096), b""))
    print(text.decode().split("\\r\\n\\r\\n")[-1].split("\\n\\n")[-1].strip())
except OSError as error:
    print("refused" if isinstance(error, ConnectionRefusedError) else f"failed: {error}")
"""


def plain(address: str) -> str:
    """An IPv4 address without the brackets of a server that listens on IPv6."""
    return address.strip("[]").removeprefix("::ffff:")


class Served:
    """The cluster with the manifest on it."""

    def __init__(self, cluster: HostCluster) -> None:
        self.cluster = cluster

    def ask(self, source: Host, address: str, port: int) -> str:
        """What a server answers to a machine: "NAME CLIENT", or "refused"."""
        return source.run(["python", "-c", ASK, address, str(port)]).stdout.strip()

    def ask_from(self, pod: str, host: str, port: int = 80) -> str:
        """The same from a pod; "" where nothing answers."""
        request = f"printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | timeout 4 nc {host} {port}"
        text = self.cluster.kubectl("exec", pod, "--", "sh", "-c", request, check=False)
        return text.split("\n\n")[-1].split("\r\n\r\n")[-1].strip() if "HTTP/1" in text else ""

    def cluster_ip(self, service: str) -> str:
        return self.cluster.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    def pods(self, label: str = "app=web") -> dict[str, tuple[str, str]]:
        """Pods by name: their address and machine."""
        listed = json.loads(self.cluster.kubectl("get", "pods", "-l", label, "-o", "json"))["items"]
        return {
            item["metadata"]["name"]: (item["status"].get("podIP", ""), item["spec"].get("nodeName", ""))
            for item in listed
        }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Testbed(hosts=3, folder=tmp_path_factory.mktemp("bed")) as bed, running(bed) as cluster:
        cluster.kubectl("apply", "-f", "-", stdin=MANIFEST)
        made = Served(cluster)

        def all_ready() -> bool:
            return cluster.kubectl("get", "pods", "--no-headers", check=False).count("1/1") == 5

        try:
            until("all pods are ready", all_ready, READY_S)
        except AssertionError as error:
            events = cluster.kubectl("get", "events", "-A", check=False)
            raise AssertionError(f"{error}\n{events}\n{cluster.report()}") from None
        yield made


def answered_everywhere(served: Served, *, by_name: bool = True) -> None:
    """Every kind of Service from every kind of place."""
    pods, cluster = served.pods(), served.cluster
    address = served.cluster_ip("web")
    for host in cluster.hosts:
        assert served.ask(host, address, 80).split()[0] in pods, f"{host.name} to the cluster IP"
        found = served.ask(cluster.outside, host.address, 30080)
        assert found.split()[0] in pods, f"outside to the node port of {host.name}: {found}"
    assert served.ask_from("client", address).split()[0] in pods
    for name in ("web", "web.default.svc.cluster.local") if by_name else ():
        assert served.ask_from("client", name).split()[0] in pods


def test_from_pods_machines_and_outside(served: Served) -> None:
    answered_everywhere(served)
    assert {machine for _, machine in served.pods().values()} == {host.name for host in served.cluster.hosts}


def test_pods_reach_pods_by_address_and_by_name(served: Served) -> None:
    client = served.pods("app=client")["client"][0]
    for name, (address, _) in served.pods().items():
        answer = served.ask_from("client", address, 8080).split()
        assert (answer[0], plain(answer[1])) == (name, client)
    found = served.cluster.kubectl("exec", "client", "--", "nslookup", "web-pods.default.svc.cluster.local")
    assert {address for address, _ in served.pods().values()} <= set(found.replace("\n", " ").split())


def test_a_local_node_port_keeps_the_address_of_who_asks(served: Served) -> None:
    outside, where = served.cluster.outside, {machine: name for name, (_, machine) in served.pods().items()}
    for host in served.cluster.hosts:
        answer = served.ask(outside, host.address, 30081)
        assert answer.split()[0] == where[host.name]
        assert plain(answer.split()[1]) == outside.address


def test_nobody_there_is_a_refusal(served: Served) -> None:
    assert served.ask(served.cluster.hosts[0], served.cluster_ip("nobody"), 80) == "refused"


def test_rules_outlive_a_kube_proxy_that_was_killed(served: Served) -> None:
    for host in served.cluster.hosts:
        host.run("kill -9 $(pgrep -f ^ray::kube-proxy)")
    answered_everywhere(served, by_name=False)  # the machines' DNS servers share its process
    until("kube-proxies are back", served.cluster.healthy, 90)
    answered_everywhere(served)


def test_only_those_whom_a_policy_names_get_in(served: Served) -> None:
    pods, cluster = served.pods(), served.cluster
    assert served.ask_from("stranger", "web").split()[0] in pods
    cluster.kubectl("apply", "-f", "-", stdin=POLICY)
    until("the stranger is shut out", lambda: served.ask_from("stranger", "web") == "", 30)
    for address, _ in pods.values():
        assert served.ask_from("stranger", address, 8080) == ""
        assert served.ask_from("client", address, 8080) != ""
    cluster.kubectl("delete", "networkpolicy", "only-clients")
    until("the stranger gets in again", lambda: served.ask_from("stranger", "web") != "", 30)

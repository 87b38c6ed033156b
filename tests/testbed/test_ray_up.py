"""`ray up` with the example's file over ssh, twice from nothing; machines that join and leave; no traces."""

import json
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import eviction, images
from tests.kit.controlplane import until
from tests.testbed import OUTSIDE, Host, Testbed, containerd

pytestmark = [pytest.mark.integration, pytest.mark.ray, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "cluster-local.yaml"
CLUSTER_FILE = "/root/cluster.yaml"
DATA = "--data-dir /var/lib/raykube"
UP_S = 400
PROGRAM = f"""
import raykube
container = {{"name": "hello", "image": "{images.BUSYBOX}", "command": ["echo", "hello from a pod"]}}
pod = {{"spec": {{"restartPolicy": "Never", "containers": [container]}}}}
job = {{"apiVersion": "batch/v1", "kind": "Job", "metadata": {{"name": "hello"}}, "spec": {{"template": pod}}}}
with raykube.Client() as client:
    client.apply(job)
    client.wait("job/hello", "Complete", timeout=120)
    print("".join(client.logs("job/hello")))
"""


class Launched:
    """The cluster that the example's file makes of host1 to host3; "outside" is the operator's computer."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.operator = bed.hosts[OUTSIDE]
        self.machines = [bed.hosts[f"host{number}"] for number in (1, 2, 3)]
        self.joining = bed.hosts["host4"]
        config = yaml.safe_load(EXAMPLE.read_text())
        text = EXAMPLE.read_text()
        given = [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]
        for address, host in zip(given, self.machines, strict=True):
            text = text.replace(address, host.address)
        key = self.operator.run("ls /root/.ssh/id_* | grep -v pub").stdout.strip()
        text = text.replace(config["auth"]["ssh_private_key"], key)
        assert "--control-plane 3\n" in text
        text = text.replace("--control-plane 3\n", f"--control-plane 3 {shlex.join(eviction.FLAGS)}\n")
        (self.operator.disk / "root" / "cluster.yaml").write_text(text)
        token = self.operator.disk / "root" / ".ray"
        token.mkdir()
        (token / "auth_token").write_text(secrets.token_hex(32))

    def operate(self, command: str, *, check: bool = True, timeout_s: float = 120) -> str:
        return self.operator.run(command, check=check, timeout_s=timeout_s, RAY_UP_enable_autoscaler_v2="0").stdout

    def up(self) -> None:
        try:
            self.operate(f"ray up -y --no-config-cache {CLUSTER_FILE}", timeout_s=UP_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def on_head(self, command: str, *, check: bool = True) -> str:
        """Over ssh, as `ray exec` runs it."""
        return self.operate(f"ray exec {CLUSTER_FILE} {command!r} 2>/dev/null", check=check)

    def kubectl(self, *arguments: str) -> str:
        done = self.machines[0].run(["kubectl", "--request-timeout=20s", *arguments], check=False)
        return done.stdout

    def nodes(self) -> dict[str, bool]:
        """Nodes by name, and whether they are Ready."""
        rows = [line.split() for line in self.kubectl("get", "nodes", "--no-headers").splitlines()]
        return {row[0]: row[1] == "Ready" for row in rows}

    def control_plane(self) -> set[str]:
        """The machines with a healthy part of everything that it is made of."""
        done = self.machines[0].run(f"raykube status {DATA} -o json", check=False)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["components"] if done.stdout else []
        kinds = ("kv", "apiserver", "scheduler", "controller-manager")
        found = [{row["machine"] for row in rows if row["component"] == kind and row["healthy"]} for kind in kinds]
        return set.intersection(*found)

    def report(self) -> str:
        command = "tail -n 15 /var/lib/raykube/machines/*/logs/*.log /var/log/raykube/machine.log 2>/dev/null"
        return "\n".join(f"--- {host.name}\n{host.run(command, check=False).stdout}" for host in self.machines)


def left(host: Host) -> list[str]:
    """What a cluster may have left on a host."""
    look = (
        "ps -eo args= | grep -E 'ray::|raylet|gcs_server|raykube machine|monitor.py' | grep -v grep;"
        "nft list tables | grep raykube; ip -o link show | grep -E 'raykube|veth';"
        "ip route | grep 10.244; ctr -n k8s.io containers ls -q; ls /etc/cni/net.d;"
        # The checkout is mounted from outside, whatever it is called.
        f"cut -d' ' -f2 /proc/mounts | grep raykube | grep -vF '{CHECKOUT}'"
    )
    return host.run(look, check=False).stdout.splitlines()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with Testbed(hosts=4, folder=tmp_path_factory.mktemp("bed")) as bed:
        containerd.install(*(host for name, host in bed.hosts.items() if name != OUTSIDE))
        yield Launched(bed)


def test_the_doctor_tells_well_machines_from_others(launched: Launched) -> None:
    found = json.loads(launched.operate(f"raykube doctor --cluster {CLUSTER_FILE} -o json"))
    findings = {host: {one["check"]: one["level"] for one in rows} for host, rows in found.items()}
    assert set(findings) == {host.address for host in launched.machines}
    disks = {levels.pop("disk") for levels in findings.values()}  # the developer's
    assert all(set(levels.values()) == {"ok"} for levels in findings.values())
    text = launched.operate(f"raykube doctor --cluster {CLUSTER_FILE}")
    assert ("Nothing is wrong" in text) is (disks == {"ok"})
    host = launched.joining
    route = host.run("ip route show default").stdout.strip()
    host.run("ip route del default")
    done = launched.operator.run(f"raykube doctor --ssh-user root {host.address}", check=False)
    host.run(f"ip route add {route}")
    assert done.returncode == 1
    assert "add a default route" in done.stdout


def comes_up(launched: Launched) -> None:
    launched.up()
    hosts = {host.name for host in launched.machines}
    until("all machines are Nodes", lambda: launched.nodes() == dict.fromkeys(hosts, True), 120)
    until("the control plane is on all of them", lambda: launched.control_plane() == hosts, 180)


def test_ray_up_makes_a_cluster_of_the_machines(launched: Launched) -> None:
    comes_up(launched)
    assert "host1" in launched.on_head(f"raykube status {DATA}", check=False)
    launched.operate(f"ray rsync-down {CLUSTER_FILE} '~/.kube/config' /root/raykube.config >/dev/null 2>&1")
    assert launched.operate("kubectl --kubeconfig /root/raykube.config get nodes").count(" Ready ") == 3
    launched.kubectl("create", "deployment", "web", "--image=busybox:1.36", "--replicas=3", "--", "sleep", "1000")
    until("pods run", lambda: launched.kubectl("get", "pods", "--no-headers").count(" Running ") == 3, 120)


def test_a_program_of_the_python_client_runs_workloads(launched: Launched) -> None:
    (launched.operator.disk / "root" / "job.py").write_text(PROGRAM)
    said = launched.operate(f"ray submit {CLUSTER_FILE} /root/job.py 2>/dev/null", timeout_s=200)
    assert "hello from a pod" in said


def test_a_machine_that_joins_becomes_a_node(launched: Launched) -> None:
    host, head = launched.joining, launched.machines[0]
    (host.disk / "root" / ".ray").mkdir()
    token = (launched.operator.disk / "root" / ".ray" / "auth_token").read_text()
    (host.disk / "root" / ".ray" / "auth_token").write_text(token)
    host.run(f"setsid nohup raykube machine --address {head.address}:6379 >/var/log/machine.log 2>&1 </dev/null &")
    until("four nodes", lambda: sum(launched.nodes().values()) == 4, 120)


def test_a_machine_that_leaves_is_drained_and_left_clean(launched: Launched) -> None:
    """The one that joined by hand: what `ray up` started, Ray's autoscaler would bring back."""
    leaving = launched.joining
    launched.kubectl("scale", "deployment", "web", "--replicas=8")
    on_it = f"--field-selector=spec.nodeName={leaving.name}"
    until("pods run on it", lambda: " Running " in launched.kubectl("get", "pods", on_it, "--no-headers"), 120)
    done = leaving.run("raykube leave", timeout_s=300)
    assert "processes ended" in done.stdout
    until("its node is gone", lambda: set(launched.nodes()) == {"host1", "host2", "host3"}, 90)
    until("pods run elsewhere", lambda: launched.kubectl("get", "pods", "--no-headers").count(" Running ") == 8, 120)
    until("nothing is left", lambda: left(leaving) == [], 30)


def test_the_end_leaves_nothing(launched: Launched) -> None:
    launched.on_head(f"raykube down {DATA} --ray", check=False)
    launched.operate(f"ray down -y {CLUSTER_FILE}")
    for host in (*launched.machines, launched.joining):
        until(f"nothing is left on {host.name}", lambda: left(host) == [], 60)  # noqa: B023


def test_and_again_from_nothing(launched: Launched) -> None:
    for host in (*launched.machines, launched.joining):
        host.run("rm -r /var/lib/raykube")
    comes_up(launched)
    assert launched.kubectl("get", "deployments", "--no-headers") == ""

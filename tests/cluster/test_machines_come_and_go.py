"""A cluster on the Ray of others: machines join, are lost and leave, and the control plane moves.

One cluster serves all tests, in their order.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raykube.cluster import processes, state
from tests.cluster.ray_cluster import RayCluster, ray_cluster
from tests.cluster.running import IMPATIENT
from tests.kit.controlplane import until
from tests.kit.require import require_program

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

OUR_PORTS = {2379, 2380, 6443, 6444, 6445, 6446, 10250, 10256, 10257, 10259}
PATIENCE = ["steward.replace-after=4s", "steward.forget-after=8s", "steward.leave-after=4s"]


@dataclass
class Joined:
    """The cluster under test. `folder` has the data directory of each launcher."""

    ray: RayCluster
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env=self.ray.environment, timeout=200, check=False
        )

    def raykube(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        flags = ["--name", "joined", "--data-dir", str(self.folder / "data")]
        if arguments[0] in ("up", "down"):
            flags += ["--kubeconfig", str(self.folder / "kubeconfig")]
        return self.run(sys.executable, "-m", "raykube", *arguments, *flags)

    def up(self, *arguments: str) -> None:
        flags = [part for item in (*IMPATIENT, *PATIENCE) for part in ("--extra-config", item)]
        done = self.raykube("up", "--address", self.ray.gcs_address, *arguments, *flags)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def logs(self) -> str:
        ends = []
        for path in sorted(self.folder.glob("data/machines/*/logs/*.log")):
            lines = path.read_text(errors="replace").splitlines()[-12:]
            ends.append(f"--- {path.relative_to(self.folder)}\n" + "\n".join(lines))
        return "\n".join(ends)

    def kubectl(self, *arguments: str) -> str:
        program = require_program("kubectl")
        done = self.run(program, f"--kubeconfig={self.folder / 'kubeconfig'}", "--request-timeout=10s", *arguments)
        return done.stdout if done.returncode == 0 else ""

    def nodes(self) -> dict[str, bool]:
        """Nodes by address, and whether they are Ready."""
        listed: list[dict[str, Any]] = json.loads(self.kubectl("get", "nodes", "-o", "json") or '{"items": []}')[
            "items"
        ]
        return {
            next(item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP"): any(
                item["type"] == "Ready" and item["status"] == "True" for item in node["status"]["conditions"]
            )
            for node in listed
        }

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.raykube("status", "-o", "json").stdout)["components"]
        return found

    def healthy(self, component: str) -> set[str]:
        """Addresses of the machines with a healthy one."""
        return {
            row["address"].partition(":")[0] for row in self.rows() if row["component"] == component and row["healthy"]
        }

    def ready(self, *numbers: int) -> bool:
        return self.nodes() == {self.ray.address(number): True for number in numbers}

    def name(self, number: int) -> str:
        found = state.load(self.folder / "data")
        assert found is not None
        return next(machine.name for machine in found.machines if machine.address == self.ray.address(number))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    folder = tmp_path_factory.mktemp("joined")
    with ray_cluster(250, 3) as ray:
        made = Joined(ray, folder)
        identifier = ""
        try:
            made.up("--control-plane", "3", "--container-runtime-endpoint", "process")
            identifier = found.id if (found := state.load(folder / "data")) else ""
            yield made
        finally:
            made.raykube("down")
            if identifier:
                processes.end(identifier, grace_s=0)


def test_every_machine_is_a_node(joined: Joined) -> None:
    assert joined.ready(1, 2, 3)
    contexts = joined.kubectl("config", "get-contexts", "-o", "name").split()
    assert contexts[0] == "raykube-joined"
    assert len(contexts) == 4, "one for each machine with a router of the control plane besides"
    for context in contexts:
        assert "kubernetes" in joined.kubectl("--context", context, "get", "service", "kubernetes")


def test_a_machine_that_joins_becomes_a_node_by_itself(joined: Joined) -> None:
    joined.ray.start(4)
    until("four nodes are ready", lambda: joined.ready(1, 2, 3, 4), 90)


def test_the_control_plane_of_a_lost_machine_moves_and_its_node_goes(joined: Joined) -> None:
    joined.ray.kill(2)
    alive = {joined.ray.address(number) for number in (1, 3, 4)}
    for component in ("kv", "apiserver", "scheduler", "controller-manager"):
        until(f"machine 4 has its {component}", lambda: joined.healthy(component) == alive, 120)  # noqa: B023
    until("its node is gone", lambda: joined.ready(1, 3, 4), 60)
    shown = ("get", "nodes", "-l", "node-role.kubernetes.io/control-plane", "-o", "name")
    names = {f"node/{joined.name(number)}" for number in (1, 3, 4)}
    until("the nodes show it", lambda: set(joined.kubectl(*shown).split()) == names, 60)


def test_a_machine_whose_ray_is_started_again_comes_back(joined: Joined) -> None:
    joined.ray.start(2)
    until("four nodes are ready", lambda: joined.ready(1, 2, 3, 4), 90)
    assert joined.healthy("kv") == {joined.ray.address(number) for number in (1, 3, 4)}


def test_up_again_changes_nothing(joined: Joined) -> None:
    before = {(row["component"], row["machine"]): row["pid"] for row in joined.rows()}
    joined.up()
    assert {(row["component"], row["machine"]): row["pid"] for row in joined.rows()} == before


def test_a_machine_that_leaves_is_drained_and_forgotten(joined: Joined) -> None:
    done = joined.raykube("leave", "--address", joined.ray.gcs_address, joined.name(3))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{joined.logs()}"
    until("its node is gone", lambda: joined.ready(1, 2, 4), 60)
    until("machine 2 has its member", lambda: joined.healthy("kv") == {joined.ray.address(n) for n in (1, 2, 4)}, 60)


def test_down_leaves_nothing(joined: Joined) -> None:
    found = state.load(joined.folder / "data")
    assert found is not None
    done = joined.raykube("down")
    assert done.returncode == 0, done.stderr
    assert [process for process in processes.find(found.id) if process.role != processes.ROLE_RAY] == []
    assert list(joined.folder.glob("data/machines/*/specs/*.json")) == [], "another cluster would refuse the machine"
    until("nothing listens", lambda: not listening(joined.ray.subnet, OUR_PORTS), 5)


def listening(subnet: int, ports: set[int]) -> set[int]:
    """Those of `ports` that something listens on at an address of the subnet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row[1] for row in rows if row[3] == "0A" and row[1][4:8] == f"{subnet:02X}7F"]
    return {int(place.partition(":")[2], 16) for place in ours} & ports

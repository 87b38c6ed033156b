"""The plan fits the components: every flag that it gives is one that they take."""

import importlib
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest

import raykube.hollow.config as hollow
import raykube.kubelet.config as kubelet
from raykube.cluster import addresses
from raykube.cluster.plan import COMPONENTS, Placement, plan
from raykube.cluster.state import ClusterState, Machine


def cluster(machines: int, control_plane: int, local: bool = True) -> ClusterState:
    return ClusterState(
        name="c",
        id="0123456789abcdef" * 2,
        subnet=4,
        local=local,
        machines=[
            Machine(name=f"c-{i}", address=f"127.4.0.{i + 1}", index=i, control_plane=i <= control_plane)
            for i in range(1, machines + 1)
        ],
        extra_config={"kube-proxy": {"healthz-bind-address": "127.0.0.9:1"}},
        program_path="/bin",
    )


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(("machines", "control_plane"), [(1, 1), (3, 1), (3, 3), (6, 5)])
def test_every_machine_has_what_it_should(machines: int, control_plane: int, local: bool) -> None:
    found = plan(cluster(machines, control_plane, local), Path("/d"))
    counts = {name: sum(item.component == name for item in found) for name in COMPONENTS}
    everywhere = {"kubelet", "kube-proxy"} | (set() if local else {"router"})
    expected = {name: machines if name in everywhere else control_plane for name in COMPONENTS}
    assert counts == expected | {"pod-network": 0, "cri-docker": 0, "hollow": 0}
    assert len({item.name for item in found}) == len(found)


def test_a_container_runtime_takes_the_place_of_the_embedded_one() -> None:
    placements = {item.component: item for item in plan(with_networks(), Path("/d"))}
    assert [package for package, _ in placements["kubelet"].services] == ["raykube.kubelet"]
    flags = placements["kubelet"].services[0][1]
    assert (flags["container_runtime_endpoint"], flags["pod_cidr"]) == ("unix:///run/x.sock", "10.244.1.0/24")
    assert "pod-network" in placements


@pytest.mark.parametrize("local", [True, False])
def test_a_computer_that_plays_machines_may_have_a_full_disk(local: bool) -> None:
    (found,) = [item for item in plan(cluster(1, 1, local=local), Path("/d")) if item.component == "kubelet"]
    config = kubelet.Config(**dict(found.services[-1][1]))
    assert config.shared_disk is local
    assert config.model_fields_set.isdisjoint({"eviction_hard", "image_gc_high_threshold"}), "a file may say it"


def test_an_apiserver_asks_the_member_on_its_own_machine_first() -> None:
    for item in plan(cluster(4, 3), Path("/d")):
        if item.component == "apiserver":
            (_, flags), *_ = item.services
            servers = flags["etcd_servers"]
            assert servers[0].startswith(f"https://{item.machine.address}:") and len(set(servers)) == 3


def test_members_found_a_store_only_where_there_was_none() -> None:
    for generation, wanted in ((0, "new"), (3, "existing")):
        state = cluster(3, 3).model_copy(update={"generation": generation})
        flags = [item.services[1][1] for item in plan(state, Path("/d")) if item.component == "kv"]
        assert [each["initial_cluster_state"] for each in flags] == [wanted] * 3


def test_a_drained_machine_has_nothing() -> None:
    found = cluster(3, 1, local=False)
    found.machines[2] = found.machines[2].model_copy(update={"phase": "drained"})
    assert {item.machine.name for item in plan(found, Path("/d"))} == {"c-1", "c-2"}


def test_boot_order_is_the_order_of_dependency() -> None:
    order = [item.component for item in plan(cluster(3, 3), Path("/d"))]
    assert order == sorted(order, key=list(COMPONENTS).index)


def test_machines_with_docker_alone_have_a_cri_server_for_it() -> None:
    found = with_networks()
    second = Machine(name="c-2", address="127.4.0.3", index=2, runtime="docker")
    placements = {
        item.name: item for item in plan(found.model_copy(update={"machines": [*found.machines, second]}), Path("/d"))
    }
    assert [name for name in placements if name.startswith("cri-docker")] == ["cri-docker-c-2"]
    socket = dict(placements["cri-docker-c-2"].services)["raykube.cridocker"]["container_runtime_endpoint"]
    assert dict(placements["kubelet-c-2"].services)["raykube.kubelet"]["container_runtime_endpoint"] == socket
    assert socket.startswith("unix:///tmp/raykube-")


def test_every_component_says_how_it_is_at_an_address_of_its_own() -> None:
    state = with_networks("docker").model_copy(update={"hollow_nodes": 2000, "hollow_actors": 2})
    placements = plan(state, Path("/d"))
    assert {item.component for item in placements} == set(COMPONENTS)
    found = [item.health_address for item in placements]
    assert all(COMPONENTS[item.component].page for item in placements)
    assert len(set(found)) == len(found)
    assert "127.0.0.9:1" in found, "what the operator chose"


@pytest.mark.parametrize(("nodes", "machines", "actors"), [(1, 3, 1), (1200, 2, 2), (1200, 5, 3), (15_000, 1, 3)])
def test_hollow_machines_are_shared_out_once(nodes: int, machines: int, actors: int) -> None:
    assert addresses.hollow_actors(nodes, machines) == actors
    state = cluster(machines, 1).model_copy(update={"hollow_nodes": nodes, "hollow_actors": actors})
    shares = [item for item in plan(state, Path("/d")) if item.component == "hollow"]
    assert (
        len({item.name for item in shares}) == len({(item.machine.name, item.file_name) for item in shares}) == actors
    )
    configs = [hollow.Config(**item.services[0][1]) for item in shares]
    assert [name for config in configs for name in config.fleet.names] == [f"hollow-{n:05}" for n in range(nodes)]
    ranges = [ip_network(config.pod_cidr) for config in configs]
    assert not any(one.overlaps(other) for one, other in combinations(ranges, 2))
    assert max(config.nodes for config in configs) <= 5000


def test_a_share_keeps_its_machines_when_machines_join() -> None:
    state = cluster(1, 1).model_copy(update={"hollow_nodes": 1000, "hollow_actors": 2})
    grown = state.model_copy(update={"machines": cluster(3, 1).machines})

    def flags(state: ClusterState) -> list[tuple[object, ...]]:
        found = [item.services[0][1] for item in plan(state, Path("/d")) if item.component == "hollow"]
        return [(each["name"], each["first_node"], each["nodes"], each["pod_cidr"]) for each in found]

    assert flags(state) == flags(grown)


def with_networks(runtime: str = "unix:///run/x.sock") -> ClusterState:
    found = cluster(1, 1, local=False).model_copy(update={"has_networks": True})
    found.machines = [machine.model_copy(update={"runtime": runtime}) for machine in found.machines]
    return found


@pytest.mark.parametrize(
    "item",
    [*plan(cluster(1, 1), Path("/d")), *plan(with_networks("docker"), Path("/d"))],
    ids=lambda item: item.component,
)
def test_components_take_their_flags(item: Placement) -> None:
    for package, flags in item.services:
        importlib.import_module(f"{package}.config").Config(**flags)


def test_extra_config_comes_last() -> None:
    proxy = next(item for item in plan(cluster(1, 1), Path("/d")) if item.component == "kube-proxy")
    assert proxy.services[-1][1]["healthz_bind_address"] == "127.0.0.9:1"

"""The plan fits the components: every flag that it gives is one that they take."""

import importlib
from pathlib import Path

import pytest

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
    assert counts == expected | {"pod-network": 0}
    assert len({item.name for item in found}) == len(found)


def test_a_container_runtime_takes_the_place_of_the_embedded_one() -> None:
    placements = {item.component: item for item in plan(with_networks(), Path("/d"))}
    assert [package for package, _ in placements["kubelet"].services] == ["raykube.kubelet"]
    flags = placements["kubelet"].services[0][1]
    assert (flags["container_runtime_endpoint"], flags["pod_cidr"]) == ("unix:///run/x.sock", "10.244.1.0/24")
    assert "pod-network" in placements


def test_a_drained_machine_has_nothing() -> None:
    found = cluster(3, 1, local=False)
    found.machines[2] = found.machines[2].model_copy(update={"phase": "drained"})
    assert {item.machine.name for item in plan(found, Path("/d"))} == {"c-1", "c-2"}


def test_boot_order_is_the_order_of_dependency() -> None:
    order = [item.component for item in plan(cluster(3, 3), Path("/d"))]
    assert order == sorted(order, key=list(COMPONENTS).index)


def with_networks() -> ClusterState:
    found = cluster(1, 1, local=False).model_copy(update={"has_networks": True})
    found.machines = [machine.model_copy(update={"runtime": "unix:///run/x.sock"}) for machine in found.machines]
    return found


@pytest.mark.parametrize(
    "item",
    [*plan(cluster(1, 1), Path("/d")), *plan(with_networks(), Path("/d"))],
    ids=lambda item: item.component,
)
def test_components_take_their_flags(item: Placement) -> None:
    for package, flags in item.services:
        importlib.import_module(f"{package}.config").Config(**flags)


def test_extra_config_comes_last() -> None:
    proxy = next(item for item in plan(cluster(1, 1), Path("/d")) if item.component == "kube-proxy")
    assert proxy.services[-1][1]["healthz_bind_address"] == "127.0.0.9:1"

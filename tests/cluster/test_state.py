"""The file that remembers a cluster."""

import json
from pathlib import Path

import pytest

from raykube.cluster import addresses, state
from raykube.cluster.state import ClusterState, Machine


def cluster() -> ClusterState:
    machines = [Machine(name=f"c-{i}", address=f"127.4.0.{i + 1}", index=i, control_plane=i < 2) for i in (1, 2, 3)]
    return ClusterState(name="c", id="0123456789abcdef" * 2, subnet=4, local=True, machines=machines)


def test_a_saved_cluster_is_loaded_again(tmp_path: Path) -> None:
    state.save(tmp_path / "new", cluster())
    assert state.load(tmp_path / "new") == cluster()
    assert state.load(tmp_path / "other") is None


def test_what_the_release_before_wrote_is_read(tmp_path: Path) -> None:
    former = cluster().model_dump(mode="json", include={"format", "name", "id", "subnet", "local", "gcs_address"})
    rows = [{"name": f"c-{i}", "address": f"127.4.0.{i + 1}", "index": i, "control_plane": i < 3} for i in (1, 2, 3)]
    machines = [row | {"ray_node_id": ""} for row in rows]
    (tmp_path / state.FILE_NAME).write_text(json.dumps(former | {"machines": machines, "store": ["c-1", "c-3"]}))
    found = state.load(tmp_path)
    assert found is not None
    assert [machine.name for machine in found.control_plane] == ["c-1", "c-3"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 2}', "\x00"])
def test_a_file_of_somebody_else_is_refused_with_advice(tmp_path: Path, content: str) -> None:
    (tmp_path / state.FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match="use another --data-dir"):
        state.load(tmp_path)


def test_addresses_of_machines_pods_and_services_never_meet() -> None:
    from ipaddress import IPv4Address, IPv4Network

    found = cluster()
    networks = [IPv4Network(addresses.pod_range(found, machine)) for machine in found.machines]
    networks.append(IPv4Network(addresses.service_range(found)))
    hosts = [IPv4Address(addresses.api_address(4)), *(IPv4Address(machine.address) for machine in found.machines)]
    assert not any(host in network for host in hosts for network in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[i + 1 :])
    assert addresses.first_service_address(found) == "127.4.128.1"


def test_sockets_fit_into_a_unix_address() -> None:
    assert len(str(cluster().scratch_dir / ("n" * 40 + "-100.sock"))) < 107

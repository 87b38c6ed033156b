"""Which machines a cluster takes, and as what."""

from importlib.metadata import version
from pathlib import Path

import pytest

from raykube.cluster import addresses, machines, wish
from raykube.cluster.facts import Facts, look
from raykube.cluster.plan import plan
from raykube.cluster.settings import Settings
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.wish import knows_itself

DOCKER = "docker"
CONTAINERD = "unix:///run/containerd/containerd.sock"


def facts(number: int, hostname: str = "", runtimes: tuple[str, ...] = (CONTAINERD,), root: bool = True) -> Facts:
    return Facts(
        address=f"10.0.0.{number}",
        hostname=hostname or f"host{number}",
        version="1",
        is_root=root,
        runtimes=list(runtimes),
        labels={"zone": "a" if number % 2 else "b"},
    )


def cluster(**changes: object) -> ClusterState:
    made = ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=[])
    return made.model_copy(update=changes)


def test_names_are_host_names_made_unique() -> None:
    found = cluster()
    machines.admit(found, [facts(1, "Web.example.org"), facts(2, "web"), facts(3, "a_b")])
    assert [machine.name for machine in found.machines] == ["web", "web-10-0-0-2", "a-b"]


def test_names_are_unique_however_long_they_are_and_whatever_they_look_like() -> None:
    found = cluster()
    long = "x" * 80
    hosts = [long, long, long[:62], "web", "web-10-0-0-6", "web", "b\u00fcro\u00b2", "-"]
    machines.admit(found, [facts(number, host) for number, host in enumerate(hosts, 1)])
    names = [machine.name for machine in found.machines]
    assert len(set(names)) == len(hosts)
    assert names[:2] == ["x" * 63, "x" * 54 + "-10-0-0-2"]
    assert names[4:] == ["web-10-0-0-6", "web-10-0-0-6-2", "b-ro", "machine"]
    assert all(machines.LABEL_VALUE.fullmatch(name) for name in names)


def test_nodes_have_labels_for_the_accelerators_that_ray_counts() -> None:
    found = cluster()
    resources = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:A100": 1.0, "node:10.0.0.1": 1.0}
    machines.admit(found, [facts(1).model_copy(update={"resources": resources}), facts(2)])
    assert node_labels(found) == ["ray.io/gpu-count=4,ray.io/accelerator-type=A100", ""]
    machines.set_control_plane(found, ["host1", "host2"])
    role = "node-role.kubernetes.io/control-plane="
    assert node_labels(found) == [f"{role},ray.io/gpu-count=4,ray.io/accelerator-type=A100", role]


def node_labels(state: ClusterState) -> list[str]:
    """What each machine's kubelet is told."""
    placements = [one for one in plan(state, Path("/d")) if one.component == "kubelet"]
    return [dict(one.services)["raykube.kubelet"]["node_labels"] for one in placements]


def test_accelerators_of_no_one_kind_or_name_have_no_type() -> None:
    assert machines.accelerators({"TPU": 8.0, "GPU": 0.5, "accelerator_type:a b": 1.0}) == "ray.io/tpu-count=8"
    two = {"GPU": 2.0, "accelerator_type:A": 1.0, "accelerator_type:B": 1.0}
    assert machines.accelerators(two) == "ray.io/gpu-count=2"


def test_a_machine_is_taken_once() -> None:
    found = cluster()
    machines.admit(found, [facts(1), facts(2), facts(3)])
    assert machines.admit(found, [facts(1), facts(2)]) == []
    assert [machine.index for machine in found.machines] == [1, 2, 3]


def test_a_freed_index_is_used_again_when_no_other_is_left_the_oldest_first() -> None:
    found = cluster()
    machines.admit(found, [facts(1), facts(2), facts(3)])
    machines.forget(found, "host2")
    machines.forget(found, "host1")
    machines.admit(found, [facts(number) for number in range(4, addresses.MACHINES_MAX + 1)])
    assert [machine.index for machine in found.machines] == list(range(3, addresses.MACHINES_MAX + 1))
    machines.admit(found, [facts(200), facts(201), facts(202)])
    assert [machine.index for machine in found.machines[-2:]] == [2, 1]
    assert found.freed_indexes == []


def test_an_index_that_the_operator_s_machine_took_is_free_no_more() -> None:
    a, b = (Machine(name=name, address=name, index=index) for index, name in enumerate("ab", 1))
    record = cluster(machines=[a], freed_indexes=[2, 3])
    assert machines.joined(record, cluster(machines=[a, b])).freed_indexes == [3]


def test_no_machine_over_the_limit_is_taken() -> None:
    found = cluster()
    machines.admit(found, [facts(number) for number in range(1, 120)])
    assert len(found.machines) == addresses.MACHINES_MAX


@pytest.mark.parametrize(
    ("endpoint", "seen", "runtime"),
    [
        ("", facts(1), CONTAINERD),
        ("", facts(1, runtimes=()), ""),
        ("", facts(1, root=False), ""),
        ("process", facts(1), ""),
        ("unix:///x", facts(1, runtimes=()), "unix:///x"),
        ("", facts(1, runtimes=(DOCKER,)), DOCKER),
        ("", facts(1, runtimes=(CONTAINERD, DOCKER)), CONTAINERD),
        ("docker", facts(1, runtimes=(CONTAINERD, DOCKER)), DOCKER),
    ],
)
def test_the_runtime_is_the_operator_s_choice_or_what_is_there(endpoint: str, seen: Facts, runtime: str) -> None:
    assert machines.runtime_of(endpoint, seen) == runtime


def test_pods_have_networks_only_where_all_machines_make_them() -> None:
    assert machines.all_have_networks("", [facts(1), facts(2)])
    assert not machines.all_have_networks("", [facts(1), facts(2, runtimes=())])
    assert not machines.all_have_networks("process", [facts(1)])


def test_ranges_are_real_where_pods_have_networks() -> None:
    found = cluster(has_networks=True)
    machines.admit(found, [facts(1), facts(2)])
    assert [addresses.pod_range(found, machine) for machine in found.machines] == ["10.244.1.0/24", "10.244.2.0/24"]
    assert addresses.first_service_address(found) == "10.96.0.1"
    assert [machine.runtime for machine in found.machines] == [CONTAINERD, CONTAINERD]


@pytest.mark.parametrize(
    ("has_networks", "seen", "version", "words"),
    [
        (True, facts(1), "1", ""),
        (False, facts(1, runtimes=(), root=False), "1", ""),
        (False, facts(1), "2", "install the same on all machines"),
        (True, facts(1, runtimes=()), "1", "install containerd or Docker"),
        (True, facts(1, root=False), "1", "install containerd or Docker"),
    ],
)
def test_a_machine_that_does_not_fit_is_told_why(has_networks: bool, seen: Facts, version: str, words: str) -> None:
    reason = machines.refusal(cluster(has_networks=has_networks), seen, version)
    assert words in reason
    assert bool(words) == bool(reason)


def test_who_asked_for_docker_is_told_where_it_is_not() -> None:
    asked = cluster(has_networks=True, runtime_endpoint="docker")
    assert "no Docker" in machines.refusal(asked, facts(1), "1")
    assert machines.refusal(asked, facts(1, runtimes=(DOCKER,)), "1") == ""


def test_a_machine_with_parts_of_another_cluster_is_not_taken() -> None:
    """A head that lost its disk must not begin a new cluster on the old one's machines."""
    mine, others = (facts(1).model_copy(update={"clusters": [each * 32]}) for each in "01")
    assert machines.refusal(cluster(), mine, "1") == ""
    assert "'raykube up --existing'" in machines.refusal(cluster(), others, "1")
    assert "1" * 32 in machines.refusal(cluster(), others, "1")


def test_a_machine_tells_whose_parts_it_has(tmp_path: Path) -> None:
    specs = tmp_path / "machines" / "m" / "specs"
    specs.mkdir(parents=True)
    for name, text in (("kubelet", '{"cluster": "a"}'), ("kv", '{"cluster": "b"}'), ("x", "{"), ("y", "[]")):
        (specs / f"{name}.json").write_text(text)
    assert Facts.model_validate_json(look("10.0.0.1", str(tmp_path))).clusters == ["a", "b"]
    assert Facts.model_validate_json(look("10.0.0.1", str(tmp_path / "none"))).clusters == []


def test_a_cluster_exists_where_a_majority_of_its_members_has_its_disk() -> None:
    seated = [Machine(name=str(n), address=f"10.0.0.{n}", index=n, control_plane=n < 4) for n in (1, 2, 3, 4)]
    there = cluster(machines=seated)
    own = [facts(number).model_copy(update={"clusters": [there.id]}) for number in (1, 2, 3, 4)]
    assert knows_itself(there, own[:2])
    assert not knows_itself(there, [*own[1:2], facts(1), facts(3)]), "they lost their disks"
    assert not knows_itself(there, own[2:]), "one of them is no member"
    assert not knows_itself(cluster(), own)


def test_labels_choose_the_control_plane() -> None:
    found = cluster(control_plane_size=2, control_plane_selector={"zone": "b"})
    machines.admit(found, [facts(number) for number in range(1, 6)])
    assert machines.first_control_plane(found) == ["host2", "host4"]
    assert machines.set_control_plane(found, ["host2", "host4"])
    assert not machines.set_control_plane(found, ["host4", "host2"])
    assert [machine.name for machine in found.control_plane] == ["host2", "host4"]


def test_the_record_keeps_its_own_of_machines_that_both_have() -> None:
    a, b, c = (Machine(name=name, address=name, index=index) for index, name in enumerate("abc", 1))
    seated = b.model_copy(update={"control_plane": True})
    record = cluster(machines=[a, seated], generation=7)
    wished = cluster(machines=[a.model_copy(update={"control_plane": True}), b, c], control_plane_size=3)
    merged = machines.joined(record, wished)
    assert merged.machines == [a, seated, c]
    assert (merged.control_plane_size, merged.generation) == (3, 7)


def test_what_a_steward_took_meanwhile_has_its_name_and_index_for_itself() -> None:
    """It and `up` ask new machines at the same time, and may number them in another order."""
    record, wished = cluster(), cluster()
    machines.admit(record, [facts(1), facts(3, "web")])
    machines.admit(wished, [facts(1), facts(2, "web"), facts(3, "web"), facts(4)])
    merged = machines.joined(record, wished)
    assert [(machine.name, machine.address, machine.index) for machine in merged.machines] == [
        ("host1", "10.0.0.1", 1),
        ("web", "10.0.0.3", 2),
        ("web-10-0-0-2", "10.0.0.2", 3),
        ("host4", "10.0.0.4", 4),
    ]
    assert machines.joined(merged, wished) == merged


def test_another_selector_counts_for_the_machines_that_are_there() -> None:
    there = [facts(number) for number in (1, 2, 3)]
    record = cluster()
    machines.admit(record, there)
    record = record.model_copy(update={"generation": 7})
    wished = record.model_copy(update={"control_plane_selector": {"zone": "b"}})
    machines.choose_eligible(wished, there[:2])
    assert [machine.eligible for machine in wished.machines] == [False, True, True], "one that is away stays as it was"
    merged = machines.joined(record, wished)
    assert [machine.eligible for machine in merged.machines] == [False, True, True]


def there_is(monkeypatch: pytest.MonkeyPatch, known: list[int], newcomers: list[Facts]) -> None:
    """A cluster of the `known` machines, on a Ray that has newcomers besides."""
    there = [facts(number).model_copy(update={"version": version("raykube")}) for number in known]
    record = cluster(control_plane_size=1)
    machines.admit(record, there)
    machines.set_control_plane(record, ["host1"])
    monkeypatch.setattr(wish.ray_nodes, "answers", lambda *_: True)
    monkeypatch.setattr(wish.placement, "connect", lambda *_: None)
    monkeypatch.setattr(wish, "_look", lambda *_: (record, "", [*there, *newcomers]))


def wish_of(folder: Path, **given: object) -> Settings:
    flags = {"address": "10.0.0.1:6379", "insecure_ray": True, "control_plane": 0} | given
    return Settings(name="c", data_dir=folder, kubeconfig=folder / "kubeconfig", **flags)  # type: ignore[arg-type]


def test_a_machine_that_does_not_fit_keeps_no_cluster_that_there_is_from_starting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who adds one is told. What starts a cluster after its Ray's head was lost has nobody to tell."""
    there_is(monkeypatch, [1, 2], [facts(3)])
    with pytest.raises(wish.ClusterError, match="host3"):
        wish._joined_state(wish_of(tmp_path), None)
    state, is_new = wish._joined_state(wish_of(tmp_path, existing=True), None)
    assert ([machine.name for machine in state.machines], is_new) == (["host1", "host2"], False)


@pytest.mark.parametrize(("selector", "eligible"), [({"zone": "b"}, [False, True]), ({"zone": "x"}, None)])
def test_a_selector_that_chooses_no_machine_is_refused_for_a_cluster_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selector: dict[str, str], eligible: list[bool] | None
) -> None:
    """Nothing that is lost would be made anew ever after."""
    there_is(monkeypatch, [1, 2], [])
    wished = wish_of(tmp_path, control_plane_selector=selector)
    if eligible is None:
        with pytest.raises(wish.ClusterError, match="chooses no Ray node"):
            wish._joined_state(wished, None)
    else:
        state, is_new = wish._joined_state(wished, None)
        assert [machine.eligible for machine in state.machines] == eligible
        assert not is_new


def test_a_cluster_that_there_is_starts_again_though_its_machines_have_lost_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody started their Ray without. Who starts the cluster asks for no selector, and has nobody to tell."""
    there_is(monkeypatch, [1, 2], [])
    record, _, found = wish._look(wish_of(tmp_path), None, cluster())
    record.control_plane_selector = {"zone": "a"}
    record.machines = [machine.model_copy(update={"eligible": machine.index == 1}) for machine in record.machines]
    bare = [each.model_copy(update={"labels": {}}) for each in found]
    monkeypatch.setattr(wish, "_look", lambda *_: (record, "", bare))
    state, _ = wish._joined_state(wish_of(tmp_path, existing=True), None)
    assert [machine.eligible for machine in state.machines] == [True, False], "as it was"
    with pytest.raises(wish.ClusterError, match="chooses no Ray node"):
        wish._joined_state(wish_of(tmp_path), None)

"""What `up` does when stewards took new machines at the same time, and numbered them in another order."""

from pathlib import Path
from typing import Any

import pytest

from raykube.cluster import machines, placement, record, supervisor
from raykube.cluster.authority import certify
from raykube.cluster.plan import Placement
from raykube.cluster.settings import Settings
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steps import Silent


def machine(name: str, number: int, index: int) -> Machine:
    return Machine(name=name, address=f"10.0.0.{number}", index=index, control_plane=number == 1)


def test_no_actor_begins_as_what_the_record_says_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be that for ever: two machines with one range of pods, or the kubelet of one on the other. All that the
    record has besides has certificates, too."""
    head = machine("host1", 1, 1)
    known = ClusterState(name="c", id="f" * 32, subnet=0, local=False, machines=[head], generation=4)
    wished = known.model_copy(update={"machines": [head, machine("web", 2, 2), machine("db", 3, 3)]})
    certify(wished, tmp_path / "pki")
    there = known.model_copy(update={"machines": [head, machine("db", 3, 2), machine("web", 4, 3)], "generation": 6})
    running: dict[str, Machine] = {}

    def start(item: Placement, state: ClusterState, data_dir: Path) -> str:
        placement.spec_of(item, state, data_dir)
        running.setdefault(item.name, item.machine)
        return item.name

    async def merge(_client: object, wished: ClusterState) -> ClusterState:
        return machines.joined(there, wished).model_copy(update={"generation": 7})

    monkeypatch.setattr(record, "merge", merge)
    rows = [{"NodeManagerAddress": f"10.0.0.{number}", "Alive": True} for number in range(1, 5)]
    given: list[str] = []
    played: dict[str, Any] = {
        "connect": lambda *_: None,
        "ask": lambda *_: [],
        "start": start,
        "wait_ready": lambda *_: None,
        "wait_healthy": lambda *_: None,
        "live_nodes": lambda: rows,
        "renew_files": lambda items, *_: given.extend(item.name for item in items),
    }
    for name, value in played.items():
        monkeypatch.setattr(placement, name, value)
    monkeypatch.setattr(supervisor, "wait_for_nodes", lambda *_: 4)
    wish = Settings(name="c", data_dir=tmp_path, kubeconfig=tmp_path / "kubeconfig")
    state = supervisor._bring_up(wished, wish, Silent())
    by_name = {each.name: each for each in state.machines}
    assert [(each.name, each.index) for each in state.machines] == [
        ("host1", 1), ("db", 2), ("web", 3), ("web-10-0-0-2", 4),
    ]  # fmt: skip
    assert {name: each for name, each in running.items() if each != by_name.get(each.name)} == {}
    assert {f"kubelet-{name}" for name in by_name} <= set(running)
    assert "apiserver-host1" in given, "its certificate names a machine more"


def test_a_cluster_whose_store_is_away_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ClusterState(name="c", id="f" * 32, subnet=0, local=False, machines=[machine("host1", 1, 1)], generation=4)
    monkeypatch.setattr(placement, "live_nodes", lambda: [{"NodeManagerAddress": "10.0.0.2", "Alive": True}])
    wish = Settings(name="c", data_dir=tmp_path, kubeconfig=tmp_path / "kubeconfig")
    with pytest.raises(OSError, match=r"start Ray on host1 \(10\.0\.0\.1\)"):
        supervisor._start_placements(known, wish, Silent(), [])

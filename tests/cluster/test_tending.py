"""What the steward cannot do for one machine keeps it from nothing else; the API and Ray are played."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.cluster import placement, record
from raykube.cluster.addresses import MACHINES_MAX
from raykube.cluster.facts import Facts
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward import nodes, tending
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.decide import Member

DENIED = ApiError(403, "Forbidden", 'admission webhook "nodes.example" denied the request')
NOBODY = ApiError(503, "ServiceUnavailable", "no apiserver answered")


class Played:
    """Machines 1, 2, …; the first is the control plane, and its steward is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, **phases: str) -> None:
        machines = [
            Machine(
                name=f"m{index}", address=f"10.0.0.{index}", index=index, control_plane=index == 1,
                phase=phases.get(f"m{index}", ""),
            )  # type: ignore[arg-type]  # pydantic checks it
            for index in range(1, count + 1)
        ]  # fmt: skip
        self.state = ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=machines)
        self.alive = {machine.address: True for machine in machines}
        self.actors: set[str] = set()
        self.refused: dict[str, ApiError] = {}  # Node → what the apiservers say when it is written
        self.looked: list[str] = []
        self.labelled: list[str] = []
        self.serves = False  # the apiservers
        self.labels_tried = 0
        self.renewed = 0
        self.told = 0
        self.steward = tending.Tending(Config(state=self.state, machine="m1", data_dir=folder), self._on_ray)
        monkeypatch.setattr(self.steward, "_client", lambda _: None)
        monkeypatch.setattr(self.steward, "certify", lambda _: None)
        monkeypatch.setattr(tending, "certify", lambda *_: [])
        for name, value in {"look": self._look, "start": self._start, "renew": self._tell}.items():
            monkeypatch.setattr(placement, name, value)
        monkeypatch.setattr(placement, "renew_files", self._renew_files)
        monkeypatch.setattr(
            placement, "statuses", lambda items: {item.name: {"healthy": self.serves} for item in items}
        )
        monkeypatch.setattr(placement, "end_softly", self._end)
        for name, value in {"delete": self._delete, "drain": self._drain, "show_role": self._label}.items():
            monkeypatch.setattr(nodes, name, value)
        monkeypatch.setattr(record, "write", self._write)

    def passes(self, count: int) -> None:
        async def run() -> None:
            for _ in range(count):
                rows = [
                    {"NodeManagerAddress": address, "Alive": lives, "DeathReason": 1}
                    for address, lives in self.alive.items()
                ]
                sight = tending.Sight((Member(1, "m1"),), rows, set(self.actors))
                await self.steward.tend(self, self.state, 1, sight)  # type: ignore[arg-type]

        asyncio.run(run())

    @property
    def names(self) -> set[str]:
        return {machine.name for machine in self.state.machines}

    # ---- Ray

    async def _on_ray(self, call: Callable[[], Any], _timeout_s: float) -> Any:
        return call()

    def _look(self, rows: list[dict[str, Any]], _data_dir: Path) -> tuple[list[Facts], dict[str, str]]:
        found = [row["NodeManagerAddress"] for row in rows]
        self.looked += found
        return [
            Facts(address=each, hostname=f"n{each[-2:]}", version=tending.version("raykube"), is_root=True, runtimes=[])
            for each in found
        ], {}

    def _start(self, item: placement.Placement, *_: object) -> None:
        self.actors.add(item.name)

    def _end(self, names: list[str], *_: object, **__: object) -> dict[str, str]:
        self.actors.difference_update(names)
        return {}

    def _tell(self, *_: object) -> None:
        self.told += 1

    def _renew_files(self, *_: object) -> None:
        self.renewed += 1

    # ---- the store, and the API

    async def _write(self, _client: object, state: ClusterState, _revision: int) -> ClusterState:
        self.state = state
        return state

    def _check(self, name: str) -> None:
        if name in self.refused:
            raise self.refused[name]

    async def _delete(self, _client: object, name: str) -> None:
        self._check(name)

    async def _drain(self, _client: object, name: str) -> int:
        self._check(name)
        return 0

    async def _label(self, _client: object, name: str, _is_control_plane: bool) -> bool:
        self.labels_tried += 1
        self._check(name)
        self.labelled.append(name)
        return True


def test_a_node_that_may_not_be_deleted_keeps_no_other_machine_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, 4, m2="drained", m3="drained", m4="draining")
    played.alive |= {"10.0.0.2": False, "10.0.0.3": False}
    played.refused["m2"] = DENIED
    played.passes(3)
    assert played.names == {"m1", "m2", "m4"}
    assert played.state.machine("m4").phase == "drained"
    assert {"apiserver-m1", "kubelet-m1"} <= played.actors
    assert "m2" in played.steward.detail
    assert "nodes.example" in played.steward.detail
    played.refused.clear()
    played.passes(1)
    assert played.names == {"m1", "m4"}


def test_apiservers_are_started_though_none_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that leaves, or is forgotten, asks something of the API first."""
    played = Played(tmp_path, monkeypatch, 3, m2="drained", m3="draining")
    played.alive["10.0.0.2"] = False
    played.refused = dict.fromkeys(played.names, NOBODY)
    played.passes(1)
    assert "apiserver-m1" in played.actors


def test_a_machine_too_many_keeps_none_of_the_others_from_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, MACHINES_MAX, m2="draining")
    played.alive["10.0.1.1"] = True
    played.passes(3)
    assert played.state.machine("m2").phase == "drained"
    assert played.looked == ["10.0.1.1"], "not in every pass"
    assert f"more than the {MACHINES_MAX}" in played.steward.detail


def test_a_node_that_cannot_be_labelled_keeps_no_certificate_from_being_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, 3)
    played.refused["m2"] = DENIED
    played.passes(3)
    assert played.labelled == ["m1", "m3"]
    assert (played.told, played.renewed) == (1, 1)
    assert "label m2" in played.steward.detail
    played.refused.clear()
    played.passes(1)
    assert played.labelled == ["m1", "m3", "m2"]


def test_nodes_that_cannot_be_labelled_take_the_time_of_one_in_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook may take ten seconds to refuse each, and the store's members wait for the next pass."""
    played = Played(tmp_path, monkeypatch, 9)
    played.refused = dict.fromkeys(played.names - {"m9"}, DENIED)
    for count in range(1, 9):
        played.passes(1)
        assert played.labels_tried == count
    played.passes(1)
    assert played.labelled == ["m9"], "none is kept from it by those"
    played.state = played.state.model_copy(update={"machines": played.state.machines[:1]})
    played.alive = {"10.0.0.1": True}
    played.actors = {name for name in played.actors if name.endswith("-m1")}
    played.refused.clear()
    played.passes(1)
    assert played.labelled == ["m9", "m1"], "one that was forgotten is asked no more"


def test_a_machine_is_gone_since_this_steward_has_seen_it_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was gone for a moment, then another steward had the work for hours and saw it back. It is rebooted again."""
    played = Played(tmp_path, monkeypatch, 3)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(tending, "time", SimpleNamespace(monotonic=lambda: clock.now))
    played.alive["10.0.0.2"] = False
    played.passes(1)
    played.steward.rest()
    clock.now += 7200.0
    played.passes(1)
    assert played.names == {"m1", "m2", "m3"}
    assert played.told == 2, "who has just the control plane that it knew may have told nobody"
    clock.now += 601.0
    played.passes(1)
    assert played.names == {"m1", "m3"}


def test_the_last_apiserver_goes_when_another_one_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients learn from it where the other is. Without it they would ask for it for ever where it was."""
    played = Played(tmp_path, monkeypatch, 2)
    played.actors |= {"apiserver-m2", "scheduler-m2"}
    played.passes(3)
    assert {"apiserver-m1", "apiserver-m2"} <= played.actors
    assert "scheduler-m2" not in played.actors
    played.serves = True
    played.passes(1)
    assert "apiserver-m2" in played.actors, "they have just begun to hear of it"
    played.passes(1)
    assert "apiserver-m2" not in played.actors


@pytest.mark.parametrize(("answer", "phase"), [(DENIED, "drained"), (NOBODY, "draining")])
def test_a_machine_that_may_not_be_drained_has_no_longer_than_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: ApiError, phase: str
) -> None:
    """Who refuses does so for ever; who does not answer may yet."""
    played = Played(tmp_path, monkeypatch, 3, m2="draining")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(tending, "time", SimpleNamespace(monotonic=lambda: clock.now))
    played.refused["m2"] = answer
    for now in (0.0, 299.0):
        clock.now = now
        played.passes(1)
        assert played.state.machine("m2").phase == "draining"
        assert "drain m2" in played.steward.detail
    clock.now = 301.0
    played.passes(1)
    assert played.state.machine("m2").phase == phase

"""What a cluster that has no actors still has on a machine is found by their specs, and goes in the right order."""

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from raykube.cluster import departure, leftovers, placement
from raykube.cluster.actor import HostSpec
from raykube.cluster.plan import COMPONENTS, PACKAGES
from raykube.cluster.state import ClusterState, Machine


def spec(folder: Path, component: str, cluster: str = "c") -> HostSpec:
    made = HostSpec(
        name=f"{component}-m",
        services=[(PACKAGES[component], {"name": component})],
        files={},
        log_file="",
        spec_file=str(folder / f"{component}.json"),
        cluster=cluster,
    )
    (folder / f"{component}.json").write_text(made.model_dump_json())
    return made


def test_pods_go_before_their_network_and_other_clusters_stay(tmp_path: Path) -> None:
    spec(tmp_path, "pod-network")
    spec(tmp_path, "kubelet")
    spec(tmp_path, "kube-proxy", cluster="other")
    (tmp_path / "router.json").write_text("{")
    assert [each.name for each in leftovers.specs(tmp_path, "c")] == ["kubelet-m", "pod-network-m"]
    assert list(COMPONENTS).index("kubelet") > list(COMPONENTS).index("cri-docker"), "it needs that to end its pods"


class Leaves:
    """A service that leaves something on its machine. `fails`: the names of those that cannot take it away now."""

    fails: ClassVar[set[str]] = set()
    cleared: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    async def clear(self) -> None:
        if self.name in self.fails:
            raise RuntimeError("the runtime does not answer")
        self.cleared.append(self.name)


def test_what_could_not_go_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_service", lambda _, flags: Leaves(flags["name"]))
    monkeypatch.setattr(Leaves, "fails", {"kubelet"})
    monkeypatch.setattr(Leaves, "cleared", [])
    for component in ("kubelet", "kube-proxy", "pod-network"):
        spec(tmp_path, component)
    problems = asyncio.run(leftovers.clear_here(leftovers.specs(tmp_path, "c"), []))
    assert problems == {"kubelet-m": "the runtime does not answer"}
    assert Leaves.cleared == ["kube-proxy"], "pods keep their network until they have ended"
    told = departure.what_stays(problems, "raykube down")
    assert "kubelet-m: the runtime does not answer" in told
    assert "run 'raykube down' again" in told

    Leaves.fails.clear()
    assert asyncio.run(leftovers.clear_here(leftovers.specs(tmp_path, "c"), [])) == {}
    assert Leaves.cleared == ["kube-proxy", "kubelet", "pod-network"]
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_gives_no_answer_is_told_of_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"10.0.0.1": TimeoutError("some object(s) not ready"), "10.0.0.2": {}, "10.0.0.3": OSError("one\ntwo")}
    monkeypatch.setattr(placement, "call_at", lambda *_: answers)
    machines = [Machine(name=f"m{index}", address=f"10.0.0.{index}", index=index) for index in (1, 2, 3)]
    state = ClusterState(name="c", id="c" * 32, subnet=0, local=False, machines=machines)
    found = placement.clear_leftovers(state, tmp_path, machines)
    assert found == {
        "kubelet-m1": "no answer within 60 s: is it on? Ray takes minutes to notice a lost machine",
        "kubelet-m3": "two",
    }

"""What an `up` that fails takes down again: what it made, and nothing that was there."""

from pathlib import Path

import pytest

from raykube.api.errors import ApiError
from raykube.cluster import hollow, state, supervisor
from raykube.cluster.settings import Settings
from raykube.cluster.state import ClusterState, Machine


def cluster(local: bool) -> ClusterState:
    machine = Machine(name="c-1", address="127.0.0.2", index=1, control_plane=True)
    return ClusterState(name="c", id="f" * 32, subnet=3, local=local, machines=[machine])


@pytest.mark.parametrize(
    ("local", "is_new", "ends"), [(False, True, True), (False, False, False), (True, True, True), (True, False, True)]
)
def test_only_what_is_new_or_was_seen_to_be_down_is_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool, is_new: bool, ends: bool
) -> None:
    ended = []

    def interrupted(*_: object) -> ClusterState:
        raise KeyboardInterrupt

    # Ray knows no actor of it: its head began anew. Pods of other machines cannot be seen from here.
    monkeypatch.setattr(supervisor.placement, "find", lambda _: None)
    monkeypatch.setattr(supervisor, "resolve", lambda *_: (cluster(local), is_new))
    monkeypatch.setattr(supervisor, "_bring_up", interrupted)
    monkeypatch.setattr(supervisor, "_take_down", lambda *_: ended.append(True))
    wish = Settings(name="c", data_dir=tmp_path / "data", kubeconfig=tmp_path / "kubeconfig")
    with pytest.raises(KeyboardInterrupt):
        supervisor.up(wish, lambda *_: None)
    assert bool(ended) == ends


def test_a_cluster_that_runs_stays_where_surplus_hollow_nodes_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    async def refused(*_: object) -> None:
        raise ApiError(503, "ServiceUnavailable", "no apiserver answered")

    monkeypatch.setattr(supervisor, "resolve", lambda *_: (cluster(local=True), True))
    monkeypatch.setattr(supervisor, "_bring_up", lambda state, *_: state)
    monkeypatch.setattr(supervisor, "_take_down", lambda *_: ended.append(True))
    monkeypatch.setattr(hollow, "_forget", refused)
    wish = Settings(name="c", data_dir=tmp_path / "data", kubeconfig=tmp_path / "kubeconfig", hollow=0)
    with pytest.raises(OSError, match=r"some Nodes of hollow machines .*: no apiserver answered; try again"):
        supervisor.up(wish, lambda *_: None)
    assert ended == []


def test_an_up_that_is_refused_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    data_dir = tmp_path / "share" / "of" / "c"
    wish = Settings(name="c", data_dir=data_dir, kubeconfig=tmp_path / "kubeconfig", extra_config={"kv": {"bad": "1"}})
    with pytest.raises(supervisor.ClusterError, match="--bad: there is no such flag"):
        supervisor.up(wish, lambda *_: None)
    assert [path.name for path in tmp_path.rglob("*")] == ["share"]


@pytest.mark.parametrize("kept", ["cluster.json", ""])
def test_what_was_there_before_a_refusal_stays(tmp_path: Path, kept: str) -> None:
    data_dir = tmp_path / "c"
    data_dir.mkdir()
    if kept:
        state.save(data_dir, cluster(local=True))
    wish = Settings(name="another", data_dir=data_dir, kubeconfig=tmp_path / "kubeconfig")
    wish = wish.model_copy(update={"extra_config": {"kv": {"bad": "1"}}})
    with pytest.raises(supervisor.ClusterError):
        supervisor.up(wish, lambda *_: None)
    assert {path.name for path in data_dir.iterdir()} == {".lock", kept} - {""}

"""What an `up` that fails takes down again: what it made, and nothing that was there."""

from pathlib import Path

import pytest

from raykube.cluster import supervisor
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

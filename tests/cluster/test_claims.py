"""Two clusters that start at the same moment take different addresses."""

import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from raykube.cluster import claims
from raykube.cluster import state as cluster_state
from raykube.cluster.settings import Settings
from raykube.cluster.wish import ClusterError, first_choice, resolve


def wish(folder: Path, name: str) -> Settings:
    return Settings(name=name, data_dir=folder, kubeconfig=folder / "kubeconfig")


def test_a_claimed_subnet_is_passed_over_until_it_is_let_go(tmp_path: Path) -> None:
    name = f"c{uuid.uuid4().hex[:12]}"
    with ExitStack() as first, ExitStack() as second:
        taken = resolve(wish(tmp_path / "a", name), first)[0].subnet
        assert resolve(wish(tmp_path / "b", name), second)[0].subnet != taken
        first.close()
        claims.claim(taken).close()


def test_a_known_cluster_waits_for_no_other(tmp_path: Path) -> None:
    name = f"c{uuid.uuid4().hex[:12]}"
    with ExitStack() as first:
        known, _ = resolve(wish(tmp_path, name), first)
        cluster_state.save(tmp_path, known)
        with ExitStack() as second, pytest.raises(claims.Taken, match="try again"):
            resolve(wish(tmp_path, name), second)
    with ExitStack() as third:
        assert resolve(wish(tmp_path, name), third)[0].subnet == known.subnet


def test_the_default_cluster_begins_at_127_0_and_others_elsewhere() -> None:
    assert first_choice("raykube") == 0
    assert all(1 <= first_choice(name) < 256 for name in ("a", "b", "demo", "test"))
    assert first_choice("a") != first_choice("b")


def test_a_data_directory_of_another_name_is_refused(tmp_path: Path) -> None:
    with ExitStack() as held:
        cluster_state.save(tmp_path, resolve(wish(tmp_path, "one"), held)[0])
    with ExitStack() as held, pytest.raises(ClusterError, match="give --name one"):
        resolve(wish(tmp_path, "two"), held)

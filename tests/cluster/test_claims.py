"""Which cluster `up` means; two that start at the same moment take different addresses."""

import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from raykube.cluster import claims, machines
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


def test_a_control_plane_of_which_a_machine_is_lost_is_still_the_one_that_was_asked_for(tmp_path: Path) -> None:
    """Its member was removed before another could be made. It comes back only if `up` may start the cluster again."""
    asked = wish(tmp_path, "one").model_copy(update={"machines": 3, "control_plane": 3})
    with ExitStack() as held:
        known, _ = resolve(asked, held)
    machines.set_control_plane(known, ["one-1", "one-3"])
    cluster_state.save(tmp_path, known)
    with ExitStack() as held:
        assert len(resolve(asked, held)[0].control_plane) == 2
    with ExitStack() as held, pytest.raises(ClusterError, match="give --control-plane 3"):
        resolve(asked.model_copy(update={"control_plane": 1}), held)

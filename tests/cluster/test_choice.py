"""Which of the clusters that machines remember `up --address` means."""

import pytest

from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.wish import ClusterError, choose

MACHINES = [Machine(name="c-1", address="10.0.0.1", index=1, control_plane=True)]


def record(letter: str, generation: int, name: str = "c", machines: list[Machine] = MACHINES) -> ClusterState:
    return ClusterState(name=name, id=letter * 32, subnet=0, local=False, machines=machines, generation=generation)


NAME_ALONE = record("0", 0, machines=[])


def test_the_newest_record_of_the_cluster_counts() -> None:
    found = {"10.0.0.1": record("a", 3), "10.0.0.2": record("a", 7), "10.0.0.3": record("a", 5)}
    assert choose(NAME_ALONE, found) == (record("a", 7), "10.0.0.2")
    assert choose(record("a", 6), found) == (record("a", 7), "10.0.0.2")
    assert choose(record("a", 9), found) == (record("a", 9), "10.0.0.1")
    assert choose(NAME_ALONE, {"10.0.0.1": record("a", 7, name="d")}) == (NAME_ALONE, "")


def test_a_known_cluster_is_not_taken_for_another_of_its_name() -> None:
    assert choose(record("a", 2), {"10.0.0.1": record("b", 9)}) == (record("a", 2), "")
    assert choose(record("a", 2), {"10.0.0.1": record("b", 9), "10.0.0.2": record("a", 3)}) == (
        record("a", 3),
        "10.0.0.2",
    )


def test_one_of_several_clusters_is_not_guessed() -> None:
    found = {"10.0.0.1": record("b", 9), "10.0.0.2": record("a", 3), "10.0.0.3": record("b", 8)}
    with pytest.raises(ClusterError) as caught:
        choose(NAME_ALONE, found)
    assert f"{'a' * 32} on 10.0.0.2; {'b' * 32} on 10.0.0.1, 10.0.0.3" in str(caught.value)
    assert "run 'raykube up' on a machine of the one that you mean" in str(caught.value)

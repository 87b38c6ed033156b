"""A cluster of real machines loses one, for a short while: the short table of `python -m tests.testbed.loss`."""

import sys
from collections.abc import Iterator

import pytest

from tests.testbed import Testbed, identities, loss
from tests.testbed.cluster import HostCluster, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

FAULTS = [("host1", "kill"), ("host2", "cut")]
ROWS: list[loss.Row] = []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    with Testbed(hosts=4, folder=tmp_path_factory.mktemp("bed")) as bed, running(bed) as made:
        loss.start_workload(made)
        yield made
    sys.stderr.write(f"\n{loss.table(ROWS)}\n")


def test_every_machine_is_a_node_by_its_name_and_address(cluster: HostCluster) -> None:
    nodes = {
        node["metadata"]["name"]: {each["address"] for each in node["status"]["addresses"]}
        for node in cluster.objects("nodes")
    }
    assert nodes.keys() == {host.name for host in cluster.hosts}
    assert all(host.address in nodes[host.name] for host in cluster.hosts)


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=str)
def test_a_lost_machine_takes_nothing_along(cluster: HostCluster, name: str, fault: str) -> None:
    row = loss.lose(cluster, cluster.bed.hosts[name], fault, 10)
    ROWS.append(row)
    assert row.acknowledged > 0
    assert row.lost == [], "acknowledged writes are gone"
    assert row.touched == [], "containers of other machines are not the same processes"
    assert row.twice == [], "identities ran on two machines at a time"
    assert row.healed_s is not None, cluster.report()


def test_the_longest_pause_is_seen() -> None:
    assert loss.longest_pause([1.0, 2.0, 9.0, 9.5], begin=3.0) == 6.0
    assert loss.longest_pause([1.0, 9.0, 9.5], begin=9.1) == pytest.approx(0.4)
    assert loss.longest_pause([1.0], begin=2.0) == float("inf")


def test_an_identity_on_two_hosts_is_seen() -> None:
    def lives(*spans: tuple[str, str, int, int]) -> list[identities.Life]:
        return [identities.Life(*span) for span in spans]

    moved = lives(("identity-0", "host1", 10, 20), ("identity-0", "host2", 20, 30), ("identity-1", "host2", 10, 30))
    assert identities.overlapping(moved) == []
    assert identities.overlapping([*moved, *lives(("identity-0", "host3", 29, 31))]) == ["identity-0"]
    restarted = lives(("identity-0", "host1", 10, 20), ("identity-0", "host1", 15, 20))
    assert identities.overlapping(restarted) == [], "one host may still be ending what it restarts"

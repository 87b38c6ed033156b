"""What nodes reach is kept, and follows slices and nodes as they come, change and go."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.scheduler.core.cluster import Placement
from raykube.scheduler.core.device_pools import Pool, Pools
from raykube.scheduler.core.device_reach import Reach
from raykube.scheduler.core.nodes import NodeTable
from tests.scheduler.device_cluster import cluster, gpus, schedule, user
from tests.scheduler.device_objects import claim, device, device_class, exactly, resource_slice
from tests.scheduler.objects import Object, node

NODES = ("a", "b", "c")
ZONE = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]}]}
EACH: list[Object] = [
    device("x") | {"nodeName": "a"},
    device("y") | {"allNodes": True},
    device("z") | {"nodeName": "c"},
]
SLICES: list[Object | None] = [
    None,
    resource_slice("s", "a", gpus("g0")),
    resource_slice("s", "b", gpus("g0")),
    resource_slice("s", devices=gpus("g0"), allNodes=True),
    resource_slice("s", devices=gpus("g0"), nodeSelector=ZONE),
    resource_slice("s", devices=EACH, perDeviceNodeSelection=True),
]
CHANGES = st.one_of(
    st.tuples(st.just("slice"), st.sampled_from(["s0", "s1"]), st.sampled_from(SLICES)),
    st.tuples(st.just("node"), st.sampled_from(NODES), st.sampled_from([None, "1", "2"])),
    st.tuples(st.just("gone"), st.sampled_from(NODES), st.none()),
    st.tuples(st.just("named"), st.sampled_from(NODES), st.none()),  # by a pod, and nobody knows it
)


@settings(max_examples=300, deadline=None)
@given(st.lists(CHANGES, max_size=25))
def test_what_is_kept_is_what_would_be_found_anew(changes: list[tuple[str, str, Any]]) -> None:
    nodes, pools = NodeTable(), Pools()
    reach = Reach(nodes, pools)
    for what, name, value in changes:
        if what == "slice":
            reach.on_slices(pools.set_slice(name, value))
        elif what == "node":
            nodes.set_node(node(name, labels={} if value is None else {"zone": value}))
        elif what == "gone":
            nodes.remove_node(name)
        else:
            nodes.row_of(name)
        anew = Reach(nodes, pools)
        for row in np.flatnonzero(nodes.live).tolist():
            assert reach.of(row) == anew.of(row)
            assert reach.offers(row) == anew.offers(row)


def test_nodes_that_reach_the_same_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster(
        *(node(f"n{number}") for number in range(50)),
        resource_slice("s", devices=gpus(*(f"g{number}" for number in range(9))), allNodes=True, pool="all"),
        device_class(),
        *(claim(f"c{number}", exactly()) for number in range(9)),
    )
    assert isinstance(schedule(found, user("p0", "c0")), Placement)
    looks = 0
    of_node = Pools.of_node

    def counted(pools: Pools, name: str) -> list[Pool]:
        nonlocal looks
        looks += 1
        return of_node(pools, name)

    monkeypatch.setattr(Pools, "of_node", counted)
    for number in range(1, 9):
        assert isinstance(schedule(found, user(f"p{number}", f"c{number}")), Placement)
    assert looks == 8 * 2, "to see whether there is a device, and to choose it"

"""The node table's cells are its columns, whatever happened to the arrays."""

from typing import Any

import numpy as np

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.nodes import ROWS_MIN, NodeTable
from tests.scheduler.objects import node, pod


def the_same(table: NodeTable) -> bool:
    cells = table.cells
    pairs: list[tuple[Any, Any]] = [(table.pods_allowed, cells.pods_allowed), (table.pod_count, cells.pod_count)]
    for columns, views in (
        (table.allocatable, cells.allocatable),
        (table.per_unit, cells.per_unit),
        (table.requested, cells.requested),
        (table.unasked, cells.unasked),
    ):
        pairs += zip(columns, views, strict=True)
    return all(np.shares_memory(column, np.asarray(view)) and len(column) == len(view) for column, view in pairs)


def test_cells_are_those_of_columns_that_grew() -> None:
    cluster = Cluster()
    for number in range(ROWS_MIN):
        cluster.on_node(node(f"n{number}"))
    assert isinstance(cluster.schedule(cluster.read_pod(pod("before", "1"))), Placement)
    before = cluster.nodes.requested
    cluster.on_node(node("one-more"))
    assert cluster.nodes.requested is not before
    assert the_same(cluster.nodes)
    for number in range(ROWS_MIN):
        found = cluster.schedule(cluster.read_pod(pod(f"after-{number}", "1")))
        assert isinstance(found, Placement)
    assert cluster.nodes.pod_count[: ROWS_MIN + 1].tolist() == [1] * (ROWS_MIN + 1)


def test_cells_are_those_of_columns_that_more_resources_have() -> None:
    cluster = Cluster()
    for number in range(20):
        cluster.on_node(node(f"n{number}", extra={f"example.com/r{number}": "1"}))
        assert the_same(cluster.nodes)

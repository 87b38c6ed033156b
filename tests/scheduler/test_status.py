"""Changes of placed pods that need not be read."""

import orjson
import pytest

from raykube.scheduler.core import outline
from raykube.scheduler.core.cluster import Cluster, Placement
from tests.scheduler.objects import Object, node, pod


@pytest.mark.parametrize(
    "part, about, same",
    [
        ("status", {"phase": "Running"}, True),
        ("status", {"phase": "Succeeded"}, False),
        ("metadata", {"labels": {"a": "b"}}, False),
        ("metadata", {"generation": 2}, False),
        ("metadata", {"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
        ("spec", {"nodeName": "other"}, False),
    ],
)
def test_a_pod_whose_status_alone_changed_need_not_be_read(part: str, about: Object, same: bool) -> None:
    cluster = Cluster()
    cluster.on_node(node("n"))
    obj = pod("p", "1")
    obj["metadata"]["generation"] = 1
    assert not cluster.on_status(obj)
    assert isinstance(cluster.schedule(cluster.read_pod(obj)), Placement)
    assert not cluster.on_status(obj)  # it is not bound yet
    bound = obj | {"spec": obj["spec"] | {"nodeName": "n"}}
    assert cluster.on_status(bound | {part: bound[part] | about}) == same
    # What the API said is no assumption any more.
    assert cluster.forget("uid-p") != same


@pytest.mark.parametrize("phase, same", [("Running", True), ("Failed", False)])
def test_a_pod_is_read_as_far_as_its_status_only_then_whole(phase: str, same: bool) -> None:
    cluster = Cluster()
    cluster.on_node(node("n"))
    obj = pod("p", "1")
    obj["metadata"]["generation"] = 1
    assert outline.read(orjson.dumps(obj)) == obj
    assert isinstance(cluster.schedule(cluster.read_pod(obj)), Placement)
    placed = obj | {"spec": obj["spec"] | {"nodeName": "n"}, "status": {"phase": phase}}
    seen = outline.read(orjson.dumps(placed))
    assert isinstance(seen, outline.Outline)
    assert seen.whole() == placed
    assert seen["spec"] == {"nodeName": "n"}
    assert cluster.on_status(seen) == same

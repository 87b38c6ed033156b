"""How long pods wait for a CPU: counted by the kernel, told in the node's Lease."""

import asyncio
import os
import threading
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import slowdowns as notes
from raykube.kubelet import slowdowns
from raykube.kubelet.core.criconfig import POD_UID, first_process
from raykube.kubelet.core.slowdown import Ran, slowdown
from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from tests.kit.waiting import until
from tests.kubelet.conftest import Node, container

S = 1_000_000_000
BUSY = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


def test_waiting_counts_against_running() -> None:
    before = {(1, 7): Ran(2 * S, 1 * S), (2, 8): Ran(5 * S, 5 * S)}
    after = {(1, 7): Ran(6 * S, 3 * S), (3, 9): Ran(4 * S, 2 * S)}
    assert slowdown(before, after, 10.0) == pytest.approx((8 + 4) / 8)


def test_what_hardly_ran_says_nothing() -> None:
    assert slowdown({}, {(1, 1): Ran(S // 20, 9 * S)}, 10.0) is None
    assert slowdown({}, {(1, 1): Ran(S, 0)}, 0.0) is None
    assert slowdown({}, {}, 10.0) is None


def test_a_thread_id_that_is_used_again_is_another_thread() -> None:
    assert slowdown({(1, 1): Ran(9 * S, 0)}, {(1, 2): Ran(1 * S, 1 * S)}, 10.0) == 2.0


@given(st.dictionaries(st.text(max_size=8), st.floats(1, 100), max_size=100))
def test_the_most_disturbed_are_told(found: dict[str, float]) -> None:
    read = notes.read({"metadata": {"annotations": {notes.ANNOTATION: notes.written(found)}}})
    assert len(read) == min(len(found), notes.PODS_MAX)
    worst = sorted(found.values(), reverse=True)[: notes.PODS_MAX]
    assert sorted(read.values(), reverse=True) == pytest.approx(worst, abs=0.006)


@pytest.mark.parametrize("text", ["", "null", "[1]", "{", '{"a": "1.5", "b": true, "c": null, "d": [1]}', None, 7])
def test_what_is_no_report_is_none(text: Any) -> None:
    assert notes.read({"metadata": {"annotations": {notes.ANNOTATION: text}}}) == {}
    assert notes.read({"metadata": {}}) == {}


@pytest.mark.parametrize(
    ("info", "pid"),
    [
        ({"pid": "17"}, 17),
        ({"info": '{"pid": 18, "removing": false}'}, 18),
        ({"info": "{}"}, 0),
        ({"info": "no"}, 0),
        ({}, 0),
    ],
)
def test_where_runtimes_name_the_first_process(info: dict[str, str], pid: int) -> None:
    assert first_process(info) == pid


class Runtime:
    """Names the first processes of containers that it lists, but for one that has gone."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids

    async def containers(self) -> list[cri_pb2.Container]:
        running = cri_pb2.CONTAINER_RUNNING
        return [cri_pb2.Container(id=name, state=running, labels={POD_UID: name}) for name in [*self._pids, "gone"]]

    async def first_process(self, container_id: str) -> int:
        if container_id == "gone":
            raise RpcError(Code.NOT_FOUND, "no such container")
        return self._pids[container_id]


async def test_a_container_that_goes_costs_the_others_nothing() -> None:
    for first in (True, False):
        pids = {"gone": 0, "here": os.getpid()} if first else {"here": os.getpid()}
        reader = slowdowns.SlowdownReader(cast(Cri, Runtime(pids)))
        assert await reader._find() == {"here": [os.getpid()]}


async def test_the_kernel_is_asked_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[threading.Thread, int]] = []

    def threads_of(pids: Any, most: int) -> dict[tuple[int, int], Ran]:
        asked.append((threading.current_thread(), most))
        return {}

    monkeypatch.setattr(slowdowns, "threads_of", threads_of)
    count = slowdowns.ALL_THREADS_MAX // 2
    reader = slowdowns.SlowdownReader(cast(Cri, Runtime({f"c{number}": 1 for number in range(count)})))
    running = asyncio.create_task(reader.run())
    try:
        await until(lambda: len(asked) == count)
    finally:
        running.cancel()
    assert threading.main_thread() not in {thread for thread, _ in asked}
    assert sum(most for _, most in asked) <= slowdowns.ALL_THREADS_MAX


def test_of_many_threads_the_first_ones_are_read() -> None:
    over = threading.Event()
    others = [threading.Thread(target=over.wait) for _ in range(8)]
    for other in others:
        other.start()
    try:
        assert len(slowdowns.threads_of([os.getpid()], 4)) == 4
        assert len(slowdowns.threads_of([os.getpid()], 512)) >= 9
    finally:
        over.set()
        for other in others:
            other.join()


@pytest.mark.integration
@pytest.mark.parametrize("flags", [{"node_lease_duration_seconds": 4}])
async def test_two_that_share_a_cpu_are_told_of(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdowns, "PERIOD_S", 1.0)
    script = BUSY % min(os.sched_getaffinity(0))
    pods = [await node.pod(name, container("python3", "-c", script)) for name in ("a", "b")]
    for name in ("a", "b"):
        await node.phase(name, "Running")

    def told() -> dict[str, float]:
        lease = node.store.objects.get(("leases", "kube-node-lease", "n1"), {"metadata": {}})
        return notes.read(orjson.loads(orjson.dumps(lease)))

    # Each has half of the CPU at most, so its work takes twice as long.
    await until(lambda: all(told().get(pod["metadata"]["uid"], 0.0) > 1.5 for pod in pods), 60, "both are told of")

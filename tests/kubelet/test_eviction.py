"""Eviction: the pure rules, then real pods that fill a small disk of the test's own."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import quantity
from raykube.api.resources import builtin
from raykube.kubelet.core import ranking
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.thresholds import (
    Amount,
    Observation,
    Pressure,
    Threshold,
    parse_thresholds,
)
from raykube.kubelet.core.usage import ContainerUsage, Filesystem, Memory, PodUsage
from tests.kit.require import missing
from tests.kit.transcript import Step, play
from tests.kit.waiting import until
from tests.kubelet.conftest import Node, running_node, shell, state

NODES = builtin("v1", "Node")
MEMORY = Threshold("memory.available", Amount(100))
DISK = Threshold("nodefs.available", Amount(100))


class Played:
    pressure = Pressure((), 0.0)

    def __call__(self, step: Step) -> str:
        if step.command == "thresholds":
            words = dict(argument.split("=", 1) for argument in step.arguments)
            texts = [words.get(name, "") for name in ("hard", "soft", "grace", "reclaim")]
            try:
                self.pressure = Pressure(parse_thresholds(*texts), float(words.get("transition", "0")))
            except ValueError as error:
                return f"error: {error}"
            return ""
        at = float(step.arguments[0])
        seen = {}
        for argument in step.arguments[1:]:
            signal, amounts = argument.split("=")
            available, capacity = map(quantity.value, amounts.split("/"))
            seen[signal] = Observation(available, capacity, at)
        acting = self.pressure.observe(seen, at)
        shown = " ".join(f"{'soft ' if one.soft else ''}{one.signal}" for one in acting)
        return f"conditions: {' '.join(sorted(self.pressure.conditions)) or '-'}\nact on: {shown or '-'}"


def test_pressure(rewrite: bool) -> None:
    play(Path(__file__).parent / "testdata" / "pressure.txt", Played(), rewrite)


def a_pod(uid: str, request: int = 0, priority: int = 0, **spec: Any) -> Object:
    container = {"name": "c", "resources": {"requests": {"memory": str(request), "ephemeral-storage": str(request)}}}
    metadata = {"name": uid, "namespace": "ns", "uid": uid} | spec.pop("metadata", {})
    return {"metadata": metadata, "spec": {"containers": [container], "priority": priority} | spec}


def usage_of(uid: str, used: int) -> PodUsage:
    disk = Filesystem(1.0, used)
    container = ContainerUsage("id", "c", 0, memory=Memory(1.0, used), rootfs=disk)
    return PodUsage(uid, uid, "ns", memory=Memory(1.0, used), containers=(container,))


MEMBERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.one_of(st.none(), st.integers(0, 6))), max_size=8)


def goes_before(one: tuple[int, int, int | None], other: tuple[int, int, int | None]) -> bool:
    """The rules, read aloud: unmeasured, above its request, less priority, most above its request."""
    if (one[2] is None) != (other[2] is None):
        return one[2] is None
    if one[2] is None or other[2] is None:
        return one[1] < other[1]
    if (one[2] > one[0]) != (other[2] > other[0]):
        return one[2] > one[0]
    if one[1] != other[1]:
        return one[1] < other[1]
    return one[2] - one[0] > other[2] - other[0]


@given(MEMBERS, st.sampled_from([MEMORY, DISK]))
def test_who_goes_first(members: list[tuple[int, int, int | None]], threshold: Threshold) -> None:
    pods = [a_pod(str(index), request, priority) for index, (request, priority, _) in enumerate(members)]
    usages = {str(index): usage_of(str(index), used) for index, (_, _, used) in enumerate(members) if used is not None}
    order = [members[int(pod["metadata"]["uid"])] for pod in ranking.ranked(pods, usages.get, threshold, False)]
    for first, second in pairwise(order):
        assert not goes_before(second, first)


def test_what_is_said_of_an_evicted_pod() -> None:
    seen = {"memory.available": Observation(80 * 1024, 2**20, 1.0)}
    threshold = Threshold("memory.available", Amount(100 * 1024))
    verdict = ranking.eviction(a_pod("u", 1024), usage_of("u", 4096), threshold, seen, 0)
    assert verdict.message == (
        "The node was low on resource: memory. Threshold quantity: 100Ki, available: 80Ki. "
        "Container c was using 4Ki, request is 1024, has larger consumption of memory. "
    )
    assert (verdict.reason, verdict.disruption, verdict.grace_s) == ("Evicted", "TerminationByKubelet", 1)
    soft = Threshold("memory.available", Amount(100), 1.0, soft=True)
    assert ranking.eviction(a_pod("u"), None, soft, {}, 7).grace_s == 7
    assert ranking.eviction(a_pod("u", terminationGracePeriodSeconds=3), None, soft, {}, 7).grace_s == 3


def test_critical_pods_are_spared_and_admitted() -> None:
    static = a_pod("s", metadata={"annotations": {"kubernetes.io/config.source": "file"}})
    system = a_pod("c", priority=2_000_000_000)
    both = frozenset({"MemoryPressure", "DiskPressure"})
    for pod in (static, system):
        assert ranking.is_critical(pod)
        assert ranking.admit_under_pressure(pod, both) is None
    verdict = ranking.admit_under_pressure(a_pod("p", 1), both)
    assert verdict is not None
    assert verdict.message == "Pod was rejected: The node had condition: [MemoryPressure DiskPressure]. "


@pytest.mark.parametrize(
    ("toleration", "comes"),
    [
        (None, False),
        ({"operator": "Exists"}, True),
        ({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "node.kubernetes.io/memory-pressure", "value": "x"}, False),
    ],
)
def test_best_effort_pods_under_memory_pressure(toleration: Object | None, comes: bool) -> None:
    pod = a_pod("p", 0, tolerations=[toleration] if toleration else [])
    assert (ranking.admit_under_pressure(pod, frozenset({"MemoryPressure"})) is None) == comes
    assert ranking.admit_under_pressure(a_pod("p", 1), frozenset({"MemoryPressure"})) is None


# -- with real pods


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose volumes and logs are on a disk of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64m,nr_inodes=4096", "tmpfs", str(disk)]
    mounting = await asyncio.create_subprocess_exec("mount", *options, stderr=subprocess.DEVNULL)
    if await mounting.wait() != 0:
        missing("needs to mount a file system")
    try:
        async with running_node(
            root_dir=disk / "kubelet",
            eviction_hard="nodefs.available<50%,nodefs.inodesFree<50%",
            eviction_pressure_transition_period=1.0,
            housekeeping_interval=0.2,
        ) as node:
            yield node
    finally:
        unmounting = await asyncio.create_subprocess_exec("umount", "-l", str(disk))
        assert await unmounting.wait() == 0


def fills(megabytes: int) -> Object:
    script = f"dd if=/dev/zero of=/data/file bs=1M count={megabytes} 2>/dev/null; exec sleep 1000"
    return shell(script, volumeMounts=[{"name": "data", "mountPath": "/data"}])


DATA: list[Object] = [{"name": "data", "emptyDir": {}}]


async def condition_is(node: Node, kind: str, status: str) -> None:
    def found() -> str:
        shown = node.store.objects.get(("nodes", "", "n1"), {"status": {"conditions": []}})
        return next((str(one["status"]) for one in shown["status"]["conditions"] if one["type"] == kind), "")

    await until(lambda: found() == status, 20, f"{kind} is {status}")


@pytest.mark.integration
async def test_a_full_disk_costs_the_pod_that_filled_it(small: Node) -> None:
    await small.pod("modest", shell("exec sleep 1000"))
    await small.pod("critical", fills(2), volumes=DATA, priority=2_000_000_000)
    modest = await small.phase("modest", "Running")
    await small.phase("critical", "Running")
    await small.pod("greedy", fills(40), volumes=DATA)
    greedy = (await small.phase("greedy", "Failed"))["status"]
    assert greedy["reason"] == "Evicted"
    assert greedy["message"].startswith("The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, ")
    (target,) = [one for one in greedy["conditions"] if one["type"] == "DisruptionTarget"]
    assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
    await small.event("Evicted", "The node was low on resource: ephemeral-storage.")
    await small.event("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage")
    await small.event("NodeHasDiskPressure", "Node n1 status is now: NodeHasDiskPressure")
    await condition_is(small, "DiskPressure", "False")  # its volumes are gone, and the transition period is over
    await small.event("NodeHasNoDiskPressure", "Node n1 status is now: NodeHasNoDiskPressure")
    for name in ("modest", "critical"):
        await small.phase(name, "Running")
    after = await small.phase("modest", "Running")
    assert state(after)["containerID"] == state(modest)["containerID"]
    await small.pod("next", shell("exec sleep 1000"))
    await small.phase("next", "Running")


@pytest.mark.integration
async def test_who_comes_while_the_disk_is_full_is_sent_away(small: Node) -> None:
    disk = small.flags["root_dir"].parent
    assert disk.is_mount()
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(40 << 20))
    await condition_is(small, "DiskPressure", "True")
    await small.pod("late", shell("exec sleep 1000"))
    late = (await small.phase("late", "Failed"))["status"]
    assert late["reason"] == "Evicted"
    assert late["message"] == "Pod was rejected: The node had condition: [DiskPressure]. "
    ballast.unlink()
    await condition_is(small, "DiskPressure", "False")


@pytest.mark.integration
async def test_inodes_run_short_too(small: Node) -> None:
    script = "i=0; while test $i -lt 2500; do : > /data/$i; i=$((i+1)); done; exec sleep 1000"
    await small.pod("many", shell(script, volumeMounts=[{"name": "data", "mountPath": "/data"}]), volumes=DATA)
    many = (await small.phase("many", "Failed"))["status"]
    assert many["message"].startswith("The node was low on resource: inodes. Threshold quantity: 2Ki, available: ")


@pytest.mark.integration
@pytest.mark.parametrize("flags", [{"housekeeping_interval": 0.2}])
async def test_limits_on_disk(node: Node) -> None:
    sized = [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]
    limited = {"resources": {"limits": {"ephemeral-storage": "1Mi"}}}
    await node.pod("sized", fills(3), volumes=sized)
    await node.pod("limited", fills(3) | limited, volumes=DATA)
    noise = "dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\\0' 'x' | fold -w 1000; exec sleep 1000"
    await node.pod("noisy", shell(noise) | limited)
    await node.pod("within", fills(3), volumes=[{"name": "data", "emptyDir": {"sizeLimit": "8Mi"}}])
    messages = {
        "sized": 'Usage of EmptyDir volume "data" exceeds the limit "1Mi". ',
        "limited": "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        "noisy": "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
    }
    for name, message in messages.items():
        status = (await node.phase(name, "Failed"))["status"]
        assert (status["reason"], status["message"]) == ("Evicted", message)
        assert state({"status": status})["state"]["terminated"]["exitCode"] == 143  # it had its second
    await node.phase("within", "Running")


@pytest.mark.integration
@pytest.mark.parametrize(
    "flags",
    [
        {
            "eviction_hard": "memory.available<1Ki",
            "eviction_soft": "memory.available<99.9999%",  # less than that is always free
            "eviction_soft_grace_period": "memory.available=3s",
            "eviction_max_pod_grace_period": 1,
            "housekeeping_interval": 0.2,
        }
    ],
)
async def test_a_soft_threshold_waits_and_takes_the_pod_that_is_over_its_request(node: Node) -> None:
    await condition_is(node, "MemoryPressure", "True")
    await node.pod("best-effort", shell("exec sleep 1000"))
    within = {"resources": {"requests": {"memory": "1Gi"}}}
    over = {"resources": {"requests": {"memory": "1"}}}
    await node.pod("within", shell("trap 'exit 0' TERM; sleep 1000 & wait") | within)
    await node.pod("over", shell("trap 'exit 0' TERM; sleep 1000 & wait") | over)
    rejected = (await node.phase("best-effort", "Failed"))["status"]
    assert rejected["message"] == "Pod was rejected: The node had condition: [MemoryPressure]. "
    evicted = (await node.phase("over", "Failed"))["status"]
    assert "Container c was using " in evicted["message"]
    assert evicted["message"].endswith("request is 1, has larger consumption of memory. ")
    assert evicted["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0  # it had its grace period

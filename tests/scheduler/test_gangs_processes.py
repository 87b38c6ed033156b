"""Gangs on real processes: the scheduler is killed while it binds, and no gang is ever seen half placed."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from tests.kit.controlplane import ControlPlane, until
from tests.kit.require import require_program
from tests.scheduler.objects import Object, node

pytestmark = pytest.mark.integration

SLOTS, SIZE = 10, 6
ROUNDS = 4
PODS = builtin("v1", "Pod")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    require_program("kubectl")
    config = {"scheduler": {"leader-elect": "false"}}
    with ControlPlane(tmp_path_factory.mktemp("gangs"), extra_config=config) as running:
        running.start("kv", "apiserver", "controller-manager")
        nodes = [node(f"slot-{number}", cpu="1") for number in range(SLOTS)]
        running.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(one) for one in nodes))
        for one in nodes:
            patch = json.dumps({"status": one["status"]})
            running.kubectl("patch", "node", one["metadata"]["name"], "--subresource=status", "-p", patch)
        until("default account", lambda: not running.kubectl_run("get", "serviceaccount", "default").returncode)
        yield running


def gang(name: str) -> list[Object]:
    group: Object = {
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"schedulingPolicy": {"gang": {"minCount": SIZE}}},
    }
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}
    pods: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-{number}"},
            "spec": {
                "containers": [container],
                "schedulingGroup": {"podGroupName": name},
                # Nobody plays kubelet here: the machines are taken for dead after a while.
                "tolerations": [{"operator": "Exists"}],
            },
        }
        for number in range(SIZE)
    ]
    return [group, *pods]


def counted(pods: list[Object]) -> Counter[str]:
    """Placed pods by gang."""
    return Counter(
        one["spec"]["schedulingGroup"]["podGroupName"]
        for one in pods
        if one["spec"].get("nodeName") and "schedulingGroup" in one["spec"]
    )


async def watch_counts(plane: ControlPlane, seen: set[tuple[str, int]], ending: set[str]) -> None:
    """Lists as fast as it can, and notes how many pods are placed of each gang that nobody deletes."""
    async with ApiClient(plane.grpc_servers, plane.tls()) as client:
        while True:
            pods, _ = await client.list(PODS, "default")
            seen.update((name, count) for name, count in counted(pods).items() if name not in ending)


async def test_no_gang_is_half_placed_though_the_scheduler_is_killed(plane: ControlPlane) -> None:
    chance = random.Random(20)
    seen: set[tuple[str, int]] = set()
    ending: set[str] = set()
    watching = asyncio.create_task(watch_counts(plane, seen, ending))
    try:
        for turn in range(ROUNDS):
            await asyncio.to_thread(one_round, plane, turn, chance, ending)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert {count for _, count in seen} == {SIZE}, seen


def one_round(plane: ControlPlane, turn: int, chance: random.Random, ending: set[str]) -> None:
    names = [f"a{turn}", f"b{turn}"]
    plane.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(o) for name in names for o in gang(name)))
    # It dies some time around its first decisions; the later rounds are closer to them.
    for _ in range(2):
        plane.start("scheduler")
        time.sleep(chance.uniform(0.0, 0.25))
        plane.kill("scheduler-plane-1", signal.SIGKILL)
        assert all(count == SIZE for count in counted(plane.objects("pods")).values())
    plane.start("scheduler")
    try:
        until("one gang is placed", lambda: counted(plane.objects("pods")).total() == SIZE)
        waiting = next(name for name in names if not counted(plane.objects("pods"))[name])
        until(
            "the other one says why",
            lambda: why(plane, waiting) == f'pod group "{waiting}" needs 6 pods at once, 4 fit',
        )
        placed = next(name for name in names if name != waiting)
        rows = plane.kubectl("get", "podgroups", "--no-headers").splitlines()
        assert sorted(row.split()[:3] for row in rows) == sorted(
            [[placed, "Gang", "Scheduled"], [waiting, "Gang", "Unschedulable"]]
        )
        ending.add(placed)
        plane.kubectl("delete", "pods", "--force", "--grace-period=0", *(f"{placed}-{n}" for n in range(SIZE)))
        until("the other one is placed", lambda: counted(plane.objects("pods"))[waiting] == SIZE)
        ending.add(waiting)
        plane.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        plane.kubectl("delete", "podgroups", "--all")
    finally:
        plane.kill("scheduler-plane-1")


def why(plane: ControlPlane, name: str) -> str:
    (group,) = [one for one in plane.objects("podgroups") if one["metadata"]["name"] == name]
    conditions = group.get("status", {}).get("conditions") or []
    return next((one["message"].partition(":")[0] for one in conditions if one["status"] == "False"), "")


def test_a_gang_larger_than_the_cluster_says_so_and_others_go_on(plane: ControlPlane) -> None:
    plane.start("scheduler")
    try:
        group, *pods = gang("large")
        group["spec"]["schedulingPolicy"]["gang"]["minCount"] = SLOTS + 2
        more = [dict(pods[0], metadata={"name": f"large-{number}"}) for number in range(SLOTS + 2)]
        alone = dict(pods[0], metadata={"name": "alone"}, spec={**pods[0]["spec"], "schedulingGroup": None})
        plane.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(one) for one in (group, *more, alone)))
        text = 'pod group "large" is larger than the cluster: it needs 12 pods at once, 10 fit when nothing else runs'
        plane.kubectl("wait", "--for=condition=PodScheduled", "pod/alone", "--timeout=30s")

        def said() -> bool:
            conditions = json.loads(plane.kubectl("get", "pod", "large-3", "-o", "json"))["status"].get("conditions")
            return any(one["message"] == text for one in conditions or () if one["type"] == "PodScheduled")

        until("the gang says that it is too large", said)
        until(
            "an event says so",
            lambda: text in plane.kubectl("get", "events", "--field-selector=reason=FailedScheduling"),
        )
        assert not counted(plane.objects("pods"))
    finally:
        plane.kill("scheduler-plane-1")

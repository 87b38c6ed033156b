"""A containerd that is missing, hangs or dies: the node says so, and pods are well again by themselves."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit import images
from tests.kit.registry import Registry
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, PODS, Object, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration


@pytest.fixture
def flags() -> dict[str, Any]:
    return {"runtime_request_timeout": 2.0}


def ready(node: ContainerdNode) -> Object:
    status = node.store.objects.get(("nodes", "", NODE), {}).get("status", {})
    return next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {"status": "", "message": ""})


async def node_is(node: ContainerdNode, condition: Callable[[Object], bool]) -> None:
    await until(lambda: condition(ready(node)), 40, "the node's condition Ready")


def is_ready(condition: Object) -> bool:
    return bool(condition["status"] == "True")


def is_down(condition: Object) -> bool:
    return condition["status"] == "False" and "container runtime is down" in condition["message"]


async def test_it_dies_and_comes_back(node: ContainerdNode) -> None:
    await node.pod("p", shell("exec sleep 1000"))
    before = await node.phase("p", "Running")
    node.containerd.kill()
    await node_is(node, is_down)
    await node.pod("late", shell("exec sleep 1000"))  # bound to the node before anybody knew
    node.containerd.start()
    await node_is(node, is_ready)
    await node.phase("late", "Running")
    after = await node.phase("p", "Running")
    assert state(after)["containerID"] == state(before)["containerID"]
    assert state(after)["restartCount"] == 0


async def test_it_hangs(node: ContainerdNode) -> None:
    await node.pod("p", shell("exec sleep 1000"))
    before = await node.phase("p", "Running")
    node.containerd.signal(signal.SIGSTOP)
    try:
        await node_is(node, is_down)
        await node.pod("late", shell("exec sleep 1000"))
    finally:
        node.containerd.signal(signal.SIGCONT)
    await node_is(node, is_ready)
    await node.phase("late", "Running", 40)
    after = await node.phase("p", "Running")
    assert state(after)["containerID"] == state(before)["containerID"]
    assert state(after)["restartCount"] == 0


async def test_it_is_not_there_when_the_kubelet_starts(node: ContainerdNode) -> None:
    await node.kubelet.stop()
    node.containerd.kill()
    await node.start_kubelet(waits=False)
    await node_is(node, is_down)
    await node.pod("early", shell("exec sleep 1000"))
    node.containerd.start()
    await node.phase("early", "Running")
    await node_is(node, is_ready)


async def test_what_ended_while_it_was_away_is_started_again(node: ContainerdNode) -> None:
    await node.pod("p", shell("exec sleep 1000"))
    pod = await node.phase("p", "Running")
    pid = node.containerd.tasks()[state(pod)["containerID"].removeprefix("containerd://")]
    node.containerd.kill()
    node.containerd.run("kill", "-9", str(pid))
    node.containerd.start()
    pod = await node.sees("p", lambda pod: state(pod)["restartCount"] == 1 and "running" in state(pod)["state"])
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 137


async def test_it_dies_in_the_middle_of_a_pull(node: ContainerdNode) -> None:
    with Registry() as registry:
        name = registry.add(images.build("faults/app:1", files={"/faults": b"1"}))
        registry.gate.clear()
        await node.pod("p", shell("exec sleep 1000", image=name))
        await until(lambda: registry.pulls("faults/app") > 0, 20, "the pull begins")
        node.containerd.kill()
        await node_is(node, is_down)
        # Nothing is wrong with the image: no reason is shown, and no back-off begins.
        pod = await node.phase("p", "Pending")
        assert state(pod)["state"] == {"waiting": {"reason": "ContainerCreating"}}
        registry.gate.set()
        node.containerd.start()
        await node_is(node, is_ready)
        pod = await node.phase("p", "Running", 40)
        assert state(pod)["restartCount"] == 0


async def test_it_dies_while_a_pod_ends(node: ContainerdNode) -> None:
    await node.pod("p", shell("trap 'echo told' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=6)
    await node.phase("p", "Running")
    await node.client.delete(PODS, "default", "p")
    await until(lambda: "told" in node.log("p"), 20, "the pod ends")
    node.containerd.kill()
    await node_is(node, is_down)
    assert ("pods", "default", "p") in node.store.objects  # nobody may take its place while it may run
    node.containerd.start()
    await node.gone("p", 40)
    assert not node.containerd.tasks()

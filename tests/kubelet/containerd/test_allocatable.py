"""All pods together are held to what the node offers them."""

from pathlib import Path

import pytest

from raykube.kubelet.core.sizes import SHARES_PER_CPU
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, shell
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration

ENFORCED = "Updated Node Allocatable limit across pods"


def limit_of(node: ContainerdNode, controller: str, file: str) -> Path:
    return Path(f"/sys/fs/cgroup/{controller}{node.containerd.cgroup_root}/kubepods/{file}")


def forget_events(node: ContainerdNode) -> None:
    for key in [key for key in node.store.objects if key[0] == "events"]:
        del node.store.objects[key]


@pytest.mark.parametrize("flags", [{"capacity": "cpu=2,memory=2Gi", "system_reserved": "cpu=500m,memory=512Mi"}])
async def test_what_is_reserved_is_kept_from_pods(node: ContainerdNode) -> None:
    await node.event("NodeAllocatableEnforced", ENFORCED)
    memory, shares = limit_of(node, "memory", "memory.limit_in_bytes"), limit_of(node, "cpu", "cpu.shares")
    assert int(memory.read_text()) == 3 * 512 << 20
    assert int(shares.read_text()) == 1.5 * SHARES_PER_CPU
    # Ours follows the flags of the next kubelet; what somebody else sets meanwhile stays.
    await node.kubelet.stop()
    forget_events(node)
    shares.write_text("77")
    node.flags["system_reserved"] = "memory=1Gi"
    await node.start_kubelet()
    await node.event("NodeAllocatableEnforced", ENFORCED)
    assert int(memory.read_text()) == 1 << 30
    assert int(shares.read_text()) == 77
    shares.write_text("1024")
    memory.write_text("-1")


async def test_more_in_use_than_there_may_be_is_said_and_tried_again(
    node: ContainerdNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each attempt writes the node's event, and the recorder has 25 writes for it: at a short pause they are spent
    # before a slow machine has ended the pod, and success is not told.
    monkeypatch.setattr("raykube.kubelet.allocatable.RETRY_S", 1.0)
    if any(line for line in Path("/proc/swaps").read_text().splitlines()[1:]):
        missing("this machine has swap: what is in use would go there")
    hog = shell("x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo held; sleep 1000; echo $x")
    await node.pod("hog", hog, terminationGracePeriodSeconds=1)
    await node.phase("hog", "Running")
    await until(lambda: "held" in node.log("hog"), 20)
    await node.kubelet.stop()
    forget_events(node)
    node.flags["capacity"] = "memory=4Mi"
    await node.start_kubelet()
    await node.event("FailedNodeAllocatableEnforcement", 'Failed to update Node Allocatable Limits ["kubepods"]: ')
    await node.client.delete(PODS, "default", "hog", grace_period_s=0)
    await node.event("NodeAllocatableEnforced", ENFORCED, 30)
    memory = limit_of(node, "memory", "memory.limit_in_bytes")
    assert int(memory.read_text()) == 4 << 20
    memory.write_text("-1")

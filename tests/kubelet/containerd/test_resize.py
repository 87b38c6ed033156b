"""Resizing pods in place on containerd."""

import pytest

from raykube.pb import api_pb2
from tests.kubelet.conftest import PODS, Object, shell, state
from tests.kubelet.containerd.conftest import ContainerdNode

pytestmark = pytest.mark.integration


def sized(cpu: str, memory: str, name: str = "c", **spec: Object) -> Object:
    amounts = {"cpu": cpu, "memory": memory}
    return shell("exec sleep 1000", name, resources={"limits": amounts, "requests": amounts}, **spec)


async def resize(node: ContainerdNode, name: str, cpu: str, memory: str) -> None:
    pod = await node.client.get(PODS, "default", name)
    spec = pod["spec"]["containers"][0]
    spec["resources"] = {kind: {"cpu": cpu, "memory": memory} for kind in ("limits", "requests")}
    change = {"spec": {"containers": [spec]}}
    await node.client.patch(PODS, "default", name, change, api_pb2.MERGE)


def has_cpu(pod: Object, cpu: str) -> bool:
    return bool(state(pod).get("resources", {}).get("limits", {}).get("cpu") == cpu)


def conditions(pod: Object) -> dict[str, Object]:
    return {one["type"]: one for one in pod["status"]["conditions"]}


@pytest.fixture
def flags() -> Object:
    return {"capacity": "cpu=2,memory=1Gi"}


async def test_a_running_container_grows_and_shrinks(node: ContainerdNode) -> None:
    await node.pod("p", sized("200m", "64Mi"))
    pod = await node.phase("p", "Running")
    one = state(pod)
    assert one["allocatedResources"] == {"cpu": "200m", "memory": "64Mi"}
    assert one["resources"]["limits"] == {"cpu": "200m", "memory": "64Mi"}
    for cpu, memory, quota, limit in (("500m", "128Mi", "50000", 128 << 20), ("100m", "32Mi", "10000", 32 << 20)):
        await resize(node, "p", cpu, memory)
        pod = await node.sees(
            "p", lambda pod, cpu=cpu: state(pod).get("resources", {}).get("limits", {}).get("cpu") == cpu
        )
        assert state(pod)["containerID"] == one["containerID"]
        assert state(pod)["restartCount"] == 0
        assert state(pod)["allocatedResources"] == {"cpu": cpu, "memory": memory}
        assert node.cgroup(pod, "cpu", "cpu.cfs_quota_us", one["containerID"]) == quota
        assert node.cgroup(pod, "memory", "memory.limit_in_bytes", one["containerID"]) == str(limit)
        pod = await node.sees("p", lambda pod: "PodResizeInProgress" not in conditions(pod))
        assert node.cgroup(pod, "cpu", "cpu.cfs_quota_us") == quota
        assert node.cgroup(pod, "memory", "memory.limit_in_bytes") == str(limit)


async def test_a_policy_of_restarts(node: ContainerdNode) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    await node.pod("p", sized("200m", "64Mi", resizePolicy=policy), terminationGracePeriodSeconds=1)
    await node.phase("p", "Running")
    await resize(node, "p", "300m", "64Mi")
    pod = await node.sees("p", lambda pod: has_cpu(pod, "300m"))
    assert state(pod)["restartCount"] == 0
    await resize(node, "p", "300m", "128Mi")
    pod = await node.sees("p", lambda pod: state(pod)["restartCount"] == 1 and "running" in state(pod)["state"])
    assert node.cgroup(pod, "memory", "memory.limit_in_bytes", state(pod)["containerID"]) == str(128 << 20)
    await node.event("Killing", "Container c resize requires restart")


async def test_more_than_the_machine_has(node: ContainerdNode) -> None:
    await node.pod("p", sized("200m", "64Mi"))
    await node.phase("p", "Running")
    await resize(node, "p", "1000", "64Mi")
    pod = await node.sees("p", lambda pod: "PodResizePending" in conditions(pod))
    pending = conditions(pod)["PodResizePending"]
    assert (pending["reason"], pending["message"]) == (
        "Infeasible",
        "Node didn't have enough capacity: cpu, requested: 1000000, capacity: 2000",
    )
    assert state(pod)["allocatedResources"] == {"cpu": "200m", "memory": "64Mi"}
    await resize(node, "p", "200m", "64Mi")
    await node.sees("p", lambda pod: "PodResizePending" not in conditions(pod))


async def test_room_that_comes_later(node: ContainerdNode) -> None:
    await node.pod("p", sized("500m", "64Mi"))
    await node.pod("other", sized("1200m", "64Mi"))
    await node.phase("p", "Running")
    await node.phase("other", "Running")
    await resize(node, "p", "1500m", "64Mi")
    pod = await node.sees("p", lambda pod: "PodResizePending" in conditions(pod))
    pending = conditions(pod)["PodResizePending"]
    assert (pending["reason"], pending["message"]) == (
        "Deferred",
        "Node didn't have enough resource: cpu, requested: 1500, used: 1200, capacity: 2000",
    )
    # A kubelet that starts anew knows what it had promised.
    await node.kubelet.stop()
    await node.start_kubelet()
    await node.client.delete(PODS, "default", "other", grace_period_s=1)
    pod = await node.sees("p", lambda pod: has_cpu(pod, "1500m"))
    assert node.cgroup(pod, "cpu", "cpu.cfs_quota_us", state(pod)["containerID"]) == "150000"
    assert state(pod)["restartCount"] == 0
    await node.sees("p", lambda pod: "PodResizePending" not in conditions(pod))

"""Pods of a real kubelet on a real dockerd."""

import pytest

from tests.cridocker.conftest import DockerNode
from tests.kit.docker import Docker
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, container, shell, state

pytestmark = pytest.mark.integration


async def test_a_pod_runs_and_is_deleted_and_a_stray_stays(node: DockerNode, docker: Docker) -> None:
    stray = docker.docker("run", "--detach", "--net=none", "busybox:1.36", "sleep", "1000").strip()
    await node.pod("web", shell("echo hello from $HOSTNAME; exec sleep 1000"))
    pod = await node.phase("web", "Running")
    assert pod["status"]["podIP"].startswith("10.77.0.")
    assert state(pod)["containerID"].startswith("docker://")
    await until(lambda: node.log("web") == "hello from web\n")
    await node.client.delete(PODS, "default", "web", grace_period_s=1)
    await node.gone("web")
    assert set(docker.tasks()) == {stray}
    docker.docker("rm", "--force", stray)


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 0", 0, "Completed"), ("exit 7", 7, "Error"), ("kill -9 $$$$", 137, "Error"), ("kill $$$$", 143, "Error")],
)
async def test_exit_codes(node: DockerNode, script: str, code: int, reason: str) -> None:
    await node.pod("job", shell(f"echo why > /dev/termination-log; sh -c '{script}'; exit $?"), restartPolicy="Never")
    pod = await node.phase("job", "Failed" if code else "Succeeded")
    terminated = state(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (code, reason, "why\n")


async def test_a_program_that_does_not_exist(node: DockerNode) -> None:
    await node.pod("odd", container("/no/such/program"), restartPolicy="Never")
    pod = await node.phase("odd", "Failed")
    terminated = state(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (127, "ContainerCannotRun")
    assert "no such file or directory" in terminated["message"]


async def test_out_of_memory(node: DockerNode) -> None:
    eater = shell("head -c 200000000 /dev/zero | tail", resources={"limits": {"memory": "20Mi"}})
    await node.pod("eater", eater, restartPolicy="Never")
    pod = await node.phase("eater", "Failed")
    terminated = state(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")

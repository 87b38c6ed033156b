"""Containers' own restart policies and rules, on a real runtime."""

import pytest

from tests.kubelet.conftest import Node, Object, shell, state

pytestmark = pytest.mark.integration


def rule(action: str, *codes: int) -> list[Object]:
    return [{"action": action, "exitCodes": {"operator": "In", "values": list(codes)}}]


async def test_one_goes_on_where_the_pod_says_never(node: Node) -> None:
    mark = node.root / "mark"
    again = shell(
        f"echo >> {mark}; test $(wc -l < {mark}) = 2 || exit 42",
        restartPolicy="Never",
        restartPolicyRules=rule("Restart", 42),
    )
    await node.pod("p", again, restartPolicy="Never")
    pod = await node.phase("p", "Succeeded")
    assert (state(pod)["restartCount"], state(pod)["lastState"]["terminated"]["exitCode"]) == (1, 42)


async def test_an_init_container_is_tried_once_where_the_pod_says_always(node: Node) -> None:
    init = shell("exit 1", "try", restartPolicy="Never")
    await node.pod("p", shell("exec sleep 1000"), initContainers=[init], restartPolicy="Always")
    pod = await node.phase("p", "Failed")
    assert pod["status"]["initContainerStatuses"][0]["restartCount"] == 0


async def test_all_containers_begin_anew_in_their_sandbox(node: Node) -> None:
    log, go = node.root / "log", node.root / "go"
    work = shell(
        f"echo work >> {log}; until test -e {go}; do sleep 0.05; done; rm {go}; exit 88",
        "work",
        restartPolicy="Never",
        restartPolicyRules=rule("RestartAllContainers", 88),
    )
    watch = shell(f"echo watch >> {log}; exec sleep 1000", "watch")
    init = shell(f"echo init >> {log}", "init")
    await node.pod("p", work, watch, initContainers=[init], restartPolicy="Never", terminationGracePeriodSeconds=1)
    before = await node.sees("p", lambda pod: all("running" in state(pod, one)["state"] for one in (0, 1)))
    go.touch()
    after = await node.sees(
        "p",
        lambda pod: all(
            state(pod, one)["restartCount"] == 1 and "running" in state(pod, one)["state"] for one in (0, 1)
        ),
    )
    lines = log.read_text().split()
    assert (lines[0], lines[3], sorted(lines[1:3]), sorted(lines[4:])) == ("init", "init", *[["watch", "work"]] * 2)
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["status"]["initContainerStatuses"][0]["restartCount"] == 1
    assert len(list(node.runtime._runtime.sandboxes())) == 1  # type: ignore[union-attr]
    (condition,) = [one for one in after["status"]["conditions"] if one["type"] == "AllContainersRestarting"]
    assert condition["status"] == "False"
    await node.event("Killing", "Stopping container because all containers of the pod restart")

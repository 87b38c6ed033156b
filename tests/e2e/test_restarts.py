"""Components come and go; containers and what was asked for stay."""

import json
import signal
from pathlib import Path

import pytest

from tests.e2e.user import User, alive, container_pids, until

pytestmark = pytest.mark.integration

STAYING = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: staying}
spec:
  replicas: 3
  selector: {matchLabels: {app: staying}}
  template:
    metadata: {labels: {app: staying}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {kubernetes.io/hostname: plane-2}
      containers:
      - name: main
        image: any
        command: [sh, -c, "while :; do echo tick; sleep 0.2; done"]
        livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply(STAYING)
    user("rollout", "status", "deployment/staying", "--timeout=60s")


def programs(user: User) -> dict[str, int]:
    """The first process of each pod."""
    names = [one["metadata"]["name"] for one in user.items("pods", "-l", "app=staying")]
    return {name: container_pids(user, name)[0] for name in names}


def restart_counts(user: User) -> list[int]:
    pods = user.items("pods", "-l", "app=staying")
    return [one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"]]


def test_containers_outlive_the_kubelet_and_the_runtime(user: User) -> None:
    before = programs(user)
    assert len(before) == 3
    spec = {"nodeName": "plane-1", "containers": [{"name": "main", "image": "any", "command": ["sleep", "1000"]}]}
    user.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour"}, "spec": spec}))
    user.wait("condition=Ready", "pod/neighbour")
    [neighbour] = container_pids(user, "neighbour")
    user.plane.kill("kubelet-plane-2")
    assert all(alive(pid) for pid in before.values())
    doomed, forced, kept = sorted(before)
    user("delete", "pod", doomed, "--wait=false")
    user("delete", "pod", forced, "--force", "--grace-period=0")
    user.plane.start("kubelet-plane-2")
    user.wait("delete", f"pod/{doomed}")
    until("the deleted pods' processes end", lambda: not alive(before[doomed]) and not alive(before[forced]), 15)
    assert alive(neighbour), "a kubelet ends what is its own"
    user("rollout", "status", "deployment/staying", "--timeout=60s")
    assert programs(user)[kept] == before[kept]
    assert restart_counts(user) == [0, 0, 0]
    lines = len(user("logs", kept).splitlines())
    until("more lines of the same container", lambda: len(user("logs", kept).splitlines()) > lines)


def test_an_end_that_the_kubelet_did_not_see_is_noticed(user: User, tmp_path: Path) -> None:
    sign = tmp_path / "end"
    wait = f"while [ ! -e {sign} ]; do sleep 0.1; done; exit 6"
    container = {"name": "main", "image": "any", "command": ["sh", "-c", wait]}
    spec = {"nodeName": "plane-2", "restartPolicy": "Never", "containers": [container]}
    user.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unseen"}, "spec": spec}))
    user.wait("condition=Ready", "pod/unseen")
    pid = container_pids(user, "unseen")[0]
    user.plane.kill("kubelet-plane-2")
    sign.touch()
    until("its end", lambda: not alive(pid), 10)
    user.plane.start("kubelet-plane-2")
    user.wait_phase("Failed", "unseen")
    state = user.get("pod", "unseen")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["reason"]) == (6, "Error")


def test_everybody_reconnects_to_an_apiserver_that_was_away(user: User) -> None:
    before = programs(user)
    user.plane.kill("apiserver-plane-1")
    user.plane.start("apiserver-plane-1")
    user("scale", "deployment/staying", "--replicas=4")
    user("rollout", "status", "deployment/staying", "--timeout=60s")
    after = programs(user)
    assert {name: after.get(name) for name in before} == before
    assert restart_counts(user) == [0, 0, 0, 0]
    [added] = set(after) - set(before)
    assert "tick" in user("logs", added)
    user("delete", "pod", added, "--wait=false")
    user.wait("delete", f"pod/{added}")


def test_a_store_that_was_away_comes_back_with_everything(user: User) -> None:
    user("create", "configmap", "kept", "--from-literal=a=b")
    user("rollout", "status", "deployment/staying", "--timeout=60s")
    before = programs(user)
    user.plane.kill("kv-plane-1")
    user.plane.start("kv-plane-1")

    def answers() -> bool:
        return user.run("get", "configmap", "kept", "--request-timeout=5s").returncode == 0

    until("the store answers", answers)
    assert user.get("configmap", "kept")["data"] == {"a": "b"}
    user("scale", "deployment/staying", "--replicas=2")
    until("two pods", lambda: len(user.items("pods", "-l", "app=staying")) == 2)
    assert programs(user).items() <= before.items()
    assert restart_counts(user) == [0, 0]


def test_the_controllers_go_on_after_a_restart(user: User) -> None:
    for component in ("controller-manager", "scheduler"):
        # Asked to end, they give their leases back; after SIGKILL the next ones would wait for 15 s.
        user.plane.kill(f"{component}-plane-1", signal.SIGTERM)
    user("scale", "deployment/staying", "--replicas=3")
    for component in ("controller-manager", "scheduler"):
        user.plane.start(f"{component}-plane-1")
    user("rollout", "status", "deployment/staying", "--timeout=60s")
    assert len(programs(user)) == 3

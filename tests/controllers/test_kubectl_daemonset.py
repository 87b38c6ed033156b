"""DaemonSets with every component as its own process, seen through kubectl."""

from collections.abc import Iterator

import pytest

from tests.kit.controlplane import ControlPlane, until

pytestmark = pytest.mark.integration

AGENT = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  updateStrategy: {rollingUpdate: {maxUnavailable: 1}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: agent, image: "agent:1", command: [sleep, "100000"]}]
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("daemons"), machines=2) as found:
        found.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("both machines are nodes", lambda: len(found.objects("nodes")) == 2)
        yield found


@pytest.fixture(autouse=True)
def nothing_else(plane: ControlPlane) -> Iterator[None]:
    yield
    plane.kubectl("delete", "ds", "--all")
    until("pods and revisions go", lambda: not plane.objects("pods") and not plane.objects("controllerrevisions"))


def pods(plane: ControlPlane) -> dict[str, str]:
    """node → image, of the pods that stay."""
    return {
        pod["spec"]["nodeName"]: pod["spec"]["containers"][0]["image"]
        for pod in plane.objects("pods", "-l", "app=agent")
        if not pod["metadata"].get("deletionTimestamp") and pod["spec"].get("nodeName")
    }


def test_a_daemon_on_every_node_rolled_out_restarted_and_undone(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=AGENT)
    assert "successfully rolled out" in plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    # Complete is what is on the nodes that the controller has heard of, and the second one may be news to it.
    until("a pod on each node", lambda: pods(plane) == {"plane-1": "agent:1", "plane-2": "agent:1"})
    plane.kubectl("set", "image", "ds/agent", "agent=agent:2")
    assert "successfully rolled out" in plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    assert set(pods(plane).values()) == {"agent:2"}
    history = plane.kubectl("rollout", "history", "ds/agent")
    assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["1", "2"]
    assert "agent:1" in plane.kubectl("rollout", "history", "ds/agent", "--revision=1")
    assert "rolled back" in plane.kubectl("rollout", "undo", "ds/agent")
    plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    assert set(pods(plane).values()) == {"agent:1"}
    before = {pod["metadata"]["uid"] for pod in plane.objects("pods", "-l", "app=agent")}
    plane.kubectl("rollout", "restart", "ds/agent")
    plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    after = {pod["metadata"]["uid"] for pod in plane.objects("pods", "-l", "app=agent")}
    assert len(after) == 2 and not before & after
    described = plane.kubectl("describe", "ds", "agent")
    assert "Desired Number of Nodes Scheduled: 2" in described and "SuccessfulCreate" in described
    assert "deprecated.daemonset.template.generation: 4" in described
    columns, row = plane.kubectl("get", "ds", "agent").splitlines()
    assert columns.split()[:6] == ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE"]
    assert row.split()[:6] == ["agent", "2", "2", "2", "2", "2"]


def test_a_drained_node_keeps_its_daemon_and_a_taint_takes_it(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=AGENT)
    plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    plane.kubectl("drain", "plane-2", "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s")
    assert set(pods(plane)) == {"plane-1", "plane-2"}
    plane.kubectl("uncordon", "plane-2")
    plane.kubectl("taint", "node", "plane-2", "own=yes:NoExecute")
    until("the daemon left", lambda: set(pods(plane)) == {"plane-1"})
    plane.kubectl("taint", "node", "plane-2", "own-")
    until("the daemon is back", lambda: set(pods(plane)) == {"plane-1", "plane-2"})


def test_deletion_takes_or_leaves_the_pods(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=AGENT)
    plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    before = {pod["metadata"]["name"] for pod in plane.objects("pods", "-l", "app=agent")}
    plane.kubectl("delete", "ds", "agent", "--cascade=orphan")
    plane.kubectl("apply", "-f", "-", stdin=AGENT)
    plane.kubectl("rollout", "status", "ds/agent", "--timeout=90s")
    owners = [pod["metadata"].get("ownerReferences") for pod in plane.objects("pods", "-l", "app=agent")]
    assert {pod["metadata"]["name"] for pod in plane.objects("pods", "-l", "app=agent")} == before and all(owners)
    assert len(plane.objects("controllerrevisions")) == 1, "it is adopted too"

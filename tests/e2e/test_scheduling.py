"""Where pods run, and what those read that run nowhere."""

import json

import pytest

from tests.e2e.user import User, until

pytestmark = pytest.mark.integration


def pod(name: str, cpu: str = "", **spec: object) -> str:
    container: dict[str, object] = {"name": "main", "image": "any", "command": ["sleep", "1000"]}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}) + "\n"


def node_of(user: User, name: str) -> str:
    user.wait("condition=PodScheduled", f"pod/{name}")
    found: str = user.get("pod", name)["spec"]["nodeName"]
    return found


def unschedulable(user: User, name: str) -> str:
    """The message of a pod that waits for a machine."""

    def look() -> str:
        conditions = user.get("pod", name)["status"].get("conditions") or []
        return next((one["message"] for one in conditions if one["reason"] == "Unschedulable"), "")

    message: str = until(f"{name} is unschedulable", look)
    return message


def test_what_fits_nowhere_says_why(user: User) -> None:
    user.apply(
        pod("huge", "1000")
        + pod("picky", nodeSelector={"disk": "ssd"})
        + pod("mixed", "1000", nodeSelector={"kubernetes.io/hostname": "plane-1"})
    )
    expected = {
        "huge": "0/2 nodes are available: 2 Insufficient cpu.",
        "picky": "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        "mixed": "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector.",
    }
    for name, text in expected.items():
        assert unschedulable(user, name).startswith(text)
    assert user.row("get", "pod", "huge")["STATUS"] == "Pending"
    described = until("event", lambda: "FailedScheduling" in (text := user("describe", "pod", "huge")) and text)
    assert expected["huge"] in described
    refused = user.run("logs", "huge")
    assert refused.returncode == 1 or refused.stdout == ""


def test_a_label_lets_a_waiting_pod_run(user: User) -> None:
    user.apply(pod("wanting", nodeSelector={"zone-of-test": "a"}))
    unschedulable(user, "wanting")
    user("label", "node", "plane-2", "zone-of-test=a")
    try:
        assert node_of(user, "wanting") == "plane-2"
        user.wait("condition=Ready", "pod/wanting")
    finally:
        user("label", "node", "plane-2", "zone-of-test-")


def test_taints_keep_pods_out_and_drive_them_out(user: User) -> None:
    here = {"kubernetes.io/hostname": "plane-2"}
    tolerates = [{"key": "only", "operator": "Exists"}]
    user.apply(pod("resident", nodeSelector=here) + pod("tolerant", nodeSelector=here, tolerations=tolerates))
    user.wait("condition=Ready", "pod/resident", "pod/tolerant")
    user("taint", "node", "plane-2", "only=me:NoSchedule")
    try:
        user.apply(pod("outsider", nodeSelector=here))
        assert unschedulable(user, "outsider").startswith(
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
            "1 node(s) had untolerated taint(s)."
        )
        user("taint", "node", "plane-2", "only=me:NoExecute")
        user.wait("delete", "pod/resident")
        assert user.row("get", "pod", "tolerant")["STATUS"] == "Running"
    finally:
        user("taint", "node", "plane-2", "only-")
    assert node_of(user, "outsider") == "plane-2"


def test_a_cordoned_machine_takes_no_new_pods(user: User) -> None:
    user("cordon", "plane-2")
    try:
        assert user.row("get", "node", "plane-2")["STATUS"] == "Ready,SchedulingDisabled"
        user.apply(pod("elsewhere") + pod("bound", nodeSelector={"kubernetes.io/hostname": "plane-2"}))
        assert node_of(user, "elsewhere") == "plane-1"
        assert "1 node(s) were unschedulable" in unschedulable(user, "bound")
    finally:
        user("uncordon", "plane-2")
    assert node_of(user, "bound") == "plane-2"


def test_a_drained_machine_is_empty(user: User) -> None:
    user.apply(
        """
apiVersion: apps/v1
kind: Deployment
metadata: {name: moving}
spec:
  replicas: 2
  selector: {matchLabels: {app: moving}}
  template:
    metadata: {labels: {app: moving}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: any, command: [sleep, "1000"]}]
"""
    )
    user("rollout", "status", "deployment/moving", "--timeout=60s")
    # Only the deployment's pods: others share the machine with this test.
    drained = user("drain", "plane-2", "--pod-selector=app=moving", "--timeout=60s")
    try:
        assert "node/plane-2 drained" in drained
        user("rollout", "status", "deployment/moving", "--timeout=60s")
        nodes = {one["spec"]["nodeName"] for one in user.items("pods", "-l", "app=moving")}
        assert nodes == {"plane-1"}
    finally:
        user("uncordon", "plane-2")


def test_a_describe_of_a_node_shows_its_pods_and_what_they_ask_for(user: User) -> None:
    user.apply(pod("modest", "100m", nodeSelector={"kubernetes.io/hostname": "plane-1"}))
    user.wait("condition=Ready", "pod/modest")
    described = user("describe", "node", "plane-1")
    assert "Allocated resources:" in described
    line = next(line for line in described.splitlines() if " modest " in line)
    assert line.split()[:3] == [user.namespace, "modest", "100m"]


def test_a_stronger_pod_takes_the_place_of_a_weaker_one(user: User) -> None:
    classes = [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"e2e-{name}"},
            "value": value,
            "preemptionPolicy": policy,
        }
        for name, value, policy in (
            ("weak", 10, "PreemptLowerPriority"),
            ("strong", 20, "PreemptLowerPriority"),
            ("polite", 20, "Never"),
        )
    ]
    user.apply("\n".join(map(json.dumps, classes)) + "\n")
    place = {"nodeSelector": {"kubernetes.io/hostname": "plane-2"}, "terminationGracePeriodSeconds": 8}

    def wanting(name: str) -> str:
        # The same port of the same machine; it takes its time to go, so that one can look.
        container = {
            "name": "main",
            "image": "any",
            "command": ["sh", "-c", "trap '' TERM; while true; do sleep 1; done"],
            "ports": [{"containerPort": 45999, "hostPort": 45999}],
        }
        return pod(name, priorityClassName=f"e2e-{name}", containers=[container], **place)

    try:
        user.apply(wanting("weak"))
        user.wait("condition=Ready", "pod/weak")
        user.apply(wanting("polite"))
        assert "preemption: not eligible due to preemptionPolicy=Never." in unschedulable(user, "polite")
        user("delete", "pod", "polite")
        user.apply(wanting("strong"))
        until("nomination", lambda: user.row("get", "pod", "strong", "-o", "wide")["NOMINATED NODE"] == "plane-2")
        conditions = user.get("pod", "weak")["status"]["conditions"]
        (target,) = [one for one in conditions if one["type"] == "DisruptionTarget"]
        assert target["reason"] == "PreemptionByScheduler"
        assert target["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
        assert node_of(user, "strong") == "plane-2"
        assert user.row("get", "pod", "strong", "-o", "wide")["NOMINATED NODE"] == "<none>"
        uid = user.get("pod", "strong")["metadata"]["uid"]
        events = user("get", "events", "--field-selector=reason=Preempted")
        assert f"Preempted by pod {uid} on node plane-2" in events
    finally:
        user("delete", "pod", "weak", "polite", "strong", "--ignore-not-found", "--force", "--grace-period=0")
        user("delete", "priorityclass", *(one["metadata"]["name"] for one in classes))

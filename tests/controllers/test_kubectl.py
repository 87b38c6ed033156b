"""The controller-manager as its own process with certificates and RBAC, seen through kubectl."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane, until

pytestmark = pytest.mark.integration

SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: robot-token, annotations: {kubernetes.io/service-account.name: robot}}
type: kubernetes.io/service-account-token
"""


# A killed leader's lease runs out soon.
ELECTION = {
    "leader-elect-lease-duration": "3s",
    "leader-elect-renew-deadline": "2s",
    "leader-elect-retry-period": "500ms",
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("plane")
    with ControlPlane(folder, extra_config={"controller-manager": ELECTION}) as found:
        found.start("kv", "apiserver", "controller-manager")
        yield found


def images(plane: ControlPlane) -> dict[str, int]:
    return {
        each["spec"]["template"]["spec"]["containers"][0]["image"]: each["spec"]["replicas"]
        for each in plane.objects("replicasets")
    }


def test_a_roll_out_and_its_undo(plane: ControlPlane) -> None:
    plane.kubectl("create", "deployment", "web", "--image=web:1", "--replicas=2")
    until("pods are there", lambda: len(plane.objects("pods")) == 2)
    plane.kubectl("set", "image", "deployment/web", "web=web:2")
    until("a second ReplicaSet", lambda: set(images(plane)) == {"web:1", "web:2"})
    until("the second revision", lambda: "2" in plane.kubectl("rollout", "history", "deployment/web"))
    plane.kubectl("rollout", "undo", "deployment/web")
    until(
        "the third revision is the first one's template",
        lambda: plane.kubectl("rollout", "history", "deployment/web", "--revision=3").count("web:1") == 1,
    )
    described = plane.kubectl("describe", "deployment", "web")
    assert "ScalingReplicaSet" in described and "from 0 to 2" in described
    plane.kubectl("delete", "deployment", "web")
    until("its pods are collected", lambda: not plane.objects("pods") and not plane.objects("replicasets"))


REPLICATION_CONTROLLER = """
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: web:1}]}
"""


def test_a_replication_controller_is_scaled_and_deleted(plane: ControlPlane) -> None:
    assert plane.kubectl("create", "-f", "-", stdin=REPLICATION_CONTROLLER) == "replicationcontroller/old created\n"
    until("pods are there", lambda: len(plane.objects("pods")) == 2)
    until("it says so", lambda: plane.kubectl("get", "rc", "old", "--no-headers").split()[1:4] == ["2", "2", "0"])
    plane.kubectl("scale", "rc", "old", "--replicas=3")
    until("one more", lambda: len(plane.objects("pods")) == 3)
    described = plane.kubectl("describe", "rc", "old")
    assert "3 current / 3 desired" in described and "replication-controller  Created pod: old-" in described
    plane.kubectl("delete", "rc", "old")
    until("its pods are collected", lambda: not plane.objects("pods"))


def test_a_token_secret_proves_its_account_until_that_is_deleted(plane: ControlPlane) -> None:
    plane.kubectl("create", "serviceaccount", "robot")
    plane.kubectl("apply", "-f", "-", stdin=SECRET)

    def token() -> str:
        data = json.loads(plane.kubectl("get", "secret", "robot-token", "-o", "json")).get("data") or {}
        return base64.b64decode(data.get("token", "")).decode()

    until("the Secret is filled", lambda: bool(token()))
    held = token()
    bare = plane.folder / "bare.kubeconfig"
    config = json.loads(plane.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": held}}]
    bare.write_text(json.dumps(config))

    def who() -> str:
        done = plane.kubectl_run(f"--kubeconfig={bare}", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
        return done.stdout + done.stderr

    assert who() == "system:serviceaccount:default:robot"
    plane.kubectl("delete", "serviceaccount", "robot")
    until("the Secret went with its account", lambda: "NotFound" in _stderr(plane, "get", "secret", "robot-token"))
    until("the token is worth nothing", lambda: "Unauthorized" in who() or "must be logged in" in who())


def _stderr(plane: ControlPlane, *arguments: str) -> str:
    return plane.kubectl_run(*arguments).stderr


def test_a_namespace_is_emptied(plane: ControlPlane) -> None:
    plane.kubectl("create", "namespace", "room")
    plane.kubectl("create", "deployment", "web", "--image=x", "-n", "room")
    until("its pod is there", lambda: len(plane.objects("pods", "-n", "room")) == 1)
    assert "kube-root-ca.crt" in plane.kubectl("get", "configmaps", "-n", "room")
    plane.kubectl("delete", "namespace", "room", "--timeout=60s")
    assert "room" not in plane.kubectl("get", "namespaces")


def test_drain_evicts_what_a_budget_covers(plane: ControlPlane) -> None:
    """On nodes that have no kubelet: pods go at once, without grace, so that the drain's end is the budget's matter."""
    plane.kubectl("create", "poddisruptionbudget", "calm", "--selector=app=calm", "--min-available=1")
    objects: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in ("left", "right")
    ]
    for name, node in (("one", "left"), ("two", "left"), ("three", "right")):
        spec = {
            "nodeName": node,
            "containers": [{"name": "c", "image": "x"}],
            "tolerations": [{"operator": "Exists"}],  # the nodes are not ready
        }
        meta = {"name": name, "labels": {"app": "calm"}}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    plane.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    for name in ("one", "two", "three"):
        plane.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps(running))
    plane.kubectl("drain", "left", "--force", "--grace-period=0", "--timeout=30s")
    assert [each["metadata"]["name"] for each in plane.objects("pods", "-l", "app=calm")] == ["three"]
    refused = plane.kubectl_run("drain", "right", "--force", "--grace-period=0", "--timeout=3s")
    assert refused.returncode and "would violate the pod's disruption budget" in refused.stderr
    assert plane.objects("pods", "-l", "app=calm"), "the last one stays"
    plane.kubectl("delete", "pdb/calm", "pod/three", "node/left", "node/right", "--grace-period=0", "--force")


def test_a_killed_manager_is_followed_up(plane: ControlPlane) -> None:
    """Work that comes while it is dead is done by the next one."""
    plane.kill("controller-manager-plane-1")
    plane.kubectl("create", "deployment", "late", "--image=x", "--replicas=2")
    plane.start("controller-manager")
    until("pods are there", lambda: len(plane.objects("pods", "-l", "app=late")) == 2, 90)


def test_bad_flags_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raykube", "controller-manager", "--api-servers=127.0.0.1:1"]
    for flag, told in (
        ("--controllers=nonsense", "no controller is called 'nonsense'"),
        (f"--root-ca-file={tmp_path / 'none'}", "none"),
    ):
        done = subprocess.run([*command, "--secure-port=0", flag], capture_output=True, text=True, timeout=60)
        assert done.returncode in (1, 2) and told in done.stderr and "Traceback" not in done.stderr

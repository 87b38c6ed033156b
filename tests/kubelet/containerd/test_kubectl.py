"""A pod on containerd from kubectl's side: a store, an apiserver and a kubelet as processes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.containerd import Containerd
from tests.kit.controlplane import ControlPlane, until
from tests.kit.images import BUSYBOX

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with (
        Containerd() as containerd,
        ControlPlane(tmp_path_factory.mktemp("plane"), containerd=containerd) as plane,
    ):
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
        until("a service account", lambda: plane.kubectl_run("get", "sa", "default").returncode == 0)
        yield plane


def test_a_pod_runs_says_something_and_goes(plane: ControlPlane) -> None:
    plane.kubectl("run", "web", f"--image={BUSYBOX}", "--command", "--", "sh", "-c", "hostname -i; exec sleep 1000")
    plane.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    (pod,) = plane.objects("pods")
    assert plane.kubectl("logs", "web") == pod["status"]["podIP"] + "\n"
    (status,) = pod["status"]["containerStatuses"]
    assert status["containerID"].startswith("containerd://")
    assert status["image"] == BUSYBOX
    assert plane.containerd is not None
    assert len(plane.containerd.tasks()) == 2  # the container, and pause
    plane.kubectl("delete", "pod", "web", "--grace-period=1")
    assert plane.containerd.tasks() == {}


def running(plane: ControlPlane, name: str, *arguments: str) -> dict[str, Any]:
    """A pod that does nothing, once it runs."""
    plane.kubectl("run", name, f"--image={BUSYBOX}", *arguments, "--command", "--", "sleep", "4321")
    plane.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return pod_of(plane, name)


def pod_of(plane: ControlPlane, name: str) -> dict[str, Any]:
    pod: dict[str, Any] = json.loads(plane.kubectl("get", "pod", name, "-o", "json"))
    return pod


def test_debug_looks_into_a_pod(plane: ControlPlane) -> None:
    before = running(plane, "seen")
    script = "ps | grep '[s]leep 4321' && cat /proc/1/root/etc/hosts"
    plane.kubectl("debug", "seen", f"--image={BUSYBOX}", "--target=seen", "-c", "eye", "--", "sh", "-c", script)

    def ended() -> bool:
        statuses = pod_of(plane, "seen")["status"].get("ephemeralContainerStatuses") or [{}]
        return "terminated" in statuses[0].get("state", {})

    until("the ephemeral container has ended", ended)
    pod = pod_of(plane, "seen")
    (status,) = pod["status"]["ephemeralContainerStatuses"]
    assert (status["state"]["terminated"]["exitCode"], status["restartCount"]) == (0, 0)
    assert pod["status"]["phase"] == "Running"
    (own,) = pod["status"]["containerStatuses"]
    assert own["containerID"] == before["status"]["containerStatuses"][0]["containerID"]
    assert "sleep 4321" in plane.kubectl("logs", "seen", "-c", "eye")
    (spec,) = pod["spec"]["ephemeralContainers"]
    assert spec["terminationMessagePath"] == "/dev/termination-log"
    plane.kubectl("delete", "pod", "seen", "--grace-period=1")


def test_a_resize_by_kubectl(plane: ControlPlane) -> None:
    overrides = {
        "spec": {
            "containers": [
                {
                    "name": "sized",
                    "image": BUSYBOX,
                    "command": ["sleep", "1000"],
                    "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}},
                }
            ]
        }
    }
    running(plane, "sized", f"--overrides={json.dumps(overrides)}")

    def patch(resources: dict[str, Any]) -> tuple[int, str]:
        change = json.dumps({"spec": {"containers": [{"name": "sized", "resources": resources}]}})
        done = plane.kubectl_run("patch", "pod", "sized", "--subresource", "resize", "--patch", change)
        return done.returncode, done.stderr

    assert patch({"limits": {"cpu": "300m"}}) == (0, "")

    def cpu() -> str:
        found: str = pod_of(plane, "sized")["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"]
        return found

    until("the container has its new size", lambda: cpu() == "300m")
    code, why = patch({"limits": {"cpu": "100m"}, "requests": {"cpu": "100m", "memory": "1Mi"}})
    assert code == 0, why  # still burstable
    code, why = patch({"limits": {"memory": "1Mi"}})
    assert code == 1
    assert "Pod QOS Class may not change as a result of resizing" in why
    code, why = patch({"limits": {"cpu": None}})
    assert code == 1
    assert "resource limits cannot be removed" in why
    # Nothing else changes on this way.
    plane.kubectl(
        "patch",
        "pod",
        "sized",
        "--subresource",
        "resize",
        "--patch",
        '{"spec":{"containers":[{"name":"sized","image":"x"}]}}',
    )
    assert pod_of(plane, "sized")["spec"]["containers"][0]["image"] == BUSYBOX
    plane.kubectl("delete", "pod", "sized", "--grace-period=1")


def test_the_kubelet_is_killed(plane: ControlPlane) -> None:
    before = running(plane, "stays")
    running(plane, "leaves")
    assert plane.containerd is not None
    tasks = plane.containerd.tasks()
    plane.kill("kubelet-plane-1")
    assert plane.containerd.tasks() == tasks
    plane.kubectl("delete", "pod", "leaves", "--force", "--grace-period=0")
    plane.start("kubelet")
    until("what was deleted meanwhile is gone", lambda: len(plane.containerd.tasks()) == 2)  # type: ignore[union-attr]
    assert plane.containerd.tasks().items() <= tasks.items()
    after = pod_of(plane, "stays")
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
    assert after["status"]["phase"] == "Running"
    plane.kubectl("delete", "pod", "stays", "--grace-period=1")
    assert plane.containerd.tasks() == {}


def test_a_runtime_class(plane: ControlPlane) -> None:
    manifest = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "second"},
        "handler": "second",
        "overhead": {"podFixed": {"cpu": "50m"}},
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    overrides = json.dumps({"spec": {"runtimeClassName": "second"}})
    pod = running(plane, "classy", f"--overrides={overrides}")
    assert pod["spec"]["overhead"] == {"cpu": "50m"}
    plane.kubectl("delete", "pod", "classy", "--grace-period=1")

"""A pod on containerd from kubectl's side: a store, an apiserver and a kubelet as processes."""

from collections.abc import Iterator

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

"""kubectl watches and waits."""

import json
import subprocess
import threading
from collections.abc import Callable

import pytest

from tests.kit.require import require_program
from tests.kubectl.conftest import Kubectl
from tests.kubectl.manifests import CONFIG_MAP, DEPLOYMENT

pytestmark = pytest.mark.integration


def background(kubectl: Kubectl, *arguments: str) -> subprocess.Popen[str]:
    command = [
        *(require_program("kubectl"), f"--kubeconfig={kubectl.plane.kubeconfig}", "-n", kubectl.namespace),
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines_until(
    process: subprocess.Popen[str], enough: Callable[[list[str]], bool], timeout_s: float = 30
) -> list[str]:
    """The lines that a watching kubectl prints until there are enough; then it is ended."""
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if enough(lines):
                return lines
        raise AssertionError(f"not within {timeout_s} s: {lines}")
    finally:
        killer.cancel()
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_get_w(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    watching = background(kubectl, "get", "deployments", "-w")
    changed = threading.Timer(1.5, kubectl, ("scale", "deployment", "web", "--replicas=7"))
    changed.start()
    lines = lines_until(watching, lambda seen: any("0/7" in line for line in seen))
    changed.join()
    assert lines[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert lines[1].split()[:2] == ["web", "0/2"]
    assert sum(line.startswith("NAME") for line in lines) == 1


def test_get_w_json_sees_the_deletion(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    watching = background(kubectl, "get", "configmap", "cm", "-w", "-o", "json", "--output-watch-events")
    deleted = threading.Timer(1.5, kubectl, ("delete", "configmap", "cm"))
    deleted.start()
    text = "\n".join(lines_until(watching, lambda seen: any('"DELETED"' in line for line in seen)))
    deleted.join()
    assert text.index('"ADDED"') < text.index('"DELETED"')


def test_wait(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    waiting = background(kubectl, "wait", "--for=condition=Available", "deployment/web", "--timeout=30s")
    status = {"status": {"conditions": [{"type": "Available", "status": "True"}]}}
    kubectl("patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    out, _ = waiting.communicate(timeout=40)
    assert (waiting.returncode, out) == (0, "deployment.apps/web condition met\n")
    assert kubectl("wait", "--for=jsonpath={.spec.replicas}=2", "deployment/web", "--timeout=10s") == (
        "deployment.apps/web condition met\n"
    )
    assert kubectl.fails("wait", "--for=condition=Progressing", "deployment/web", "--timeout=1s") == (
        "error: timed out waiting for the condition on deployments/web\n"
    )


def test_wait_for_deletion(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    waiting = background(kubectl, "wait", "--for=delete", "configmap/cm", "--timeout=30s")
    kubectl("delete", "configmap", "cm")
    out, _ = waiting.communicate(timeout=40)
    assert (waiting.returncode, out) in ((0, "configmap/cm condition met\n"), (0, ""))


def test_rollout_status(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    following = background(kubectl, "rollout", "status", "deployment/web", "--timeout=30s")
    status = {
        "status": {
            "observedGeneration": 1,
            "replicas": 2,
            "updatedReplicas": 2,
            "availableReplicas": 2,
            "readyReplicas": 2,
        }
    }
    kubectl("patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    out, _ = following.communicate(timeout=40)
    assert following.returncode == 0
    assert out.splitlines()[-1] == 'deployment "web" successfully rolled out'

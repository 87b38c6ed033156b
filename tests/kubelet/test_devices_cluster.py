"""Devices through a whole cluster of processes, with certificates and RBAC, as kubectl and a driver see it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane, until

pytestmark = pytest.mark.integration

NAME = "gpu.example.com"
SHOW = "env | grep ^DEVICE_OF_ || echo none; trap 'exit 0' TERM; sleep 1000 & wait"
MANIFEST = """
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu}
spec:
  selectors:
  - cel:
      expression: device.driver == "gpu.example.com" && device.attributes["gpu.example.com"].model == "A100"
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-gpu}
spec:
  spec:
    devices:
      requests:
      - {name: gpu, exactly: {deviceClassName: gpu}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: any
        command: [sh, -c, SHOW]
        resources: {claims: [{name: gpu}]}
      resourceClaims:
      - {name: gpu, resourceClaimTemplateName: one-gpu}
"""


def manifest() -> str:
    return MANIFEST.replace("SHOW", json.dumps(SHOW))


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with tempfile.TemporaryDirectory(prefix="rk-") as name:  # short: the drivers' sockets lie below
        folder = Path(name)
        extra = {"runtime": {"cdi-spec-dirs": str(folder / "cdi")}}
        with ControlPlane(folder, extra_config=extra) as plane:
            plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet")
            yield plane


@pytest.fixture
def driver(plane: ControlPlane) -> Iterator[Path]:
    """The kubelet's directory, where the driver notes what it is asked."""
    (root,) = plane.data_dir.glob("machines/*/kubelet")
    program = Path(__file__).with_name("device_driver.py")
    arguments = [sys.executable, str(program), NAME, str(root), str(plane.folder / "cdi")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=program.parents[2]) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield root
        process.kill()


def resource_slice(node: str, count: int) -> str:
    devices = [{"name": f"gpu-{number}", "attributes": {"model": {"string": "A100"}}} for number in range(count)]
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": NAME, "nodeName": node, "pool": pool, "devices": devices}
    head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": f"{node}-gpu"}}
    return json.dumps(head | {"spec": spec})


def test_a_deployment_on_devices(plane: ControlPlane, driver: Path) -> None:
    (node,) = (one["metadata"]["name"] for one in plane.objects("nodes"))
    plane.kubectl("apply", "-f", "-", stdin=resource_slice(node, 2))
    plane.kubectl("apply", "-f", "-", stdin=manifest())

    def states() -> list[list[str]]:
        lines = plane.kubectl("get", "resourceclaims", "--no-headers").splitlines()
        return [line.split()[1:2] for line in lines]

    until(
        "both pods have a device",
        lambda: states() == [["allocated,reserved"]] * 2,
        report=lambda: plane.log("scheduler"),
    )
    plane.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    for pod in plane.objects("pods"):
        until("it sees its device", lambda pod=pod: "gpu-0" in plane.kubectl("logs", pod["metadata"]["name"]))
    header, *rows = plane.kubectl("get", "resourceslices").splitlines()
    assert header.split() == ["NAME", "NODE", "DRIVER", "POOL", "AGE"]
    assert rows[0].split()[:4] == [f"{node}-gpu", node, NAME, node]
    used = {
        result["device"]
        for claim in plane.objects("resourceclaims")
        for result in claim["status"]["allocation"]["devices"]["results"]
    }
    assert used == {"gpu-0", "gpu-1"}

    plane.kubectl("scale", "deployment/web", "--replicas=3")
    message = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes"

    def waits() -> bool:
        return message in plane.kubectl("get", "events", "--field-selector=reason=FailedScheduling")

    until("the third one is told why it waits", waits, report=lambda: plane.kubectl("get", "events"))
    plane.kubectl("scale", "deployment/web", "--replicas=0")
    until(
        "all claims are gone",
        lambda: states() == [],
        report=lambda: plane.kubectl("get", "resourceclaims", "-o", "yaml"),
    )
    calls = (driver / f"{NAME}.calls").read_text().splitlines()
    prepared = {line.split()[1] for line in calls if line.startswith("prepare ")}
    given_back = {line.split()[1] for line in calls if line.startswith("unprepare ")}
    assert prepared == given_back and len(prepared) >= 2


def test_what_makes_no_sense_is_refused_with_upstreams_words(plane: ControlPlane) -> None:
    bad = manifest().replace("&&", "and")
    refused = plane.kubectl_run("apply", "--dry-run=server", "-f", "-", stdin=bad)
    assert "spec.selectors[0].cel.expression: Invalid value" in refused.stderr
    explained = plane.kubectl("explain", "resourceclaim.spec.devices.requests.exactly.allocationMode")
    assert "ExactCount" in explained

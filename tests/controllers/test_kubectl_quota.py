"""Quotas and limit ranges with apiserver and controller-manager as processes, seen through kubectl."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.controlplane import ControlPlane, until

pytestmark = pytest.mark.integration

QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: compute}
spec:
  hard: {pods: "3", requests.cpu: "1", count/deployments.apps: "1", requests.storage: 1Gi}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: important}
spec:
  hard: {pods: "1"}
  scopeSelector:
    matchExpressions: [{scopeName: PriorityClass, operator: In, values: [important]}]
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - {type: Container, default: {cpu: 400m}, defaultRequest: {cpu: 200m}, max: {cpu: "2"}}
  - {type: PersistentVolumeClaim, max: {storage: 800Mi}}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  priorityClassName: %s
  containers: [{name: c, image: none, resources: {requests: {cpu: %s}, limits: {cpu: "2"}}}]
"""
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: %s}}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("quotas")) as found:
        found.start("kv", "apiserver", "controller-manager")
        found.kubectl("create", "priorityclass", "important", "--value=10")
        found.kubectl("create", "priorityclass", "usual", "--value=0")
        yield found


@pytest.fixture
def team(plane: ControlPlane) -> Iterator[str]:
    plane.kubectl("create", "namespace", "team")
    plane.kubectl("-n", "team", "apply", "-f", "-", stdin=QUOTA)
    until(
        "both quotas are counted",
        lambda: all(used(plane, name).get("pods") == "0" for name in ("compute", "important")),
    )
    yield "team"
    plane.kubectl("delete", "namespace", "team")


def used(plane: ControlPlane, name: str = "compute") -> dict[str, Any]:
    (found,) = [each for each in plane.objects("quota", "-n", "team") if each["metadata"]["name"] == name]
    return dict((found.get("status") or {}).get("used") or {})


def create(plane: ControlPlane, manifest: str) -> str:
    done = plane.kubectl_run("-n", "team", "create", "-f", "-", stdin=manifest)
    return done.stdout + done.stderr


def test_quota_and_defaults_as_a_user_meets_them(plane: ControlPlane, team: str) -> None:
    assert "created" in create(plane, POD % ("a", "usual", "100m"))
    plane.kubectl("-n", team, "run", "b", "--image=none")
    assert used(plane) == {"pods": "2", "requests.cpu": "300m", "count/deployments.apps": "0", "requests.storage": "0"}
    refused = create(plane, POD % ("c", "usual", "800m"))
    assert (
        'pods "c" is forbidden: exceeded quota: compute, requested: requests.cpu=800m, used: requests.cpu=300m, '
        "limited: requests.cpu=1"
    ) in refused
    assert "created" in create(plane, POD % ("d", "important", "100m"))
    assert "exceeded quota: " in create(plane, POD % ("e", "important", "100m"))
    described = plane.kubectl("-n", team, "describe", "quota", "compute")
    rows = [line.split() for line in described.splitlines()]
    assert ["pods", "3", "3"] in rows and ["requests.cpu", "400m", "1"] in rows
    assert "LimitRanger plugin set: cpu request" in plane.kubectl("-n", team, "describe", "pod", "b")
    plane.kubectl("-n", team, "delete", "pod", "a", "b", "d", "--now")
    until("what was deleted is given back", lambda: used(plane)["pods"] == used(plane, "important")["pods"] == "0")


def test_a_deployment_says_why_it_lacks_pods(plane: ControlPlane, team: str) -> None:
    plane.kubectl("-n", team, "create", "deployment", "web", "--image=none", "--replicas=5")
    until("three of five pods", lambda: len(plane.objects("pods", "-n", team)) == 3)
    until(
        "the ReplicaSet tells",
        lambda: "exceeded quota: compute" in plane.kubectl("-n", team, "describe", "rs"),
    )
    assert "exceeded quota: compute, requested: count/deployments.apps=1, used: count/deployments.apps=1" in (
        plane.kubectl_run("-n", team, "create", "deployment", "two", "--image=none").stderr
    )
    plane.kubectl("-n", team, "patch", "quota", "compute", "-p", '{"spec":{"hard":{"pods":"5"}}}')
    until("all pods, once there is room", lambda: len(plane.objects("pods", "-n", team)) == 5)


def test_claims(plane: ControlPlane, team: str) -> None:
    assert "maximum storage usage per PersistentVolumeClaim is 800Mi, but request is 900Mi" in (
        create(plane, CLAIM % ("a", "900Mi"))
    )
    assert "created" in create(plane, CLAIM % ("a", "700Mi"))
    assert "exceeded quota: compute, requested: requests.storage=700Mi, used: requests.storage=700Mi" in (
        create(plane, CLAIM % ("b", "700Mi"))
    )

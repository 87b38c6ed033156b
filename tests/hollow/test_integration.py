"""Fifty hollow machines beside a real one, with real apiserver, scheduler and controllers, as kubectl sees them."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykube.client.api import ApiClient
from raykube.cluster.hollow import _forget
from raykube.hollow.core.machine import SET_LABEL
from tests.kit.controlplane import ControlPlane, until

pytestmark = pytest.mark.integration
NODES = 50
HOLLOW = "hollow-plane-1.1"

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 120
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 30, maxUnavailable: 10}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {type: hollow}
      containers: [{name: main, image: "registry.example/web:1", resources: {requests: {cpu: 100m}}}]
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 20
  parallelism: 10
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {type: hollow}
      containers: [{name: main, image: "registry.example/sums:1"}]
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder: Path = tmp_path_factory.mktemp("hollow")
    extra = {"hollow": {"zones": "3", "node-labels": "rack=a"}}
    with ControlPlane(folder, hollow=NODES, extra_config=extra) as plane:
        plane.start("kv", "apiserver", "controller-manager", "scheduler", "kubelet", "hollow")
        until("nodes are ready", lambda: len(ready_nodes(plane)) == NODES + 1)
        yield plane


def ready_nodes(plane: ControlPlane) -> list[str]:
    lines = plane.kubectl("get", "nodes", "--no-headers").splitlines()
    return [line.split()[0] for line in lines if line.split()[1] == "Ready"]


def running(plane: ControlPlane, image: str = "") -> int:
    pods = plane.objects("pods", "-l", "app=web")
    return sum(
        pod["status"]["phase"] == "Running" and image in pod["spec"]["containers"][0]["image"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    )


def test_hollow_machines_look_like_the_real_one(plane: ControlPlane) -> None:
    found = {node["metadata"]["name"]: node for node in plane.objects("nodes")}
    hollow, real = found["hollow-00007"], found["plane-1"]
    assert hollow["metadata"]["labels"].keys() - real["metadata"]["labels"].keys() == {
        "type",
        SET_LABEL,
        "rack",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    }
    assert hollow["status"].keys() | {"runtimeHandlers", "features", "images"} >= real["status"].keys()
    described = plane.kubectl("describe", "node", "hollow-00007")
    for words in (
        "KubeletReady",
        "InternalIP:  127.64.0.8",
        "Container Runtime Version:",
        "HolderIdentity:  hollow-00007",
    ):
        assert words in described
    lease = json.loads(plane.kubectl("get", "lease", "-n", "kube-node-lease", "hollow-00007", "-o", "json"))
    assert lease["metadata"]["ownerReferences"][0]["uid"] == hollow["metadata"]["uid"]
    refused = plane.kubectl_run("debug", "node/hollow-00007", "--image=x", "--dry-run=client")
    assert "panic" not in refused.stderr


def test_a_deployment_runs_through_a_restart_and_a_rolling_update(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    plane.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    pods = plane.objects("pods", "-l", "app=web")
    addresses = [pod["status"]["podIP"] for pod in pods]
    assert len(pods) == len(set(addresses)) == 120
    assert {pod["status"]["hostIP"] for pod in pods} > {"127.64.0.1"}
    events = plane.kubectl("get", "events", "--field-selector", "reason=Started,involvedObject.kind=Pod")
    assert "Container started" in events

    # The process dies in the middle of an update, and another goes on.
    plane.kubectl("set", "image", "deployment/web", "main=registry.example/web:2")
    until("the update began", lambda: running(plane, "web:2") > 5)
    plane.kill(HOLLOW)
    plane.start(HOLLOW)
    plane.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    until("all run the new image", lambda: running(plane, "web:2") == 120 and len(plane.objects("pods")) == 120)
    assert {pod["status"]["containerStatuses"][0]["restartCount"] for pod in plane.objects("pods")} == {0}

    plane.kubectl("delete", "deployment", "web")
    until("all pods are gone", lambda: not plane.objects("pods"))


def test_a_job_completes(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=JOB)
    plane.kubectl("wait", "--for=condition=Complete", "job/sums", "--timeout=90s")
    (job,) = plane.objects("jobs")
    assert (job["status"]["succeeded"], job["status"].get("failed", 0)) == (20, 0)
    plane.kubectl("delete", "job", "sums")
    until("its pods are gone", lambda: not plane.objects("pods"))


def test_logs_and_exec_are_refused_at_once_with_words(plane: ControlPlane) -> None:
    plane.kubectl("run", "one", "--image=x", "--overrides", '{"spec": {"nodeSelector": {"type": "hollow"}}}')
    plane.kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=60s")
    refused = plane.kubectl_run("logs", "one")
    assert refused.returncode == 1
    assert "connection refused" in refused.stderr
    plane.kubectl("delete", "pod", "one")


def test_a_deleted_node_comes_back(plane: ControlPlane) -> None:
    uid = plane.kubectl("get", "node", "hollow-00003", "-o", "jsonpath={.metadata.uid}")
    plane.kubectl("delete", "node", "hollow-00003")
    until("it is there again", lambda: "hollow-00003" in ready_nodes(plane))
    assert plane.kubectl("get", "node", "hollow-00003", "-o", "jsonpath={.metadata.uid}") != uid


def test_nodes_are_not_ready_while_nobody_plays_them(plane: ControlPlane) -> None:
    """And Ready again when they are played again; with their pods as they were."""
    pid = plane.pids(HOLLOW)[0]
    plane.kubectl("run", "stays", "--image=x", "--overrides", '{"spec": {"nodeSelector": {"type": "hollow"}}}')
    plane.kubectl("wait", "--for=condition=Ready", "pod/stays", "--timeout=60s")
    os.kill(pid, signal.SIGSTOP)
    until("they are lost", lambda: ready_nodes(plane) == ["plane-1"], 120)
    os.kill(pid, signal.SIGCONT)
    until("they are back", lambda: len(ready_nodes(plane)) == NODES + 1)
    plane.kubectl("wait", "--for=condition=Ready", "pod/stays", "--timeout=60s")
    assert plane.kubectl("get", "pod", "stays", "-o", "jsonpath={.status.containerStatuses[0].restartCount}") == "0"


async def test_nodes_that_nobody_plays_any_more_are_deleted(plane: ControlPlane) -> None:
    plane.kill(HOLLOW)
    fewer = plane.state.model_copy(update={"hollow_nodes": 20})
    await _forget(fewer, plane.tls())
    async with ApiClient(plane.grpc_servers, plane.tls()):
        assert len(plane.objects("nodes")) == 21

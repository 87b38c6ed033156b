"""A StatefulSet with real pods: identities, roll-outs and their undo, claims, a machine that is away."""

import json
from pathlib import Path

import pytest

from tests.e2e.user import User, until

pytestmark = pytest.mark.integration

WEB = """
apiVersion: v1
kind: Service
metadata: {name: net}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: net
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: web:1
        command: [sh, -c, "echo level $LEVEL; exec sleep 1000"]
        env: [{name: LEVEL, value: one}]
"""


def levels(user: User) -> dict[str, str]:
    """The environment of each pod that is not on its way out."""
    return {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["env"][0]["value"]
        for pod in user.items("pods", "-l", "app=web")
        if "deletionTimestamp" not in pod["metadata"]
    }


def rolled_out(user: User) -> None:
    user("rollout", "status", "statefulset/web", "--timeout=60s")


def test_identities_come_one_after_another(user: User) -> None:
    user.apply(WEB)
    rolled_out(user)
    pods = {pod["metadata"]["name"]: pod for pod in user.items("pods", "-l", "app=web")}
    assert sorted(pods) == ["web-0", "web-1"]
    ready = {each["type"]: each["lastTransitionTime"] for each in pods["web-0"]["status"]["conditions"]}["Ready"]
    assert pods["web-1"]["metadata"]["creationTimestamp"] >= ready
    assert pods["web-1"]["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
    rows = user("get", "sts", "web", "-o", "wide").splitlines()
    assert rows[0].split() == ["NAME", "READY", "AGE", "CONTAINERS", "IMAGES"]
    assert [rows[1].split()[0], rows[1].split()[1], *rows[1].split()[3:]] == ["web", "2/2", "web", "web:1"]
    described = user("describe", "sts", "web")
    assert "create Pod web-0 in StatefulSet web successful" in described
    hostnames = [
        endpoint.get("hostname")
        for piece in user.items("endpointslices", "-l", "kubernetes.io/service-name=net")
        for endpoint in piece.get("endpoints") or ()
    ]
    assert sorted(hostnames) == ["web-0", "web-1"]


def test_roll_outs_their_history_and_undo(user: User) -> None:
    user("set", "env", "statefulset/web", "LEVEL=two")
    rolled_out(user)
    assert levels(user) == {"web-0": "two", "web-1": "two"}
    revisions = user("rollout", "history", "statefulset/web").split()
    assert {"1", "2"} <= set(revisions)
    first = user("rollout", "history", "statefulset/web", "--revision=1")
    assert "LEVEL:\tone" in first
    user("rollout", "undo", "statefulset/web")
    rolled_out(user)
    assert levels(user) == {"web-0": "one", "web-1": "one"}
    assert "3" in user("rollout", "history", "statefulset/web").split()
    user("rollout", "undo", "statefulset/web", "--to-revision=3")
    assert "4" not in user("rollout", "history", "statefulset/web").split(), "it is at the third already"
    before = {pod["metadata"]["uid"] for pod in user.items("pods", "-l", "app=web")}
    user("rollout", "restart", "statefulset/web")
    rolled_out(user)
    assert not before & {pod["metadata"]["uid"] for pod in user.items("pods", "-l", "app=web")}
    names = [each["metadata"]["name"] for each in user.items("controllerrevisions")]
    assert len(names) == 3 and all(name.startswith("web-") for name in names)


def test_a_partition_and_scaling(user: User) -> None:
    user("patch", "sts", "web", "-p", json.dumps({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}}))
    user("set", "env", "statefulset/web", "LEVEL=three")
    rolled_out(user)
    assert levels(user) == {"web-0": "one", "web-1": "three"}
    user("scale", "sts", "web", "--replicas=3", "--current-replicas=2")
    until("the third", lambda: levels(user) == {"web-0": "one", "web-1": "three", "web-2": "three"})
    user("scale", "sts", "web", "--replicas=1")
    until("one is left", lambda: [pod["metadata"]["name"] for pod in user.items("pods", "-l", "app=web")] == ["web-0"])
    refused = user.run("patch", "sts", "web", "-p", '{"spec":{"serviceName":"other"}}')
    assert "updates to statefulset spec for fields other than 'replicas', 'ordinals'" in refused.stderr


def test_an_identity_waits_for_its_machine(user: User) -> None:
    """Its kubelet is away: the pod stays Terminating, and nothing gets its name, until it is known to have ended."""
    (pod,) = user.items("pods", "-l", "app=web")
    machine = pod["spec"]["nodeName"]
    user.plane.kill(f"kubelet-{machine}")
    try:
        user("delete", "pod", "web-0", "--wait=false")
        user("scale", "sts", "web", "--replicas=2")
        until("the set has seen it", lambda: user.get("sts", "web")["status"].get("observedGeneration", 0) >= 2)
        found = user.items("pods", "-l", "app=web")
        assert [each["metadata"]["uid"] for each in found] == [pod["metadata"]["uid"]]
        assert "deletionTimestamp" in found[0]["metadata"]
    finally:
        user.plane.start(f"kubelet-{machine}")
    rolled_out(user)
    assert user.get("pod", "web-0")["metadata"]["uid"] != pod["metadata"]["uid"]
    user("delete", "sts", "web")
    until("its pods are collected", lambda: not user.items("pods", "-l", "app=web"))


def test_claims_stay_with_their_identity(user: User, tmp_path: Path) -> None:
    """Each pod counts its starts on its own volume; a claim goes with a pod that is scaled away when asked."""
    named = {name: f"{user.namespace}-{name}" for name in ("a", "b")}
    volumes = []
    for name, full in named.items():
        (tmp_path / name).mkdir()
        spec = {
            "storageClassName": user.namespace,
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(tmp_path / name)},
        }
        volumes.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": full}, "spec": spec})
    container = {
        "name": "store",
        "image": "any",
        "command": ["sh", "-c", "echo $POD >>/data/pods; exec sleep 1000"],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "storageClassName": user.namespace,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    store = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "store"},
        "spec": {
            "replicas": 2,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "store"}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
            "volumeClaimTemplates": [claim],
            "template": {
                "metadata": {"labels": {"app": "store"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
        },
    }

    def written() -> list[list[str]]:
        files = [tmp_path / name / "pods" for name in named]
        return sorted(file.read_text().split() if file.exists() else [] for file in files)

    def claims() -> list[str]:
        return sorted(each["metadata"]["name"] for each in user.items("pvc"))

    try:
        user.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*volumes, store]}))
        user("rollout", "status", "statefulset/store", "--timeout=60s")
        assert claims() == ["data-store-0", "data-store-1"]
        until("each has written", lambda: written() == [["store-0"], ["store-1"]])
        user("delete", "pod", "store-1")
        until("again on its own", lambda: written() == [["store-0"], ["store-1", "store-1"]])
        user("scale", "sts", "store", "--replicas=1")
        until("the claim went with its pod", lambda: claims() == ["data-store-0"])
        user("delete", "sts", "store")
        until("its pods are gone", lambda: not user.items("pods", "-l", "app=store"))
        assert claims() == ["data-store-0"]
    finally:
        user.run("delete", "sts,pvc", "--all")
        user.run("delete", "pv", *named.values(), "--wait=false")

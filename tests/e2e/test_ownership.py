"""What goes with what: owners and dependents, namespaces and their contents; what kubectl shows as it happens."""

import json
from pathlib import Path

import pytest

from tests.e2e.user import User, until

pytestmark = pytest.mark.integration


def deployment(name: str) -> str:
    container = {"name": "main", "image": "any", "command": ["sleep", "1000"]}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}) + "\n"


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply("".join(deployment(name) for name in ("background", "foreground", "orphan")))
    for name in ("background", "foreground", "orphan"):
        user("rollout", "status", f"deployment/{name}", "--timeout=60s")


def left(user: User, name: str) -> dict[str, int]:
    return {kind: len(user.items(kind, "-l", f"app={name}")) for kind in ("replicasets", "pods")}


def test_background_deletion_takes_dependents_later(user: User) -> None:
    user("delete", "deployment", "background")
    until("all gone", lambda: left(user, "background") == {"replicasets": 0, "pods": 0})


def test_foreground_deletion_takes_dependents_first(user: User) -> None:
    user("delete", "deployment", "foreground", "--cascade=foreground")
    assert left(user, "foreground") == {"replicasets": 0, "pods": 0}


def test_orphans_stay_and_can_be_adopted(user: User) -> None:
    user("delete", "deployment", "orphan", "--cascade=orphan")
    assert left(user, "orphan") == {"replicasets": 1, "pods": 1}
    [replica_set] = user.items("replicasets", "-l", "app=orphan")
    assert "ownerReferences" not in replica_set["metadata"]
    [pod] = user.items("pods", "-l", "app=orphan")
    user.apply(deployment("orphan"))
    user("rollout", "status", "deployment/orphan", "--timeout=60s")
    until("adoption", lambda: user.items("replicasets", "-l", "app=orphan")[0]["metadata"].get("ownerReferences"))
    assert [one["metadata"]["uid"] for one in user.items("pods", "-l", "app=orphan")] == [pod["metadata"]["uid"]]


def test_an_object_goes_with_its_owner(user: User) -> None:
    user("create", "configmap", "parent")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "parent"}
    for name, uid in (("child", user.get("configmap", "parent")["metadata"]["uid"]), ("stray", "gone-long-ago")):
        metadata = {"name": name, "ownerReferences": [owner | {"uid": uid}]}
        user.apply(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
    user.wait("delete", "configmap/stray")
    assert user.get("configmap", "child")
    user("delete", "configmap", "parent")
    user.wait("delete", "configmap/child")


def test_a_deleted_namespace_is_empty_and_can_be_made_again(user: User) -> None:
    other = User(user.plane, "short-lived")
    user("create", "namespace", "short-lived")
    other("create", "configmap", "thing")
    other("create", "secret", "generic", "thing", "--from-literal=a=b")
    other.apply(deployment("web"))
    other("expose", "deployment", "web", "--port=8080")
    other("rollout", "status", "deployment/web", "--timeout=60s")
    user("delete", "namespace", "short-lived")
    assert user.run("get", "namespace", "short-lived").returncode == 1
    assert other("get", "all,configmaps,secrets,endpointslices,endpoints,serviceaccounts,events") == ""
    refused = other.run("create", "configmap", "thing")
    assert refused.returncode == 1 and 'namespaces "short-lived" not found' in refused.stderr
    user("create", "namespace", "short-lived")
    other.wait("create", "serviceaccount/default")
    user("delete", "namespace", "short-lived", "--wait=false")


def test_kubectl_watches_a_pod_live_and_die(user: User, tmp_path: Path) -> None:
    output = tmp_path / "watched"
    watching = user.watching("get", "pods", "-w", "--field-selector=metadata.name=brief", output=output)
    try:
        container = {"name": "main", "image": "any", "command": ["sleep", "0.5"]}
        spec = {"restartPolicy": "Never", "containers": [container]}
        user.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "brief"}, "spec": spec}))
        user.wait("jsonpath={.status.phase}=Succeeded", "pod/brief")
        user("delete", "pod", "brief")
        until("its end", lambda: "Completed" in output.read_text())
    finally:
        watching.kill()
        watching.wait()
    lines = [line.split() for line in output.read_text().splitlines()]
    assert lines[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    statuses = list(dict.fromkeys(line[2] for line in lines[1:]))
    assert statuses == ["Pending", "ContainerCreating", "Running", "Completed"]


def test_a_wait_for_what_does_not_come_times_out(user: User) -> None:
    waited = user.run("wait", "--for=condition=Available=False", "deployment/orphan", "--timeout=1s")
    assert waited.returncode == 1
    assert "timed out waiting for the condition on deployments/orphan" in waited.stderr

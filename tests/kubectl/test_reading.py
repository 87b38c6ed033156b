"""kubectl reads: tables, formats, selectors, describe, explain, discovery, who may do what."""

import json

import pytest
import yaml

from tests.kubectl.conftest import Kubectl
from tests.kubectl.manifests import DEPLOYMENT, POD

pytestmark = pytest.mark.integration


def test_tables(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    head, row = kubectl.rows("get", "deployments")
    assert head == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row[:4] == ["web", "0/2", "0", "0"]
    head, row = kubectl.rows("get", "deploy", "-o", "wide")
    assert head[5:] == ["CONTAINERS", "IMAGES", "SELECTOR"]
    assert row[5:] == ["a,b", "x,x", "app=web"]
    head, row = kubectl.rows("get", "deploy", "-L", "app", "--show-labels")
    assert (head[5:], row[5:]) == (["APP", "LABELS"], ["web", "app=web"])
    assert kubectl.rows("get", "deploy", "-A")[0][0] == "NAMESPACE"


def test_pods_wide(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=POD)
    assert kubectl("get", "pods", "-o", "wide").splitlines()[0].split("   ")[0] == "NAME"
    head, row = kubectl.rows("get", "pods", "-o", "wide")
    assert " ".join(head) == "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"
    assert row[:4] == ["p", "0/1", "Pending", "0"]
    assert row[5:] == ["<none>"] * 4


def test_formats(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    as_json = json.loads(kubectl("get", "deploy", "web", "-o", "json"))
    as_yaml = yaml.safe_load(kubectl("get", "deploy", "web", "-o", "yaml"))
    assert as_json == as_yaml
    assert as_json["spec"]["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].name}") == "a b"
    assert kubectl("get", "deploy", "-o", "name") == "deployment.apps/web\n"
    custom = kubectl.rows("get", "deploy", "-o", "custom-columns=N:.metadata.name,R:.spec.replicas")
    assert custom == [["N", "R"], ["web", "2"]]
    listed = json.loads(kubectl("get", "deploy", "-o", "json"))
    assert (listed["kind"], len(listed["items"])) == ("List", 1)


def test_sorting_asks_for_whole_objects(kubectl: Kubectl) -> None:
    for name in ("c", "a", "b"):
        kubectl("create", "configmap", name, f"--from-literal=k={name}")
    rows = kubectl.rows("get", "configmaps", "--sort-by=.data.k")
    assert [row[0] for row in rows[1:]] == ["a", "b", "c"]


def test_chunks(kubectl: Kubectl) -> None:
    items = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{each:02}"}} for each in range(7)]
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    rows = kubectl.rows("get", "configmaps", "--chunk-size=2")
    assert [row[0] for row in rows[1:]] == [f"c{each:02}" for each in range(7)]


def test_selectors(kubectl: Kubectl) -> None:
    for name, tier in (("a", "x"), ("b", "y"), ("c", "")):
        kubectl("create", "configmap", name)
        if tier:
            kubectl("label", "configmap", name, f"tier={tier}")

    def names(*arguments: str) -> list[str]:
        return kubectl("get", "configmaps", "-o", "name", *arguments).split()

    assert names("-l", "tier") == ["configmap/a", "configmap/b"]
    assert names("-l", "tier in (x,z)") == ["configmap/a"]
    assert names("-l", "!tier") == ["configmap/c"]
    assert names("-l", "tier!=x") == ["configmap/b", "configmap/c"]
    assert names("--field-selector", "metadata.name=b") == ["configmap/b"]
    assert names("--field-selector", "metadata.name!=b", "-l", "tier") == ["configmap/a"]


def test_nothing_there(kubectl: Kubectl) -> None:
    done = kubectl.run("get", "pods")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        f"No resources found in {kubectl.namespace} namespace.\n",
    )


def test_get_all_names_each_kind(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    kubectl("create", "service", "clusterip", "svc", "--tcp=80:80")
    printed = kubectl("get", "all")
    assert "deployment.apps/web" in printed
    assert "service/svc" in printed


def test_describe(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT + "---" + POD)
    text = kubectl("describe", "deployment", "web")
    assert "Replicas:               2 desired | 0 updated | 0 total | 0 available | 0 unavailable" in text
    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in text
    text = kubectl("describe", "pod", "p")
    assert "Service Account:  default" in text
    assert "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s" in text


def test_explain(kubectl: Kubectl) -> None:
    text = kubectl("explain", "deployment.spec.strategy.rollingUpdate")
    assert "GROUP:      apps" in text
    assert "FIELD: rollingUpdate <RollingUpdateDeployment>" in text
    assert "maxSurge\t<IntOrString>" in text
    assert kubectl.fails("explain", "pod.spec.nothing") == 'error: field "nothing" does not exist\n'


def test_discovery(kubectl: Kubectl) -> None:
    rows = {row[0]: row for row in kubectl.rows("api-resources", "--no-headers", "-o", "wide")}
    assert rows["deployments"][1:5] == ["deploy", "apps/v1", "true", "Deployment"]
    assert "create,delete,deletecollection,get,list,patch,update,watch" in rows["deployments"]
    versions = kubectl("api-versions").split()
    assert {"v1", "apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1"} <= set(versions)


def test_version(kubectl: Kubectl) -> None:
    server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]
    assert server["gitVersion"].startswith("v1.36.")
    assert (server["major"], server["minor"]) == ("1", "36")


def test_access(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    denied = kubectl.run("auth", "can-i", "create", "pods", "--as=somebody")
    assert (denied.returncode, denied.stdout) == (1, "no\n")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "reads", "--role=reader", "--user=somebody")
    assert kubectl("auth", "can-i", "list", "pods", "--as=somebody") == "yes\n"
    assert kubectl("get", "pods", "--as=somebody") == ""
    assert kubectl.fails("get", "secrets", "--as=somebody") == (
        'Error from server (Forbidden): secrets is forbidden: User "somebody" cannot list resource "secrets" '
        f'in API group "" in the namespace "{kubectl.namespace}"\n'
    )
    assert "kubernetes-admin" in kubectl("auth", "whoami")


def test_raw_paths(kubectl: Kubectl) -> None:
    for path in ("/healthz", "/livez", "/readyz"):
        assert kubectl("get", "--raw", path) == "ok"
    assert json.loads(kubectl("get", "--raw", "/version/"))["major"] == "1"

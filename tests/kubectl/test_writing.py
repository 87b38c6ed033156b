"""kubectl writes: create, the generators, apply in both ways, edit, patch in all forms, scale, label, delete."""

import json
import os
from typing import Any

import pytest

from tests.kubectl.conftest import Kubectl
from tests.kubectl.manifests import CONFIG_MAP, DEPLOYMENT, POD

pytestmark = pytest.mark.integration


BOTH = [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]


def read(kubectl: Kubectl, *what: str) -> dict[str, Any]:
    obj: dict[str, Any] = json.loads(kubectl("get", *what, "-o", "json", "--show-managed-fields"))
    return obj


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web created\n"
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace("image: x,", "image: z,").replace("      - {name: b, image: x}\n", "")
    assert kubectl("apply", "-f", "-", stdin=changed) == "deployment.apps/web configured\n"
    containers = read(kubectl, "deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in containers] == [("a", "z")]
    assert read(kubectl, "deployment", "web")["metadata"]["generation"] == 2


def test_apply_keeps_what_others_set(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("label", "deployment", "web", "mine=1")
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 3"))
    obj = read(kubectl, "deployment", "web")
    assert obj["metadata"]["labels"] == {"app": "web", "mine": "1"}
    assert obj["spec"]["replicas"] == 3


def test_diff(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("diff", "-f", "-", stdin=DEPLOYMENT) == ""
    done = kubectl.run("diff", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 5"))
    assert done.returncode == 1
    assert "-  replicas: 2\n+  replicas: 5" in done.stdout
    assert read(kubectl, "deployment", "web")["spec"]["replicas"] == 2


def test_server_side_apply(kubectl: Kubectl) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    assert kubectl(*apply, stdin=CONFIG_MAP) == "configmap/cm serverside-applied\n"
    fields = read(kubectl, "configmap", "cm")["metadata"]["managedFields"]
    assert [(each["manager"], each["operation"], each["fieldsV1"]) for each in fields] == [
        ("kubectl", "Apply", {"f:data": {"f:a": {}}})
    ]
    other = CONFIG_MAP.replace('a: "1"', 'a: "2"')
    message = kubectl.fails(*apply, "--field-manager=bob", stdin=other)
    assert message.startswith('error: Apply failed with 1 conflict: conflict with "kubectl": .data.a\n')
    kubectl(*apply, "--field-manager=bob", "--force-conflicts", stdin=other)
    assert read(kubectl, "configmap", "cm")["data"] == {"a": "2"}
    kubectl(*apply, "--field-manager=bob", stdin=CONFIG_MAP.replace('a: "1"', 'b: "1"'))
    assert read(kubectl, "configmap", "cm")["data"] == {"b": "1"}


def test_from_client_side_to_server_side(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("apply", "--server-side", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 4"))
    obj = read(kubectl, "deployment", "web")
    assert obj["spec"]["replicas"] == 4
    managers = {each["manager"]: each["operation"] for each in obj["metadata"]["managedFields"]}
    assert managers == {"kubectl": "Apply", "kubectl-last-applied": "Apply"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("configmap c --from-literal=a=b", "configmap/c created"),
        ("secret generic s --from-literal=a=b", "secret/s created"),
        ("service clusterip s --tcp=80:8080", "service/s created"),
        ("service nodeport s --tcp=80:8080", "service/s created"),
        ("service externalname s --external-name=x.y", "service/s created"),
        ("deployment d --image=x --replicas=2 --port=80", "deployment.apps/d created"),
        ("job j --image=x -- sleep 1", "job.batch/j created"),
        ("cronjob c --image=x --schedule=@daily", "cronjob.batch/c created"),
        ("serviceaccount s", "serviceaccount/s created"),
        ("role r --verb=get --resource=pods", "role.rbac.authorization.k8s.io/r created"),
        ("rolebinding b --clusterrole=view --user=u", "rolebinding.rbac.authorization.k8s.io/b created"),
        ("ingress i --rule=a.b/c=svc:80", "ingress.networking.k8s.io/i created"),
        ("quota q --hard=pods=3", "resourcequota/q created"),
        ("poddisruptionbudget p --selector=a=b --min-available=1", "poddisruptionbudget.policy/p created"),
    ],
)
def test_generators(kubectl: Kubectl, arguments: str, said: str) -> None:
    assert kubectl("create", *arguments.split()) == said + "\n"
    before, dashes, command = arguments.partition(" -- ")
    dry = [*before.split(), "--dry-run=client", "-o", "json", *(dashes + command).split()]
    offline = json.loads(kubectl("create", *dry))
    stored = read(kubectl, offline["kind"], offline["metadata"]["name"])
    for section in ("spec", "data", "rules", "roleRef"):
        missing = [name for name in offline.get(section) or () if section != "rules" and name not in stored[section]]
        assert not missing, f"lost on the way: {section}.{missing}"


def test_create_token(kubectl: Kubectl) -> None:
    assert kubectl("create", "token", "default").count(".") == 2


def test_run_and_expose(kubectl: Kubectl) -> None:
    assert kubectl("run", "p", "--image=x", "--port=80", "--labels=app=p") == "pod/p created\n"
    assert kubectl("expose", "pod", "p", "--port=80") == "service/p exposed\n"
    assert read(kubectl, "service", "p")["spec"]["selector"] == {"app": "p"}


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("strategic", {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "y"}]}}}}),
        ("merge", {"spec": {"template": {"spec": {"containers": BOTH}}}}),
        ("json", [{"op": "replace", "path": "/spec/template/spec/containers/1/image", "value": "y"}]),
    ],
)
def test_patches(kubectl: Kubectl, kind: str, patch: Any) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    assert (
        kubectl("patch", "deployment", "web", f"--type={kind}", "-p", json.dumps(patch))
        == "deployment.apps/web patched\n"
    )
    assert (
        kubectl("patch", "deployment", "web", f"--type={kind}", "-p", json.dumps(patch))
        == "deployment.apps/web patched (no change)\n"
    )
    containers = read(kubectl, "deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in containers] == [("a", "x"), ("b", "y")]


def test_scale(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("scale", "deployment", "web", "--replicas=5") == "deployment.apps/web scaled\n"
    assert read(kubectl, "deployment", "web")["spec"]["replicas"] == 5
    message = kubectl.fails("scale", "deployment", "web", "--current-replicas=2", "--replicas=1")
    assert message == "error: Expected replicas to be 2, was 5\n"
    assert (
        kubectl("scale", "deployment", "web", "--current-replicas=5", "--replicas=0") == "deployment.apps/web scaled\n"
    )


def test_autoscale(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=nginx")
    said = kubectl("autoscale", "deployment", "web", "--min=2", "--max=5", "--cpu-percent=70")
    assert said == "horizontalpodautoscaler.autoscaling/web autoscaled\n"
    spec = read(kubectl, "hpa", "web")["spec"]
    target = {"type": "Utilization", "averageUtilization": 70}
    assert spec["metrics"] == [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    assert kubectl.rows("get", "hpa", "web")[1][:4] == ["web", "Deployment/web", "cpu:", "<unknown>/70%"]

    old = read(kubectl, "horizontalpodautoscalers.v1.autoscaling", "web")
    assert old["apiVersion"] == "autoscaling/v1"
    assert old["spec"]["targetCPUUtilizationPercentage"] == 70
    assert kubectl.rows("get", "horizontalpodautoscalers.v1.autoscaling", "web")[1][:4] == [
        "web",
        "Deployment/web",
        "cpu:",
        "<unknown>/70%",
    ]
    memory = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Value", "value": "1Gi"}}}
    kubectl(
        "patch",
        "hpa",
        "web",
        "--type=json",
        "-p",
        json.dumps([{"op": "add", "path": "/spec/metrics/-", "value": memory}]),
    )
    patch = '{"spec":{"targetCPUUtilizationPercentage":50}}'
    kubectl("patch", "horizontalpodautoscalers.v1.autoscaling", "web", "--type=merge", "-p", patch)
    metrics = read(kubectl, "hpa", "web")["spec"]["metrics"]
    assert metrics[0]["resource"]["target"]["averageUtilization"] == 50
    assert metrics[1] == memory
    kubectl("delete", "horizontalpodautoscalers.v1.autoscaling", "web")


def test_label_and_annotate(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP)
    assert kubectl("label", "configmap", "cm", "a=1") == "configmap/cm labeled\n"
    assert kubectl.fails("label", "configmap", "cm", "a=2") == (
        "error: 'a' already has a value (1), and --overwrite is false\n"
    )
    assert kubectl("label", "configmap", "cm", "a=2", "--overwrite") == "configmap/cm labeled\n"
    assert kubectl("annotate", "configmap", "cm", "n=x") == "configmap/cm annotated\n"
    metadata = read(kubectl, "configmap", "cm")["metadata"]
    assert (metadata["labels"], metadata["annotations"]) == ({"a": "2"}, {"n": "x"})
    assert kubectl("label", "configmap", "cm", "a-") == "configmap/cm unlabeled\n"


def test_edit(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    editor = kubectl.file("editor", "#!/bin/sh\nsed -i 's/replicas: 2/replicas: 9/' \"$1\"\n")
    os.chmod(editor, 0o700)
    monkeypatch.setenv("KUBE_EDITOR", editor)
    assert kubectl("edit", "deployment", "web") == "deployment.apps/web edited\n"
    assert read(kubectl, "deployment", "web")["spec"]["replicas"] == 9


def test_replace_and_rollout_commands(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("replace", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 1")) == (
        "deployment.apps/web replaced\n"
    )
    assert kubectl("set", "image", "deployment/web", "a=q") == "deployment.apps/web image updated\n"
    assert kubectl("rollout", "restart", "deployment/web") == "deployment.apps/web restarted\n"
    assert kubectl("rollout", "pause", "deployment/web") == "deployment.apps/web paused\n"
    template = read(kubectl, "deployment", "web")["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "q"
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_delete(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=CONFIG_MAP + "---" + POD)
    assert kubectl("delete", "configmap", "cm").splitlines()[0].startswith('configmap "cm" deleted')
    assert kubectl.fails("get", "configmap", "cm") == 'Error from server (NotFound): configmaps "cm" not found\n'
    assert kubectl("delete", "pod", "p").startswith('pod "p" deleted')
    for name in ("a", "b"):
        kubectl("create", "configmap", name)
    kubectl("delete", "configmaps", "--all")
    assert kubectl("get", "configmaps", "-o", "name") == ""
    assert kubectl("delete", "configmap", "gone", "--ignore-not-found") == ""


def test_dry_run_stores_nothing(kubectl: Kubectl) -> None:
    assert (
        kubectl("create", "-f", "-", "--dry-run=server", stdin=CONFIG_MAP) == "configmap/cm created (server dry run)\n"
    )
    assert "NotFound" in kubectl.fails("get", "configmap", "cm")

"""Real kubectl and the official Python client against an apiserver with a real store."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.kit.apiservers import Apiservers
from tests.kit.require import require_program

pytestmark = pytest.mark.integration

MANIFEST = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: default}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: none
        command: [sleep, "60"]
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  containers: [{name: c, image: none, command: ["true"]}]
"""


class Kubectl:
    """kubectl as a user."""

    def __init__(self, program: str, kubeconfig: Path, folder: Path) -> None:
        self._command = [program, "--kubeconfig", str(kubeconfig), "--cache-dir", str(folder / "cache")]

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, *arguments: str, stdin: str = "") -> str:
        code, out, err = await self.run(*arguments, stdin=stdin)
        assert code == 0, f"kubectl {' '.join(arguments)}: {err}"
        return out

    async def fails(self, *arguments: str, stdin: str = "") -> str:
        code, out, err = await self.run(*arguments, stdin=stdin)
        assert code != 0, out
        return err


@pytest.fixture
def kubectl(servers: Apiservers, tmp_path: Path) -> Kubectl:
    return Kubectl(require_program("kubectl"), servers.kubeconfig(), tmp_path)


async def test_a_manifest_from_apply_to_delete(kubectl) -> None:
    out = await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert out.splitlines() == [
        "serviceaccount/default created",
        "deployment.apps/web created",
        "service/web created",
        "pod/alone created",
    ]
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=MANIFEST)
    changed = MANIFEST.replace("replicas: 2", "replicas: 3")
    assert "deployment.apps/web configured" in await kubectl("apply", "-f", "-", stdin=changed)
    table = (await kubectl("get", "deploy,svc,pod", "-o", "wide")).splitlines()
    assert table[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert table[1].split()[:4] == ["deployment.apps/web", "0/3", "0", "0"]
    assert "Pending" in await kubectl("get", "pods")
    assert json.loads(await kubectl("get", "deploy", "web", "-o", "json"))["metadata"]["generation"] == 2
    assert "Replicas:" in await kubectl("describe", "deployment", "web")
    assert "Selector:" in await kubectl("describe", "service", "web")
    assert (await kubectl.run("diff", "-f", "-", stdin=changed))[0] == 0
    assert "replicas" in (await kubectl.run("diff", "-f", "-", stdin=MANIFEST))[1]
    await kubectl("scale", "deployment", "web", "--replicas", "5")
    await kubectl("set", "image", "deployment/web", "web=other")
    await kubectl("label", "deployment", "web", "tier=front")
    await kubectl("annotate", "deployment", "web", "why=because")
    await kubectl("rollout", "restart", "deployment", "web")
    await kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op":"remove","path":"/metadata/labels/tier"}]')
    await kubectl("patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"labels":{"a":"b"}}}')
    await kubectl(
        "patch",
        "deployment",
        "web",
        "-p",
        '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x"}]}}}}',
    )
    web = json.loads(await kubectl("get", "deploy", "web", "-o", "json"))
    assert web["spec"]["replicas"] == 5
    assert sorted(each["image"] for each in web["spec"]["template"]["spec"]["containers"]) == ["other", "x"]
    assert web["metadata"]["labels"] == {"app": "web", "a": "b"}
    replaced = web | {"spec": web["spec"] | {"replicas": 1}}
    await kubectl("replace", "-f", "-", stdin=json.dumps(replaced))
    assert "Conflict" in await kubectl.fails("replace", "-f", "-", stdin=json.dumps(replaced))
    out = await kubectl("delete", "-f", "-", stdin=MANIFEST)
    assert 'pod "alone" deleted' in out
    assert (await kubectl("get", "deploy,pod")).strip() == ""


async def test_server_side_apply(kubectl) -> None:
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    changed = MANIFEST.replace("replicas: 2", "replicas: 3")
    error = await kubectl.fails("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=changed)
    assert "conflict" in error and ".spec.replicas" in error
    await kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=changed)


async def test_generators_send_protobuf(kubectl) -> None:
    await kubectl("create", "serviceaccount", "default")
    await kubectl("create", "deployment", "d", "--image=x", "--replicas=2", "--port=80")
    await kubectl("create", "configmap", "c", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    await kubectl("create", "job", "j", "--image=x", "--", "true")
    await kubectl("create", "cronjob", "cj", "--image=x", "--schedule=*/5 * * * *", "--", "true")
    await kubectl("create", "namespace", "n")
    await kubectl("create", "service", "nodeport", "np", "--tcp=80")
    await kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    await kubectl("create", "rolebinding", "rb", "--role=r", "--serviceaccount=default:default")
    await kubectl("create", "ingress", "i", "--rule=a.b/*=svc:80")
    await kubectl("create", "quota", "q", "--hard=pods=3")
    await kubectl("create", "poddisruptionbudget", "pdb", "--selector=a=b", "--min-available=1")
    await kubectl("create", "priorityclass", "pc", "--value=1000")
    await kubectl("run", "p", "--image=x", "--", "true")
    await kubectl("expose", "deployment", "d")
    await kubectl("create", "token", "default")
    job = json.loads(await kubectl("get", "job", "j", "-o", "json"))
    assert job["spec"]["selector"]["matchLabels"] == {"batch.kubernetes.io/controller-uid": job["metadata"]["uid"]}
    assert "deployment.apps/d" in await kubectl("get", "all")
    assert (await kubectl("auth", "can-i", "create", "pods")).strip() == "yes"
    assert "kubernetes-admin" in await kubectl("auth", "whoami")
    assert "*.*" in await kubectl("auth", "can-i", "--list")


async def test_discovery_explain_and_errors(kubectl) -> None:
    assert "v1.36" in await kubectl("version")
    resources = await kubectl("api-resources")
    assert "deployments" in resources and "deploy" in resources
    assert "apps/v1" in await kubectl("api-versions")
    assert "replicas" in await kubectl("explain", "deployment.spec")
    error = await kubectl.fails("apply", "-f", "-", stdin=MANIFEST.replace("replicas:", "replicsa:"))
    assert 'unknown field "spec.replicsa"' in error
    error = await kubectl.fails("apply", "-f", "-", stdin=MANIFEST.replace("image: none", "imgae: none"))
    assert "unknown field" in error
    error = await kubectl.fails("get", "pod", "nope")
    assert error.strip() == 'Error from server (NotFound): pods "nope" not found'
    error = await kubectl.fails("get", "nope")
    assert """the server doesn't have a resource type "nope\"""" in error


async def test_watching_and_waiting(kubectl) -> None:
    await kubectl("create", "serviceaccount", "default")
    await kubectl("run", "p", "--image=x")
    waiting = asyncio.create_task(kubectl("wait", "pod/p", "--for=delete", "--timeout=20s"))
    watching = asyncio.create_task(kubectl("get", "pods", "-w", "--request-timeout=4s"))
    await asyncio.sleep(0.5)  # both clients are at it; the test holds without it too, but shows less
    await kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Pending", "--timeout=20s")
    await kubectl("delete", "pod", "p")
    assert "condition met" in await waiting
    lines = (await watching).splitlines()
    assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [line.split()[0] for line in lines[1:]] == ["p", "p"]


async def test_the_official_python_client(servers) -> None:
    import kubernetes
    from kubernetes import client

    def use() -> None:
        api_client = kubernetes.config.new_client_from_config(str(servers.kubeconfig()))
        core, apps = client.CoreV1Api(api_client), client.AppsV1Api(api_client)
        core.create_namespaced_service_account("default", {"metadata": {"name": "default"}})
        container = client.V1Container(name="c", image="x")
        spec = client.V1PodSpec(containers=[container])
        core.create_namespaced_pod("default", client.V1Pod(metadata=client.V1ObjectMeta(name="p"), spec=spec))
        pod = core.read_namespaced_pod("p", "default")
        assert (pod.status.phase, pod.spec.priority) == ("Pending", 0)
        labels = {"a": "b"}
        template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=spec)
        wanted = client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template)
        made = apps.create_namespaced_deployment(
            "default", client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=wanted)
        )
        assert made.spec.replicas == 1
        apps.patch_namespaced_deployment_scale("d", "default", {"spec": {"replicas": 4}})
        assert apps.read_namespaced_deployment_scale("d", "default").spec.replicas == 4
        patched = apps.patch_namespaced_deployment("d", "default", {"metadata": {"labels": {"x": "y"}}})
        assert patched.metadata.labels == {"x": "y"}
        watched = kubernetes.watch.Watch()
        names = [
            event["object"].metadata.name
            for event in watched.stream(core.list_namespaced_pod, "default", timeout_seconds=1)
        ]
        assert names == ["p"]
        core.delete_namespaced_pod("p", "default")
        with pytest.raises(client.ApiException) as error:
            core.read_namespaced_pod("p", "default")
        assert error.value.status == 404
        dynamic = kubernetes.dynamic.DynamicClient(api_client)
        maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
        body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {"a": "b"}}
        assert maps.server_side_apply(body=body, namespace="default", field_manager="me").data.a == "b"

    await asyncio.to_thread(use)

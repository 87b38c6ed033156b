"""`raykube plan` and `raykube drain --plan` against a real store and apiserver."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raykube.client import operations
from raykube.client.api import ApiClient
from tests.kit import pki
from tests.kit.apiservers import ADMIN, Apiservers
from tests.scheduler.objects import Object, node, pod

pytestmark = pytest.mark.integration

APP = """
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: first}
value: 100
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      priorityClassName: first
      serviceAccountName: keeper
      containers:
      - name: c
        image: example.com/web:1
        resources: {limits: {cpu: 1500m}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keeper, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""

OTHER: Object = {"schedulerName": "another"}


def kubeconfig(folder: Path, address: str) -> Path:
    tls = pki.tls(*ADMIN)
    cluster: Object = {
        "server": "https://127.0.0.1:1",
        "certificate-authority": str(tls.ca_file),
        "extensions": [{"name": "raykube.io/grpc", "extension": {"servers": [address]}}],
    }
    user = {"client-certificate": str(tls.cert_file), "client-key": str(tls.key_file)}
    path = folder / "kubeconfig"
    document = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


class Command:
    """Runs raykube as a user does."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def __call__(self, *arguments: str, code: int = 0, text: str = "") -> str:
        found, out, error = await self.run(*arguments, text=text)
        assert found == code, (out, error)
        return out if code in (0, 3) else error

    async def run(self, *arguments: str, text: str = "") -> tuple[int | None, str, str]:
        """Its exit code, output and errors."""
        command = [sys.executable, "-m", "raykube", *arguments, "--kubeconfig", str(self._config)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, error = await process.communicate(text.encode())
        finally:
            if process.returncode is None:
                process.kill()  # the test failed meanwhile
        return process.returncode, out.decode(), error.decode()

    async def json(self, *arguments: str, code: int = 0, text: str = "") -> Any:
        return json.loads(await self(*arguments, "-o", "json", code=code, text=text))


async def fill(client: ApiClient) -> None:
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": "default"}}
    objects = [account, node("a", cpu="4"), node("b", cpu="2"), node("c", taints=[("only", "me", "NoSchedule")])]
    results = [await client.write([operations.create(obj)]) for obj in objects]
    assert {result.code for (result,) in results} == {201}, results


async def run_on(client: ApiClient, obj: Object, name: str) -> None:
    obj["metadata"]["ownerReferences"][0]["apiVersion"] = "apps/v1"
    for field in ("uid", "resourceVersion"):
        del obj["metadata"][field]
    obj["spec"] |= {"nodeName": name, "automountServiceAccountToken": False}
    (result,) = await client.write([operations.create(obj)])
    assert result.code == 201, result.body


async def test_plans_explains_and_drains(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client:
        await fill(client)
        raykube = Command(kubeconfig(tmp_path, servers.address("grpc")))
        app = tmp_path / "app.yaml"
        app.write_text(APP)

        # The API's defaults hold: a limit is a request too.
        planned = await raykube.json("plan", "-f", str(app))
        assert [(one["name"], one["node"]) for one in planned] == [("web-0", "a"), ("web-1", "b"), ("web-2", "a")]
        assert planned[2]["why"] == "1 Insufficient cpu, 1 node(s) had untolerated taint(s)"
        shown = await raykube("plan", "-f", "-", text=APP.replace("replicas: 3", "replicas: 4"), code=3)
        assert "web-3  none" in shown
        assert shown.splitlines()[0].split() == ["NAMESPACE", "POD", "NODE", "SCORE", "WHY", "NOT", "ELSEWHERE"]
        assert shown.splitlines()[-1] == "3 of 4 pods on 2 nodes, 1 fit nowhere"

        explained = await raykube("plan", "-f", str(app), "--explain", "web")
        assert explained.splitlines()[-1] == "shop/web-0 would go to a: 2 of 3 nodes fit"
        assert "TaintToleration: node(s) had untolerated taint(s)" in explained

        await run_on(client, pod("busy", "3", namespace="default", owner="rs-1"), "a")
        found = await raykube.json("plan", "--explain", "busy")
        assert [one["node"] for one in found["verdicts"] if not one["rejected_by"]] == ["a"]
        moved = await raykube.json("drain", "a", "--plan", code=3)
        assert [(one["planned"]["name"], one["evicted"], one["planned"]["node"]) for one in moved] == [
            ("busy", True, "")
        ]
        assert (await raykube("drain", "b", "--plan")).splitlines()[-1] == "0 of 0 pods leave b"

        # With another configuration everything is packed.
        config = tmp_path / "scheduler.yaml"
        fit = {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}
        meta = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}
        config.write_text(yaml.safe_dump(meta | {"profiles": [{"pluginConfig": [fit]}]}))
        packed = await raykube.json("plan", "-f", str(app), "--config", str(config))
        assert [(one["node"], one["evicts"]) for one in packed] == [("b", []), ("a", ["default/busy"]), ("a", [])]

        # Nothing was written.
        pods, _ = await client.list(operations.resource_of({"apiVersion": "v1", "kind": "Pod"}))
        assert [one["metadata"]["name"] for one in pods] == ["busy"]


async def test_an_object_that_cannot_be_planned_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    broken = APP.split("---")[2].replace("name: web,", "name: bad,").replace("image: example.com/web:1", "image: ''")
    no_template = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: empty}\nspec: {}"
    async with Apiservers(tmp_path) as servers, servers.client() as client:
        await fill(client)
        raykube = Command(kubeconfig(tmp_path, servers.address("grpc")))
        manifest = "---".join([broken, f"\n{no_template}\n", APP])
        code, out, error = await raykube.run("plan", "-f", "-", text=manifest)
        assert code == 1
        assert out.splitlines()[-1] == "3 of 3 pods on 2 nodes", out
        assert "deployment/bad: Pod" in error and "Deployment empty has no pod template" in error
        code, out, _ = await raykube.run("plan", "-f", "-", "-o", "json", text=manifest)
        assert [(one["name"], one["refused"]) for one in json.loads(out)][-2:] == [("bad", True), ("empty", True)]
        assert "shop/web-0 would go to a" in await raykube("plan", "-f", "-", "--explain", "web", text=manifest)
        assert "deployment/bad: Pod" in await raykube("plan", "-f", "-", "--explain", "bad", text=manifest, code=1)


async def test_pods_that_wait_already_have_their_turn(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client:
        await fill(client)
        raykube = Command(kubeconfig(tmp_path, servers.address("grpc")))
        for name, more in (("first", {}), ("gated", {"schedulingGates": [{"name": "g"}]}), ("other", OTHER)):
            waits = pod(name, "3", namespace="default", automountServiceAccountToken=False, **more)
            for field in ("uid", "resourceVersion"):
                del waits["metadata"][field]
            (result,) = await client.write([operations.create(waits)])
            assert result.code == 201, result.body
        # Two of 1500m fit on a, one on b: the pod that came first leaves room for one alone.
        planned = await raykube.json("plan", "-f", "-", text=APP.replace("priorityClassName: first", ""), code=3)
        assert [one["node"] for one in planned] == ["b", "", ""]
        # Those of higher priority come before it.
        assert [one["node"] for one in await raykube.json("plan", "-f", "-", text=APP)] == ["a", "b", "a"]


async def test_what_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client:
        await fill(client)
        raykube = Command(kubeconfig(tmp_path, servers.address("grpc")))
        assert "name a manifest" in await raykube("plan", code=2)
        assert 'pods "nobody" not found in namespace default' in await raykube("plan", "--explain", "nobody", code=1)
        assert 'nodes "x" not found' in await raykube("drain", "x", "--plan", code=1)
        assert "add --plan" in await raykube("drain", "a", code=2)
        bad = APP.replace("image: example.com/web:1", "image: ''")
        assert "deployment/web: Pod" in await raykube("plan", "-f", "-", text=bad, code=1)
        path = tmp_path / "bad.yaml"
        path.write_text("kind: KubeSchedulerConfiguration")
        assert "Object 'apiVersion' is missing" in await raykube(
            "plan", "-f", "-", "--config", str(path), text=APP, code=2
        )

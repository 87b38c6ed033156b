"""Logs through a kubelet, and evictions within a disruption budget."""

import orjson
from aiohttp import web

from raykube.api.resources import builtin
from raykube.client import operations
from raykube.pb import api_pb2
from tests.apiserver.test_bulk import make_default_account, pod
from tests.apiserver.test_rest import call
from tests.kit import pki
from tests.kit.apiservers import Apiservers

BUDGETS = builtin("policy/v1", "PodDisruptionBudget")
PODS = "/api/v1/namespaces/default/pods"


class Kubelet:
    """The part of a kubelet that serves logs: HTTPS, client certificates required."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def start(self) -> int:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.asked.append((request.path, dict(request.query)))
            if request.path.endswith("/gone"):
                return web.Response(status=400, text='container "gone" in pod "p" is terminated')
            response = web.StreamResponse()
            await response.prepare(request)
            for line in (b"one\n", b"two\n"):
                await response.write(line)
            await response.write_eof()
            return response

        self._runner = web.ServerRunner(web.Server(handle))
        await self._runner.setup()
        context = pki.server_context("system:node:n1", require_client=True)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()


def node(port: int) -> dict:
    status = {
        "addresses": [
            {"type": "Hostname", "address": "nowhere.invalid"},
            {"type": "InternalIP", "address": "127.0.0.1"},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}, "status": status}


async def test_logs_come_from_the_pods_kubelet(tmp_path) -> None:
    own = pki.tls("kube-apiserver-kubelet-client")
    flags = {
        "kubelet_client_certificate": own.cert_file,
        "kubelet_client_key": own.key_file,
        "kubelet_certificate_authority": own.ca_file,
    }
    kubelet = Kubelet()
    port = await kubelet.start()
    async with Apiservers(tmp_path, **flags) as servers, servers.client() as api, servers.session() as admin:
        await make_default_account(api)
        await api.create(node(port))
        containers = [{"name": name, "image": "x"} for name in ("one", "gone")]
        await api.create(pod("p", containers=containers))
        assert await call(admin, "GET", f"{PODS}/p/log?container=one&follow=true") == (200, "")
        assert [chunk async for chunk in api.logs("default", "p", "one")] == []
        await api.write([operations.bind("default", "p", "n1")])
        code, text = await call(
            admin, "GET", f"{PODS}/p/log?container=one&follow=True&tailLines=5&timestamps=1&previous=false"
        )
        assert (code, text) == (200, "one\ntwo\n")
        assert kubelet.asked == [
            ("/containerLogs/default/p/one", {"follow": "true", "timestamps": "true", "tailLines": "5"})
        ]
        code, status = await call(admin, "GET", f"{PODS}/p/log")
        assert code == 400
        assert status["message"] == "a container name must be specified for pod p, choose one of: [one gone]"
        code, status = await call(admin, "GET", f"{PODS}/p/log?container=gone")
        assert (code, status["message"]) == (400, 'container "gone" in pod "p" is terminated')
        code, status = await call(admin, "GET", f"{PODS}/p/log?container=one&tailLines=-1")
        assert (code, status["reason"]) == (400, "BadRequest")
        assert b"".join([chunk async for chunk in api.logs("default", "p", "one", tail_lines=2)]) == b"one\ntwo\n"
        await kubelet.stop()
        code, status = await call(admin, "GET", f"{PODS}/p/log?container=one")
        assert (code, status.get("reason", "")) == (500, "")  # kubectl names a reason, where there is one
        refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
        assert status["message"] == f'Get "https://127.0.0.1:{port}/containerLogs/default/p/one": {refused}'


def budget(allowed: int) -> dict:
    return {
        "kind": "PodDisruptionBudget",
        "apiVersion": "policy/v1",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
        "status": {
            "observedGeneration": 1,
            "disruptionsAllowed": allowed,
            "currentHealthy": 2,
            "desiredHealthy": 1,
            "expectedPods": 2,
        },
    }


async def test_evictions_spend_the_budget_and_then_wait(admin, api) -> None:
    await make_default_account(api)
    for name in ("p", "q"):
        labelled = pod(name)
        labelled["metadata"]["labels"] = {"app": "x"}
        await api.create(labelled)
        await api.write([operations.bind("default", name, "n1")])
        ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        await api.patch(builtin("v1", "Pod"), "default", name, ready, api_pb2.MERGE, "status")
    await api.create(budget(1))
    await api.update_status(budget(1))
    eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p", "namespace": "default"}}
    code, _ = await call(admin, "POST", f"{PODS}/p/eviction", eviction)
    assert code == 201
    spent = await api.get(BUDGETS, "default", "b")
    assert (spent["status"]["disruptionsAllowed"], list(spent["status"]["disruptedPods"])) == (0, ["p"])
    evicted = (await call(admin, "GET", f"{PODS}/p"))[1]
    assert evicted["metadata"]["deletionTimestamp"]
    (target,) = [one for one in evicted["status"]["conditions"] if one["type"] == "DisruptionTarget"]
    assert (target["status"], target["reason"]) == ("True", "EvictionByEvictionAPI")
    assert target["message"] == "Eviction API: evicting"
    eviction["metadata"]["name"] = "q"
    code, status = await call(admin, "POST", f"{PODS}/q/eviction", eviction)
    assert (code, status["reason"]) == (429, "TooManyRequests")
    assert status["details"]["causes"][0]["reason"] == "DisruptionBudget"
    spared = (await call(admin, "GET", f"{PODS}/q"))[1]
    assert "deletionTimestamp" not in spared["metadata"]
    assert "DisruptionTarget" not in [one["type"] for one in spared["status"]["conditions"]]
    (refused,) = await api.write(
        [
            api_pb2.Operation(
                verb=api_pb2.CREATE,
                resource=operations.wire(builtin("v1", "Pod")),
                namespace="default",
                name="q",
                subresource="eviction",
                body=orjson.dumps(eviction),
            )
        ]
    )
    assert refused.code == 429


async def test_binding_over_rest(admin, api) -> None:
    await make_default_account(api)
    await api.create(pod("p"))
    binding = {"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}}
    code, status = await call(admin, "POST", f"{PODS}/p/binding", binding)
    assert (code, status["status"]) == (201, "Success")
    bound = await api.get(builtin("v1", "Pod"), "default", "p")
    assert (bound["spec"]["nodeName"], bound["metadata"]["annotations"]) == ("n1", {"a": "b"})
    code, status = await call(admin, "POST", f"{PODS}/p/binding", binding)
    assert (code, status["message"]) == (
        409,
        'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"',
    )

"""The kubelet and the runtime as commands, below a real store and a real apiserver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client.api import ApiClient
from tests.kit.controlplane import ControlPlane
from tests.kubelet.conftest import PODS, Object, shell, state

pytestmark = pytest.mark.integration

NODES = builtin("v1", "Node")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        plane.start("kv", "apiserver", "kubelet")
        yield plane


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[ApiClient]:
    async with ApiClient(plane.grpc_servers, plane.tls()) as client:
        # What the controllers make in every namespace; they do not run here.
        for obj in (
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "kube-root-ca.crt", "namespace": "default"},
                "data": {"ca.crt": "certificate"},
            },
        ):
            try:
                await client.create(obj)
            except ApiError as error:
                assert error.code == 409, error
        yield client


async def sees(client: ApiClient, name: str, condition: Callable[[Object], object], timeout_s: float = 30) -> Object:
    pod: Object = {}
    for _ in range(int(timeout_s / 0.05)):
        pod = await client.get(PODS, "default", name)
        if condition(pod):
            return pod
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {pod}")


async def node_name(client: ApiClient) -> str:
    """The kubelet's; a kubelet is healthy before it is registered."""
    for _ in range(600):
        nodes = (await client.list(NODES))[0]
        if nodes:
            return str(nodes[0]["metadata"]["name"])
        await asyncio.sleep(0.05)
    raise AssertionError("no node is registered")


async def run(client: ApiClient, name: str, script: str, **spec: object) -> Object:
    node = await node_name(client)
    await client.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [shell(script)]} | spec,
        }
    )
    return await sees(
        client, name, lambda pod: pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")
    )


async def remove(client: ApiClient, name: str) -> None:
    await client.delete(PODS, "default", name, grace_period_s=1)
    for _ in range(400):
        try:
            await client.get(PODS, "default", name)
        except ApiError as error:
            assert error.code == 404
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} stays")


async def text(client: ApiClient, name: str, **options: object) -> str:
    return b"".join([chunk async for chunk in client.logs("default", name, **options)]).decode()  # type: ignore[arg-type]


async def test_service_account_and_logs(client: ApiClient) -> None:
    await run(
        client,
        "one",
        "cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace ca.crt; echo; head -c 3 token; echo",
        restartPolicy="Never",
    )
    await sees(client, "one", lambda pod: pod["status"]["phase"] == "Succeeded")
    assert await text(client, "one") == "defaultcertificate\neyJ\n"
    assert await text(client, "one", tail_lines=1) == "eyJ\n"
    stamped = await text(client, "one", timestamps=True, tail_lines=1)
    assert stamped[:2] == "20"
    assert stamped.endswith("Z eyJ\n")
    await remove(client, "one")


async def test_logs_are_followed_to_their_end(client: ApiClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await run(
        client, "talks", f"echo one; until test -e {gate}; do sleep 0.05; done; echo two; exit 0", restartPolicy="Never"
    )
    seen = ""
    async for chunk in client.logs("default", "talks", follow=True):
        seen += chunk.decode()
        if seen == "one\n":
            gate.touch()
    assert seen == "one\ntwo\n"
    with pytest.raises(ApiError, match="previous terminated container"):
        await text(client, "talks", previous=True)
    await remove(client, "talks")


async def test_containers_outlive_kill_9_of_kubelet_and_runtime(plane: ControlPlane, client: ApiClient) -> None:
    before = state(await run(client, "lives", "exec sleep 1000"))
    plane.kill("kubelet-plane-1")
    plane.start("kubelet")
    await run(client, "next", "exec sleep 1000")
    after = state(await client.get(PODS, "default", "lives"))
    assert after["containerID"] == before["containerID"]
    assert (after["restartCount"], after["state"]) == (0, before["state"])
    await remove(client, "lives")
    await remove(client, "next")

"""A runtime without GetContainerEvents: the kubelet lists instead."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import raykube.runtime.service
from raykube.kubelet.cri import Cri
from raykube.kubelet.lifecycle import Lifecycle
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call
from raykube.runtime.cri import RuntimeHandler
from tests.kit.waiting import until
from tests.kubelet.conftest import PODS, Node, shell, state

pytestmark = pytest.mark.integration


class Eventless(RuntimeHandler):
    """The real runtime as older ones are, which answer UNIMPLEMENTED."""

    async def GetContainerEvents(
        self, _request: cri_pb2.GetEventsRequest, _call: Call
    ) -> AsyncIterator[cri_pb2.ContainerEventResponse]:
        raise RpcError(Code.UNIMPLEMENTED, "unknown method GetContainerEvents for service runtime.v1.RuntimeService")
        yield cri_pb2.ContainerEventResponse()


@pytest.fixture(autouse=True)
def _no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raykube.runtime.service, "RuntimeHandler", Eventless)


@pytest.fixture
def flags() -> dict[str, Any]:
    return {"sync_frequency": 600.0}  # what is noticed is noticed by listing, not by the regular look at each pod


async def test_pods_live_without_events(node: Node) -> None:
    runtime = node.runtime._runtime
    assert runtime is not None
    await node.pod("job", shell("sleep 0.3; exit 3"), restartPolicy="Never")
    pod = await node.phase("job", "Failed")
    assert state(pod)["state"]["terminated"]["exitCode"] == 3
    await node.pod("again", shell("sleep 0.3"))
    await node.sees("again", lambda pod: state(pod)["restartCount"] >= 1)
    assert not runtime.events.wanted
    for name in ("job", "again"):
        await node.client.delete(PODS, "default", name)
        await node.gone(name)


async def test_it_tells_of_each_pod_once(node: Node) -> None:
    cri = Cri(f"unix://{node.root}/cri.sock", "n1", 10)
    seen: list[str] = []
    following = asyncio.create_task(Lifecycle(cri, seen.append).run())
    pod = await node.pod("one", shell("exec sleep 1000"))
    uid = pod["metadata"]["uid"]
    try:
        await node.phase("one", "Running")
        await until(lambda: uid in seen, 10)
        await asyncio.sleep(2.5)  # two more lists, which find nothing new
        before = len(seen)
        await asyncio.sleep(1.5)
        assert len(seen) == before
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await cri.close()

"""Who asks drivers for a claim's devices at the same time: nobody but one."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.kubelet.devices import Devices
from raykube.pb import dra_pb2

DRIVER = "gpu.example.com"


class SlowDriver:
    """Answers after a while, and notes how many asked it at once."""

    def __init__(self) -> None:
        self.now = self.most = self.asked = 0

    async def _answer(self, response: Any, request: Any) -> Any:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        for one in request.claims:
            response.claims[one.uid].SetInParent()
        return response

    async def NodePrepareResources(self, request: Any, timeout: float) -> Any:  # the RPC's name
        return await self._answer(dra_pb2.NodePrepareResourcesResponse(), request)

    async def NodeUnprepareResources(self, request: Any, timeout: float) -> Any:  # the RPC's name
        return await self._answer(dra_pb2.NodeUnprepareResourcesResponse(), request)


def pod(name: str) -> dict[str, Any]:
    spec = {
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}],
        "containers": [{"name": "c", "resources": {"claims": [{"name": "gpu"}]}}],
    }
    return {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec}


async def test_one_at_a_time_asks_for_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SlowDriver()
    results = [{"request": "gpu", "driver": DRIVER, "pool": "p", "device": "d"}]
    users = [{"resource": "pods", "name": name, "uid": name} for name in ("first", "second", "third")]
    claim = {
        "metadata": {"name": "shared", "namespace": "default", "uid": "claim"},
        "status": {"allocation": {"devices": {"results": results}}, "reservedFor": users},
    }

    async def get(*_: Any) -> Any:
        return claim

    client: Any = SimpleNamespace(get=get)
    devices = Devices(tmp_path, client, "node", lambda _: None)
    monkeypatch.setattr(devices.drivers, "get", lambda _: SimpleNamespace(name=DRIVER, stub=driver))
    await devices.prepare(pod("first"))
    leaving = asyncio.create_task(devices.unprepare("first"))
    await asyncio.sleep(0.01)
    coming = asyncio.create_task(devices.prepare(pod("second")))  # waits for the one that leaves
    await leaving
    await asyncio.gather(coming, devices.prepare(pod("third")))
    assert driver.asked == 3  # the second's preparation is the third's too
    assert driver.most == 1

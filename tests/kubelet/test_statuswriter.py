"""What becomes of statuses that are refused."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raykube.kubelet import statuswriter
from raykube.kubelet.statuswriter import StatusWriter

POD = {"metadata": {"uid": "u", "name": "web", "namespace": "default", "resourceVersion": "1"}, "spec": {}}


@pytest.mark.parametrize("code", [409, 422])
async def test_a_pod_waits_for_one_look_however_often_its_status_is_refused(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(patches: list[Any]) -> list[Any]:
        return [SimpleNamespace(code=code, body=b"{}", resource_version=0) for _ in patches]

    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay_s: float, work: Any, *arguments: Any) -> asyncio.TimerHandle:
        timers.append(call_later(delay_s, work, *arguments))
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", noted)
    monkeypatch.setattr(statuswriter, "RETRY_S", 1000.0)
    monkeypatch.setattr(statuswriter, "REFUSED_S", 1000.0)
    writer = StatusWriter(cast(Any, SimpleNamespace(write=refuse)), lambda _: None)
    running = asyncio.ensure_future(writer.run())
    for _ in range(5):  # probes and runtime events have the pod looked at meanwhile
        await writer.write(POD, {"phase": "Running"})
    assert len(timers) == 5
    assert len([timer for timer in timers if not timer.cancelled()]) == 1
    writer.forget("u")
    assert all(timer.cancelled() for timer in timers)
    running.cancel()

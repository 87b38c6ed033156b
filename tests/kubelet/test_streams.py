"""Streams of a kubelet whose runtime is away."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.cri import Cri
from raykube.kubelet.streams import Streams
from raykube.rpc import Code, RpcError

POD = {"metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": {"containers": [{"name": "main"}]}}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
STREAMS = {
    "exec/default/web/main?command=ls&output=1": "executing command in container",
    "attach/default/web/main?output=1": "attaching to container",
    "portForward/default/web": "forwarding ports",
}


@pytest.fixture
async def cri(tmp_path: Path) -> AsyncIterator[Cri]:
    cri = Cri(f"unix://{tmp_path}/none.sock", "n1", 5.0)
    yield cri
    await cri.close()


async def ask(cri: Cri, path: str) -> tuple[int, dict[str, Any]]:
    app = web.Application()
    app.add_routes(Streams(cri, lambda: [POD], 0).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{runner.addresses[0][1]}/{path}", headers=UPGRADE) as answer,
        ):
            return answer.status, await answer.json()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", STREAMS)
async def test_no_runtime(cri: Cri, path: str) -> None:
    code, status = await ask(cri, path)
    assert (code, status["kind"], status["reason"]) == (500, "Status", "InternalError")
    begin = f"Internal error occurred: error {STREAMS[path]}: rpc error: code = Unavailable desc = "
    assert status["message"].startswith(begin)


async def test_a_runtime_that_says_nothing(cri: Cri, monkeypatch: pytest.MonkeyPatch) -> None:
    async def observe(uid: str) -> None:
        raise RpcError(Code.UNAVAILABLE, "")

    monkeypatch.setattr(cri, "observe", observe)
    _, status = await ask(cri, next(iter(STREAMS)))
    assert status["message"].endswith(": rpc error: code = Unavailable desc = the container runtime gave no reason")


async def test_no_streaming_server(cri: Cri, monkeypatch: pytest.MonkeyPatch) -> None:
    async def observe(uid: str) -> ObservedPod:
        return ObservedPod((), (ObservedContainer("c1", "main", "s1", 0, State.RUNNING, 1.0, 1.0),))

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]

        async def exec_url(container: str, command: object, wanted: object) -> str:
            return f"http://127.0.0.1:{port}/exec/token"

        monkeypatch.setattr(cri, "observe", observe)
        monkeypatch.setattr(cri, "exec_url", exec_url)
        code, status = await ask(cri, next(iter(STREAMS)))
    words = f"error dialing backend: dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert (code, status["message"]) == (500, f"Internal error occurred: {words}")

"""Single attempts of probes, against servers on loopback."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from raykube.kubelet.core.pod import Object
from raykube.kubelet.cri import Cri
from raykube.kubelet.handlers import REDIRECTS_MAX, Handlers, Outcome
from raykube.rpc.server import Server

SPEC = {"name": "c"}
HERE = "127.0.0.1"


@pytest.fixture
async def handlers(tmp_path: Path) -> AsyncIterator[Handlers]:
    cri = Cri(f"unix://{tmp_path}/none.sock", "n1", 5.0)
    yield Handlers(cri, "1.36.0")
    await cri.close()


@pytest.fixture
async def web_port() -> AsyncIterator[int]:
    """Serves /ok, /bad, redirects, and how often a path was asked for."""

    async def answer(request: web.Request) -> web.Response:
        match request.path:
            case "/ok":
                return web.Response(text=request.headers["User-Agent"])
            case "/bad":
                return web.Response(status=503, text="no")
            case "/headers":
                large = {"X-Large": "x" * 20_000}
                return web.Response(text=repr(sorted(request.headers.items())), headers=large)
            case "/away":
                raise web.HTTPFound("http://elsewhere.invalid/")
            case "/unchanged":
                return web.Response(status=304)
            case "/round":
                raise web.HTTPFound("/round")
        raise web.HTTPFound(f"/{request.path.removeprefix('/to-')}")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HERE, 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def attempt(handlers: Handlers, action: Object) -> Outcome:
    return await handlers.run(action, SPEC, "id", HERE, 5.0)


async def test_redirects_are_followed_on_the_same_host_only(handlers: Handlers, web_port: int) -> None:
    async def get(path: str) -> tuple[bool, str, bool]:
        found = await attempt(handlers, {"httpGet": {"port": web_port, "path": path}})
        return found.success, found.message, found.doubtful

    assert await get("/ok") == (True, "kube-probe/1.36.0", False)
    assert await get("/to-ok") == (True, "kube-probe/1.36.0", False)
    assert await get("/to-to-bad") == (False, "HTTP probe failed with statuscode: 503", False)
    for path in ("/away", "/unchanged"):
        success, message, doubtful = await get(path)
        assert (success, doubtful) == (True, True)
        assert message.startswith("Probe terminated redirects, Response body: ")
    success, message, _ = await get("/round")
    assert (success, message.endswith(f": stopped after {REDIRECTS_MAX} redirects")) == (False, True)


async def test_an_answer_of_any_kind_is_good_for_a_hook(handlers: Handlers, web_port: int) -> None:
    """A program that was told by a hook need not serve that path: its container must not be ended for it."""
    for path in ("/ok", "/bad", "/away"):
        action = {"httpGet": {"port": web_port, "path": path}}
        assert (await handlers.run(action, SPEC, "id", HERE, 5.0, hook=True)).success
    assert not (await handlers.run({"httpGet": {"port": 1}}, SPEC, "id", HERE, 5.0, hook=True)).success


async def test_a_hook_reaches_a_server_without_tls(handlers: Handlers) -> None:
    """A probe does not; and nobody who listens on the way learns a password."""
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response()

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HERE, 0).start()
    headers = [{"name": "authorization", "value": "secret"}, {"name": "X-One", "value": "1"}]
    action = {"httpGet": {"port": runner.addresses[0][1], "scheme": "HTTPS", "httpHeaders": headers}}
    assert not (await attempt(handlers, action)).success
    assert (await handlers.run(action, SPEC, "id", HERE, 5.0, hook=True)).success
    (one,) = asked
    assert (one["x-one"], "authorization" in one) == ("1", False)
    await runner.cleanup()


async def test_headers_of_a_probe(handlers: Handlers, web_port: int) -> None:
    asked = [("user-agent", "mine"), ("X-Two", "1"), ("X-Two", "2"), ("X-Empty", None)]
    headers = [{"name": name} | ({} if value is None else {"value": value}) for name, value in asked]
    found = await attempt(handlers, {"httpGet": {"port": web_port, "path": "/headers", "httpHeaders": headers}})
    assert found.success, found.message
    for one in (("User-Agent", "mine"), ("X-Two", "1"), ("X-Two", "2"), ("X-Empty", ""), ("Accept", "*/*")):
        assert repr(one).lower() in found.message.lower()
    assert "kube-probe" not in found.message


async def test_a_server_without_grpc_health(handlers: Handlers) -> None:
    server = Server()
    port = server.listen(f"{HERE}:0")
    await server.start()
    found = await attempt(handlers, {"grpc": {"port": port}})
    await server.stop(0)
    assert not found.success
    assert found.message == (
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "
        "/grpc.health.v1.Health/Check is not implemented"
    )
    found = await attempt(handlers, {"grpc": {"port": port}})
    assert found.message.startswith(f'error: failed to connect service at "{HERE}:{port}": ')

"""Health and metrics over HTTP: `/healthz`, `/livez`, `/readyz`, `/metrics`.

With a certificate it is HTTPS, and `/metrics` is for clients with a certificate of the cluster's CA, as numbers tell
about workloads; health is for everybody. Without one it is plain HTTP: for tests, and on loopback.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from aiohttp import web

from raykube.rpc.http_connections import Connections, runner
from raykube.rpc.listen import bind
from raykube.rpc.tls import Tls, server_context

Page = Callable[[], web.Response]
HEALTH_PATHS = ("/healthz", "/livez", "/readyz")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # what Prometheus asks for


class HealthServer:
    """Serves what `problem()` (None: healthy) and `metrics()` say; `pages`, by path, come on top or instead."""

    def __init__(
        self,
        problem: Callable[[], str | None],
        metrics: Callable[[], str],
        tls: Tls | None = None,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        self._metrics = metrics
        self._tls = tls
        self._pages = dict.fromkeys(HEALTH_PATHS, health_page(problem)) | dict(pages or {})
        self._runner: web.AppRunner | None = None
        self._connections = Connections()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, *, dual: bool = False) -> int:
        """Listens (`dual`: see `bind`); returns the port. Raises OSError or ValueError with a line for the user."""
        context = None
        if self._tls is not None:
            context = server_context(self._tls)
            context.verify_mode = ssl.CERT_OPTIONAL
        listener = bind(host, port, dual=dual)
        app = web.Application(middlewares=[self._connections.mark])
        for path, page in self._pages.items():
            app.router.add_get(path, _handler(page))
        app.router.add_get("/metrics", self._serve_metrics)
        self._runner = runner(app)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=context).start()
        assert self._runner.server is not None
        self._watcher = asyncio.create_task(self._connections.keep_few(self._runner.server))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Closes the port; idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._runner is not None:
            with suppress(OSError):
                await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        if self._tls is not None and request.transport is not None and not request.transport.get_extra_info("peercert"):
            return web.Response(status=401, text="Unauthorized: show a client certificate of the cluster\n")
        return metrics_response(self._metrics())


def health_page(problem: Callable[[], str | None]) -> Page:
    """A page that says whether there is a problem, and which."""

    def answer() -> web.Response:
        found = problem()
        return web.Response(text="ok") if found is None else web.Response(status=503, text=f"{found}\n")

    return answer


def metrics_response(metrics: str) -> web.Response:
    """A page of numbers in Prometheus' text format."""
    return web.Response(body=metrics.encode(), headers={"Content-Type": METRICS_TYPE})


def _handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        return page()

    return answer

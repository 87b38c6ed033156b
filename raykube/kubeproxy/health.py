"""/healthz, /livez and /metrics of kube-proxy, on plain HTTP as upstream's."""

from collections.abc import Callable

from aiohttp import web

from raykube.base.clock import Clock, rfc3339
from raykube.kubeproxy.core.metrics import Metrics
from raykube.rpc.listen import bind, join_address, split_address


class HealthServer:
    """`healthy()` is asked at each request."""

    def __init__(self, metrics: Metrics, healthy: Callable[[], bool], clock: Clock) -> None:
        self._metrics = metrics
        self._healthy = healthy
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def start(self, address: str) -> None:
        """Raises OSError with a line for the user."""
        found = bind(*split_address(address, 10256))
        application = web.Application()
        application.router.add_get("/healthz", self._answer)
        application.router.add_get("/livez", self._answer)
        application.router.add_get("/metrics", self._show_metrics)
        application.router.add_get("/proxyMode", self._mode)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, found).start()
        self.address = join_address(*found.getsockname()[:2])

    async def _answer(self, _request: web.Request) -> web.Response:
        healthy = self._healthy()
        body = {
            "lastUpdated": rfc3339(self._metrics.last_sync) if self._metrics.last_sync else "",
            "currentTime": rfc3339(self._clock.now()),
            "nodeEligible": True,
        }
        return web.json_response(body, status=200 if healthy else 503)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text().encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _mode(self, _request: web.Request) -> web.Response:
        return web.Response(text="userspace")

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

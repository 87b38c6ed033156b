"""Health and metrics over HTTP: `/healthz`, `/livez`, `/readyz`, `/metrics`.

With a certificate it is HTTPS, and `/metrics` is for clients with a certificate of the cluster's CA, as numbers tell
about workloads; health is for everybody. Without one it is plain HTTP: for tests, and on loopback.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from raykube.rpc import Tls
from raykube.rpc.listen import bind


class HealthServer:
    """Serves what `problem()` (None: healthy) and `metrics()` say."""

    def __init__(self, problem: Callable[[], str | None], metrics: Callable[[], str], tls: Tls | None) -> None:
        self._problem = problem
        self._metrics = metrics
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises OSError, ValueError."""
        context = self._context()
        socket = bind(host, port)
        app = web.Application()
        for path in ("/healthz", "/livez", "/readyz"):
            app.router.add_get(path, self._health)
        app.router.add_get("/metrics", self._serve_metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, socket, ssl_context=context).start()
        return int(socket.getsockname()[1])

    async def stop(self) -> None:
        if self._runner is not None:
            with suppress(OSError):
                await self._runner.cleanup()
            self._runner = None

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._tls.ca_file))
            context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"cannot read the certificate ({error}): check --tls-cert-file, its key and --client-ca-file"
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    async def _health(self, _request: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(text="ok") if problem is None else web.Response(status=503, text=f"{problem}\n")

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        if self._tls is not None and request.transport is not None and not request.transport.get_extra_info("peercert"):
            return web.Response(status=401, text="Unauthorized: show a client certificate of the cluster\n")
        return web.Response(text=self._metrics(), content_type="text/plain")

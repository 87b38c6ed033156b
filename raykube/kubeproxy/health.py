"""What kube-proxy answers about itself, on plain HTTP as upstream's: `/healthz`, `/livez`, `/metrics`, `/proxyMode`."""

from collections.abc import Callable

from aiohttp import web

from raykube.base.clock import Clock, rfc3339
from raykube.kubeproxy.core.metrics import Metrics
from raykube.rpc.health import HealthServer


def health_server(metrics: Metrics, healthy: Callable[[], bool], clock: Clock, mode: Callable[[], str]) -> HealthServer:
    """A server that asks `healthy()` and `mode()` at each request."""

    def state() -> web.Response:
        body = {
            "lastUpdated": rfc3339(metrics.last_sync) if metrics.last_sync else "",
            "currentTime": rfc3339(clock.now()),
            "nodeEligible": True,
        }
        return web.json_response(body, status=200 if healthy() else 503)

    def problem() -> str | None:
        return None if healthy() else "not in sync"

    pages = {"/healthz": state, "/livez": state, "/proxyMode": lambda: web.Response(text=mode())}
    return HealthServer(problem, metrics.text, pages=pages)

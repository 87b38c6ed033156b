"""What kube-proxy answers about itself, on plain HTTP as upstream's: `/healthz`, `/livez`, `/metrics`, `/proxyMode`.

`/healthz` is what load balancers ask: it says no also while the node is about to go, so that they drain it. `/livez` is
what restarts the proxy, and speaks of the proxy alone.
"""

from collections.abc import Callable

from aiohttp import web

from raykube.base.clock import Clock, rfc3339
from raykube.kubeproxy.core.metrics import Metrics
from raykube.rpc.health import HealthServer


def health_server(
    metrics: Metrics, healthy: Callable[[], bool], eligible: Callable[[], bool], clock: Clock, mode: Callable[[], str]
) -> HealthServer:
    """A server that asks `healthy()`, `eligible()` and `mode()` at each request."""

    def times() -> dict[str, object]:
        return {
            "lastUpdated": rfc3339(metrics.last_sync) if metrics.last_sync else "",
            "currentTime": rfc3339(clock.now()),
        }

    def state() -> web.Response:
        body = times() | {"nodeEligible": eligible()}
        return web.json_response(body, status=200 if healthy() and eligible() else 503)

    def live() -> web.Response:
        return web.json_response(times(), status=200 if healthy() else 503)

    def problem() -> str | None:
        return None if healthy() else "not in sync"

    pages = {"/healthz": state, "/livez": live, "/proxyMode": lambda: web.Response(text=mode())}
    return HealthServer(problem, metrics.text, pages=pages)

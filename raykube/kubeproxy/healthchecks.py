"""Health-check node ports: tells a cloud's load balancer whether this node has endpoints of a Service.

For Services of type LoadBalancer with externalTrafficPolicy Local, on `healthCheckNodePort`, plain HTTP as upstream's:
200 while there is a ready endpoint here and this proxy works, 503 otherwise.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from raykube.kubeproxy.core.healthcheck import HealthCheck, answer
from raykube.kubeproxy.core.rules import ServiceKey
from raykube.rpc.listen import bind

log = logging.getLogger(__name__)


class HealthChecks:
    """The servers of this node. `healthy()` is asked at each request."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._addresses: tuple[str, ...] = ()
        self._checks: dict[ServiceKey, HealthCheck] = {}
        self._given: Mapping[ServiceKey, HealthCheck] = self._checks
        self._servers: dict[ServiceKey, web.AppRunner] = {}

    async def apply(self, checks: Mapping[ServiceKey, HealthCheck], addresses: Iterable[str]) -> None:
        """Serves just these on these addresses; what is equal to the last call's is the same object."""
        found = tuple(addresses)
        if checks is self._given and found == self._addresses:
            return
        moved = found != self._addresses
        self._given, self._addresses = checks, found
        for key, known in list(self._checks.items()):
            if moved or key not in checks or checks[key].port != known.port:
                await self._close(key)
        self._checks = dict(checks)
        for key in checks.keys() - self._servers.keys():
            await self._open(key)

    async def _open(self, key: ServiceKey) -> None:
        port = self._checks[key].port

        async def page(_request: web.Request) -> web.Response:
            status, body, headers = answer(key, self._checks[key].local_endpoints, healthy=self._healthy())
            return web.Response(status=status, body=body, headers=headers)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", page)
        runner = self._servers[key] = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        for address in self._addresses:
            try:
                await web.SockSite(runner, bind(address, port)).start()
            except OSError as error:
                log.warning("health-check node port of Service %s/%s: %s", *key, error)

    async def _close(self, key: ServiceKey) -> None:
        runner = self._servers.pop(key, None)
        if runner is not None:
            await runner.cleanup()

    async def stop(self) -> None:
        """Closes every port."""
        for key in list(self._servers):
            await self._close(key)

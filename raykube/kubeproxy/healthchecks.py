"""Health-check node ports: tells a cloud's load balancer whether this node has endpoints of a Service.

For Services of type LoadBalancer with externalTrafficPolicy Local, on `healthCheckNodePort`, plain HTTP as upstream's:
200 while there is a ready endpoint here and this proxy works, 503 otherwise. An address that cannot be bound is
reported once, and tried again: the program that holds the port may end, and the address may come.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.kubeproxy.core.healthcheck import HealthCheck, answer
from raykube.kubeproxy.core.rules import ServiceKey
from raykube.rpc.listen import bind

log = logging.getLogger(__name__)

REBIND = Backoff(initial_s=1.0, max_s=30.0)


class HealthChecks:
    """The servers of this node. `healthy()` is asked at each request; `on_failure` hears of a Service and its port, and
    why it is not served.
    """

    def __init__(
        self, healthy: Callable[[], bool], clock: Clock, on_failure: Callable[[ServiceKey, int, str], None]
    ) -> None:
        self._healthy = healthy
        self._clock = clock
        self._on_failure = on_failure
        self._addresses: tuple[str, ...] = ()
        self._checks: dict[ServiceKey, HealthCheck] = {}
        self._given: Mapping[ServiceKey, HealthCheck] = self._checks
        self._servers: dict[ServiceKey, web.AppRunner] = {}
        self._unbound: dict[ServiceKey, list[str]] = {}  # the addresses that are missing
        self._failures = 0
        self._retry_at: float | None = None

    async def apply(self, checks: Mapping[ServiceKey, HealthCheck], addresses: Iterable[str]) -> None:
        """Serves just these on these addresses; what is equal to the last call's is the same object."""
        found = tuple(addresses)
        due = self._retry_at is not None and self._retry_at <= self._clock.monotonic()
        if checks is self._given and found == self._addresses and not due:
            return
        moved = found != self._addresses
        self._given, self._addresses = checks, found
        for key, known in list(self._checks.items()):
            if moved or key not in checks or checks[key].port != known.port:
                await self._close(key)
        self._checks = dict(checks)
        for key in list(self._unbound):
            await self._bind(key, self._unbound[key])
        for key in checks.keys() - self._servers.keys():
            await self._open(key)
        self._failures = self._failures + 1 if self._unbound else 0
        self._retry_at = self._clock.monotonic() + REBIND.delay_s(self._failures) if self._unbound else None

    def next_retry(self) -> float | None:
        """When to apply again though nothing has changed, on the monotonic clock."""
        return self._retry_at

    async def _open(self, key: ServiceKey) -> None:
        async def page(_request: web.Request) -> web.Response:
            status, body, headers = answer(key, self._checks[key].local_endpoints, healthy=self._healthy())
            return web.Response(status=status, body=body, headers=headers)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", page)
        runner = self._servers[key] = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await self._bind(key, self._addresses)

    async def _bind(self, key: ServiceKey, addresses: Iterable[str]) -> None:
        port, missing = self._checks[key].port, []
        for address in addresses:
            try:
                await web.SockSite(self._servers[key], bind(address, port)).start()
            except OSError as error:
                missing.append(address)
                if key not in self._unbound:
                    log.warning("health-check node port of Service %s/%s: %s", *key, error)
                    self._on_failure(key, port, str(error.strerror or error))
        if missing:
            self._unbound[key] = missing
        else:
            self._unbound.pop(key, None)

    async def _close(self, key: ServiceKey) -> None:
        self._unbound.pop(key, None)
        runner = self._servers.pop(key, None)
        if runner is not None:
            await runner.cleanup()

    async def stop(self) -> None:
        """Closes every port."""
        for key in list(self._servers):
            await self._close(key)

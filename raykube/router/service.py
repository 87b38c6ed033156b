"""The router as a service: two balanced ports (HTTPS and gRPC) in front of the apiservers that live.

It starts with the apiservers of its flags, then follows the Endpoints stream of any of them: those published join and
leave, those of the flags stay members (checks decide whether they are used), so that a router which lost every stream
still finds the way back.
"""

import asyncio
import logging

from raykube.base.backoff import Backoff
from raykube.pb import api_pb2
from raykube.router.balancer import Balancer
from raykube.router.check import ConnectCheck, ReadyCheck
from raykube.router.config import Config
from raykube.router.core.pool import Health
from raykube.rpc import RpcError
from raykube.rpc.channel import Channel
from raykube.rpc.tls import client_context

log = logging.getLogger(__name__)

API = api_pb2.DESCRIPTOR.services_by_name["Api"]
FOLLOW = Backoff(initial_s=0.2, max_s=3.0)


class Service:
    """One router."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tls = config.tls
        self._https: Balancer | None = None
        self._grpc: Balancer | None = None
        self._https_of = dict(zip(config.grpc_servers, config.servers, strict=False))
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Listens and begins to check the apiservers; they need not be up yet."""
        config = self._config
        context = client_context(self._tls) if self._tls is not None else None
        timeout_s = config.health_check_timeout
        self._https = Balancer(
            "https",
            lambda address: ReadyCheck(address, context, timeout_s),
            interval_s=config.health_check_interval,
            connect_timeout_s=config.connect_timeout,
        )
        self._grpc = Balancer(
            "grpc",
            lambda address: ConnectCheck(address, timeout_s, self._https_health),
            interval_s=config.health_check_interval,
            connect_timeout_s=config.connect_timeout,
        )
        try:
            await self._https.listen(config.bind_addresses, config.port, shared=config.shared)
            if config.grpc_port is not None:
                await self._grpc.listen(config.bind_addresses, config.grpc_port, shared=config.shared)
        except OSError:
            await self._https.stop(0)
            raise
        self._set_members([], [])
        if config.grpc_servers:
            self._tasks.append(asyncio.get_running_loop().create_task(self._follow()))

    def _https_health(self, grpc_address: str) -> Health | None:
        backend = self._https.pool.get(self._https_of.get(grpc_address, "")) if self._https else None
        return backend.health if backend else None

    def _set_members(self, https: list[str], grpc: list[str]) -> None:
        assert self._https is not None
        assert self._grpc is not None
        self._https.set_members([*https, *self._config.servers])
        if self._config.grpc_port is not None:
            self._grpc.set_members([*grpc, *self._config.grpc_servers])

    async def _follow(self) -> None:
        """Keeps one Endpoints stream open, to whichever apiserver answers."""
        assert self._grpc is not None
        published: list[str] = []
        failures = turn = 0
        while True:
            candidates = list(dict.fromkeys([*published, *self._config.grpc_servers]))
            address = candidates[turn % len(candidates)]
            turn += 1
            channel = Channel(address, self._tls)
            try:
                async for answer in channel.stub(API).Endpoints(api_pb2.EndpointsRequest()):
                    failures = 0
                    published = [endpoint.address for endpoint in answer.endpoints if endpoint.address]
                    https = [endpoint.https_address for endpoint in answer.endpoints if endpoint.https_address]
                    self._https_of.update((e.address, e.https_address) for e in answer.endpoints)
                    self._set_members(https, published)
            except RpcError as error:
                log.debug("endpoint stream of %s: %s", address, error)
            finally:
                await channel.close()
            failures += 1
            await asyncio.sleep(FOLLOW.delay_s(failures))

    async def wait(self) -> None:
        """Returns after `stop`."""
        await self._stopped.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        balancers = [balancer for balancer in (self._https, self._grpc) if balancer is not None]
        await asyncio.gather(*(balancer.stop(self._config.drain_timeout) for balancer in balancers))
        self._stopped.set()

    def status(self) -> dict[str, object]:
        """Healthy with at least one apiserver up; `backends` is the router's view of them."""
        addresses: dict[str, str] = {}
        backends: dict[str, object] = {}
        for balancer in (self._https, self._grpc):
            if balancer is not None and balancer.addresses:
                first, *others = balancer.addresses
                addresses[balancer.name] = first
                addresses.update({f"{balancer.name}-{n}": other for n, other in enumerate(others, 2)})
                backends[balancer.name] = balancer.view()
        up = self._https.pool.usable if self._https else 0
        known = len(self._https.pool.addresses) if self._https else 0
        return {
            "role": "active",
            "healthy": up > 0,
            "detail": f"{up} of {known} apiservers up",
            "addresses": addresses,
            "backends": backends,
        }

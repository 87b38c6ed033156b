"""One apiserver: the parts put together, in the order in which they depend on each other.

store (caches loaded) → bootstrap objects → gRPC and HTTPS listen → lease and endpoints → ready
"""

import asyncio
import logging
import ssl
import time

from aiohttp import web

from raykube.api.resources import all_resources, builtin
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization
from raykube.apiserver.bootstrap import Bootstrap
from raykube.apiserver.bulk import Bulk
from raykube.apiserver.config import Config
from raykube.apiserver.core import endpoints
from raykube.apiserver.core.admission import DefaultTolerations
from raykube.apiserver.core.feed import Feed
from raykube.apiserver.core.serviceaccount_token import Issuer, Verifier
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.evictions import Evictions
from raykube.apiserver.kubelets import Kubelets
from raykube.apiserver.measures import Measures
from raykube.apiserver.membership import Membership
from raykube.apiserver.reader import Reader
from raykube.apiserver.resourcemetrics import ResourceMetrics
from raykube.apiserver.rest.connect import Connects
from raykube.apiserver.rest.dispatch import Dispatch
from raykube.apiserver.rest.front import Front, Limits
from raykube.apiserver.rest.paths import Paths
from raykube.apiserver.rest.proxying import Proxying
from raykube.apiserver.rest.read import Reads
from raykube.apiserver.rest.reviews import Reviews
from raykube.apiserver.rest.streams import Streams
from raykube.apiserver.rest.subresources import Subresources
from raykube.apiserver.rest.write import Writes
from raykube.apiserver.services import ServiceAddresses
from raykube.apiserver.store import Store
from raykube.apiserver.tokens import Tokens
from raykube.apiserver.turns import Turns
from raykube.apiserver.writer import Writer
from raykube.client.kv import KvClient
from raykube.pb import api_pb2
from raykube.rpc import Tls
from raykube.rpc.server import Server
from raykube.rpc.tls import server_context

log = logging.getLogger(__name__)

KEEPALIVE_S = 600.0
_REPAIR_INTERVAL_S = 180.0
_DRAIN_S = 2.0


class Service:
    """The apiserver as a service: `start`, `wait`, `stop`."""

    def __init__(self, config: Config, *, store_wait_s: float = 60.0) -> None:
        """`store_wait_s`: how long `start` waits for the store, which may start at the same time."""
        self._config = config
        self._store_wait_s = store_wait_s
        self._stopped = asyncio.Event()
        self._feed = Feed(
            [each for each in all_resources() if each.stored and each.view_of is None], config.default_watch_cache_size
        )
        self._store: Store | None = None
        self._kv: KvClient | None = None
        self._grpc: Server | None = None
        self._runner: web.ServerRunner | None = None
        self._membership: Membership | None = None
        self._kubelets: Kubelets | None = None
        self._proxying: Proxying | None = None
        self._metrics: ResourceMetrics | None = None
        self._paths: Paths | None = None
        self._bulk: Bulk | None = None
        self._background: list[asyncio.Task[None]] = []
        self._addresses: dict[str, str] = {}

    # -- life

    async def start(self) -> None:
        """Returns when both APIs answer. Raises OSError or ValueError with what to do."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self._config
        tls = _serving_tls(config)
        kv = self._kv = KvClient(config.etcd_servers, _store_tls(config))
        store = self._store = Store(kv, self._feed)
        authorization = Authorization(self._feed, config.authorization_mode)
        await store.start(self._store_wait_s)
        measures = Measures()
        turns = Turns()
        reader = Reader(store, turns)
        addresses = ServiceAddresses(
            store, builtin("v1", "Service"), config.service_cluster_ip_range, config.node_ports
        )
        tolerations = DefaultTolerations(
            config.default_not_ready_toleration_seconds, config.default_unreachable_toleration_seconds
        )
        writer = Writer(store, turns, addresses, config.event_ttl, tolerations, config.networks)
        await Bootstrap(reader, writer, addresses.first, config.kubernetes_service_port).run()
        issuer, verifier = _token_keys(config)
        authenticator = Authenticator(verifier, self._lookup, anonymous=config.anonymous_auth)
        kubelets = self._kubelets = Kubelets(reader, config)
        evictions = Evictions(reader, writer)
        membership = self._membership = Membership(reader, writer, config.apiserver_lease_duration)
        paths = self._paths = Paths(store, measures, verifier)
        audiences = config.api_audiences or [config.service_account_issuer]
        tokens = Tokens(reader, issuer, audiences) if issuer is not None else None
        metrics = self._metrics = ResourceMetrics(reader, kubelets)
        proxying = self._proxying = Proxying(reader, kubelets, measures)
        dispatch = Dispatch(
            Reads(reader, measures, config.min_request_timeout),
            Writes(writer, reader, authorization),
            Subresources(reader, writer, authorization, evictions, tokens),
            Reviews(authenticator, authorization),
            Connects(kubelets, measures),
            Streams(kubelets, authorization, measures),
            proxying,
            metrics,
        )
        limits = Limits(config.max_requests_inflight, config.max_mutating_requests_inflight)
        front = Front(authenticator, authorization, measures, limits, dispatch, paths, config.request_timeout)
        self._bulk = Bulk(
            reader, writer, authenticator, authorization, evictions, kubelets, membership, measures, tokens
        )
        measures.registry.before_render(lambda: self._gauges(measures, front))
        https_port = await self._listen_https(front, tls)
        grpc_port = await self._listen_grpc(self._bulk, tls, https_port)
        host = config.reachable_address
        paths.address = f"{host}:{https_port}"
        self._addresses = {"https": f"{host}:{https_port}", "grpc": f"{host}:{grpc_port}"}
        await membership.start(endpoints.instance(self._addresses["grpc"], self._addresses["https"]))
        self._background = [
            asyncio.create_task(self._repair(addresses)),
            asyncio.create_task(kv.follow_members()),
        ]

    async def _listen_https(self, front: Front, tls: Tls | None) -> int:
        config = self._config
        server = web.Server(front, keepalive_timeout=KEEPALIVE_S, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_DRAIN_S)
        await self._runner.setup()
        context = _server_context(tls) if tls is not None else None
        site = web.TCPSite(
            self._runner,
            config.bind_address,
            config.secure_port,
            ssl_context=context,
            backlog=1024,
        )
        try:
            await site.start()
        except OSError as error:
            raise OSError(
                f"cannot listen on {config.bind_address}:{config.secure_port} (--secure-port): "
                f"{error.strerror or error}"
            ) from None
        return int(self._runner.addresses[0][1])

    async def _listen_grpc(self, bulk: Bulk, tls: Tls | None, https_port: int) -> int:
        config = self._config
        wanted = config.grpc_port
        if wanted is None:
            wanted = https_port + 1 if config.secure_port else 0
        server = self._grpc = Server()
        server.add(api_pb2.DESCRIPTOR.services_by_name["Api"], bulk)
        port = server.listen(f"{config.bind_address}:{wanted}", tls)
        await server.start()
        return port

    async def wait(self) -> None:
        """Returns when the service was stopped; it never ends by itself."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Leaves the endpoints, ends watches politely, then closes."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background.clear()
        if self._paths is not None:
            self._paths.stopping = True
        if self._membership is not None:
            await self._membership.stop()
        for cache in self._feed.caches.values():
            for watcher in cache.watchers():
                watcher.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._grpc is not None:
            await self._grpc.stop()
            self._grpc = None
        if self._metrics is not None:
            await self._metrics.close()
        if self._proxying is not None:
            await self._proxying.close()
        if self._kubelets is not None:
            await self._kubelets.close()
        if self._store is not None:
            await self._store.stop()
            self._store = None
        if self._kv is not None:
            await self._kv.close()
            self._kv = None
        self._stopped.set()

    def status(self) -> dict[str, object]:
        store = self._store
        healthy = bool(self._addresses) and store is not None and store.loaded.is_set()
        return {
            "role": "active" if healthy else "",
            "healthy": healthy,
            "detail": f"caches at revision {self._feed.revision}",
            "addresses": dict(self._addresses),
        }

    # -- parts

    def _lookup(self, plural: str, namespace: str, name: str) -> Object | None:
        item = self._feed.caches["", plural].get(f"{namespace}/{name}" if namespace else name)
        return item.parsed() if item is not None else None

    def _gauges(self, measures: Measures, front: Front) -> None:
        reads, writes = front.inflight
        measures.inflight.set(("readOnly",), reads)
        measures.inflight.set(("mutating",), writes)
        measures.revision.set((), self._feed.revision)
        for cache in self._feed.caches.values():
            measures.objects.set((cache.resource.qualified,), len(cache))

    async def _repair(self, addresses: ServiceAddresses) -> None:
        while True:
            try:
                await addresses.repair(time.time())
            except Exception as error:
                log.warning("service addresses were not repaired: %s", error)
            await asyncio.sleep(_REPAIR_INTERVAL_S)


def _serving_tls(config: Config) -> Tls | None:
    """The serving certificate and the clients' CA; None for plain TCP (tests). Raises ValueError for half of it."""
    given = (config.tls_cert_file, config.tls_private_key_file, config.client_ca_file)
    cert, key, ca = given
    if cert is None or key is None or ca is None:
        if any(given):
            raise ValueError("--tls-cert-file, --tls-private-key-file and --client-ca-file belong together")
        return None
    for path in (cert, key, ca):
        if not path.is_file():
            raise ValueError(f"cannot read {path}")
    return Tls(cert, key, ca)


def _store_tls(config: Config) -> Tls | None:
    cert, key, ca = config.etcd_certfile, config.etcd_keyfile, config.etcd_cafile
    if cert is None or key is None or ca is None:
        if cert or key or ca:
            raise ValueError("--etcd-certfile, --etcd-keyfile and --etcd-cafile belong together")
        return None
    return Tls(cert, key, ca)


def _server_context(tls: Tls) -> ssl.SSLContext:
    """TLS that asks for a client certificate and does without: tokens and anonymous requests have none."""
    context = server_context(tls)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def _token_keys(config: Config) -> tuple[Issuer | None, Verifier | None]:
    """Who signs and who verifies ServiceAccount tokens. Raises ValueError for a file that is no key."""
    signing = config.service_account_signing_key_file
    files = list(config.service_account_key_file) or ([signing] if signing is not None else [])
    try:
        issuer = Issuer(signing.read_bytes(), config.service_account_issuer) if signing is not None else None
        if not files:
            return issuer, None
        keys = [path.read_bytes() for path in files]
    except OSError as error:
        raise ValueError(f"cannot read a ServiceAccount key: {error}") from None
    return issuer, Verifier(keys, (config.service_account_issuer,), config.api_audiences)

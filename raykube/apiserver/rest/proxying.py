"""`pods/proxy`, `services/proxy` and `nodes/proxy`: a request goes on to a pod, an endpoint or a kubelet.

Its answer comes back as it is.
"""

import secrets
from collections.abc import Iterable

import aiohttp
from aiohttp import web
from yarl import URL

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import streamtargets
from raykube.apiserver.core.selecting import selection
from raykube.apiserver.core.streamtargets import Name
from raykube.apiserver.kubelets import Kubelets
from raykube.apiserver.measures import Measures
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest.context import Context
from raykube.apiserver.rest.streams import is_upgrade, pass_upgrade
from raykube.streaming import wire
from raykube.streaming.failures import dial_failure

SERVICES = builtin("v1", "Service")
SLICES = builtin("discovery.k8s.io/v1", "EndpointSlice")
_CONNECT_S = 10.0


class Proxying:
    """The handler of every `proxy` subresource."""

    def __init__(self, reader: Reader, kubelets: Kubelets, measures: Measures) -> None:
        self._reader = reader
        self._kubelets = kubelets
        self._measures = measures
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __call__(self, context: Context) -> web.StreamResponse:
        """Any method on …/NAME/proxy/PATH. Raises ApiError."""
        request = context.request
        url = request.rel_url
        path = streamtargets.remainder(url.raw_path, bool(context.info.namespace))
        if not path and request.method in ("GET", "HEAD"):
            # Without the slash, a page's relative links would lead elsewhere.
            target = url.raw_path + "/" + (f"?{url.raw_query_string}" if url.raw_query_string else "")
            return web.Response(status=301, headers=context.headers() | {"Location": target})
        base, kubelets = await self._base(context)
        query = f"?{url.raw_query_string}" if url.raw_query_string else ""
        labels = ("CONNECT", "", "v1", context.info.plural)
        self._measures.long_running.add(labels)
        try:
            return await self._pass(context, f"{base}{path or '/'}{query}", kubelets)
        finally:
            self._measures.long_running.add(labels, -1)

    async def _base(self, context: Context) -> tuple[str, Kubelets | None]:
        """`SCHEME://ADDRESS:PORT`, and the way to kubelets if it is one's."""
        info = context.info
        wanted = streamtargets.parse_name(info.name)
        if wanted is None:
            raise ApiError.bad_request(f'invalid {context.target.kind.lower()} request "{info.name}"')
        if info.plural == "nodes":
            return await self._kubelets.base_url(wanted.name), self._kubelets
        if info.plural == "pods":
            return streamtargets.pod_url(wanted, await self._kubelets.pod(info.namespace, wanted.name)), None
        return await self._service(info.namespace, wanted), None

    async def _service(self, namespace: str, wanted: Name) -> str:
        service = (await self._reader.get(SERVICES, namespace, wanted.name)).decode()
        wanted_slices = selection(SLICES, namespace, f"kubernetes.io/service-name={wanted.name}", "")
        slices = [item.decode() for item in self._reader.cache(SLICES).page(wanted_slices).items]
        return streamtargets.service_url(wanted, service, slices, secrets.randbelow(1 << 16))

    def _sessions(self, kubelets: Kubelets | None) -> aiohttp.ClientSession:
        if kubelets is not None:
            return kubelets.session()
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=wire.unverified(), limit=0)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _pass(self, context: Context, url: str, kubelets: Kubelets | None) -> web.StreamResponse:
        request = context.request
        headers = streamtargets.forwarded_headers(request.headers.items(), request.headers.get("Connection", ""))
        if is_upgrade(request):
            upgrade = [("Connection", "Upgrade"), ("Upgrade", request.headers["Upgrade"])]
            return await pass_upgrade(context, url, [*headers, *upgrade], kubelets)
        if request.remote:
            headers.append(("X-Forwarded-For", request.remote))
        try:
            async with self._sessions(kubelets).request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as upstream:
                return await _relay(context, upstream)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            message = f"error trying to reach service: {dial_failure(url, error)}"
            raise ApiError(503, "ServiceUnavailable", message) from None


async def _relay(context: Context, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    """Sends an answer on as it comes."""
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    for name, value in _answered_headers(upstream.headers.items()):
        response.headers.add(name, value)
    response.headers["Audit-Id"] = context.audit_id
    if upstream.content_length is None:
        response.enable_chunked_encoding()
    await response.prepare(context.request)
    async for chunk in upstream.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


def _answered_headers(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    dropped = {"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer", "date", "server"}
    return [(name, value) for name, value in headers if name.lower() not in dropped]

"""From a connection to a handler: who asks (authentication), may they (authorization), what is it (routing).

Errors of every kind leave here as Status objects.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDictProxy

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import options, requestinfo, selecting
from raykube.apiserver.core.requestinfo import RequestInfo
from raykube.apiserver.core.unserved import deprecation
from raykube.apiserver.core.users import UserInfo
from raykube.apiserver.measures import Measures
from raykube.apiserver.rest.context import Context, status_answer
from raykube.rpc.tls import Identity

log = logging.getLogger(__name__)

Handler = Callable[[Context], Awaitable[web.StreamResponse]]

_READS = frozenset({"get", "list", "watch"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
# Requests that stay open: they don't count as in flight.
_LONG_SUBRESOURCES = frozenset({"log", "exec", "attach", "portforward", "proxy"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests of each sort are served at the same time."""

    reads: int
    writes: int


class Front:
    """The handler of the HTTPS server."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorization: Authorization,
        measures: Measures,
        limits: Limits,
        resource_handler: Handler,
        path_handler: Handler,
        timeout_s: float,
    ) -> None:
        self._authenticator = authenticator
        self._authorization = authorization
        self._measures = measures
        self._limits = limits
        self._resource_handler = resource_handler
        self._path_handler = path_handler
        self._timeout_s = timeout_s
        self._reading = 0
        self._writing = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.monotonic()
        info = RequestInfo(request.path, request.method.lower())
        context: Context | None = None
        try:
            info = self._parse(request)
            user = self._user(request)
            context = Context(request, info, user)
            response = await self._serve(context)
        except ApiError as error:
            response = status_answer(error, context.audit_id if context is not None else "")
            if context is not None:
                context.warn(response)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = status_answer(ApiError.internal("the server could not answer this request"))
        self._measures.request(info, request.method, response.status, time.monotonic() - started)
        return response

    def _parse(self, request: web.BaseRequest) -> RequestInfo:
        watch = request.query.get("watch")
        return requestinfo.parse(request.method, request.path, watch is not None and options.parse_bool(watch))

    def _user(self, request: web.BaseRequest) -> UserInfo:
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        identity = identity_of_peer(tls.getpeercert()) if tls is not None else None
        user = self._authenticator.authenticate(identity, request.headers.get("Authorization"))
        return self._authorization.impersonate(user, _impersonation(request.headers))

    async def _serve(self, context: Context) -> web.StreamResponse:
        info, request = context.info, context.request
        if request.method not in _METHODS:
            raise ApiError.method_not_allowed(None, request.method)
        fields = selecting.fixed_fields(request.query.get("fieldSelector", "")) if info.is_resource else ()
        self._authorization.check(context.user, info, fields)
        if not info.is_resource:
            return await self._path_handler(context)
        context.resource = resources.by_path(info.group, info.version, info.plural)
        if context.resource is None:
            return await self._path_handler(context)
        if deprecated := deprecation(context.resource):
            context.warnings.append(deprecated)
        if info.verb == "watch" or info.subresource in _LONG_SUBRESOURCES:
            return await self._resource_handler(context)
        return await self._counted(context)

    async def _counted(self, context: Context) -> web.StreamResponse:
        """Serves a short request within the limits of requests in flight and of time."""
        reads = context.info.verb in _READS
        if (self._reading >= self._limits.reads) if reads else (self._writing >= self._limits.writes):
            raise ApiError.too_many_requests("Too many requests, please try again later.", 1)
        if reads:
            self._reading += 1
        else:
            self._writing += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                if reads:
                    return await self._resource_handler(context)
                # A client that hangs up does not stop a write half-way: its outcome would be unknown to us, too.
                return await asyncio.shield(asyncio.ensure_future(self._resource_handler(context)))
        except TimeoutError:
            raise ApiError.timeout("request did not complete within the allotted timeout", 0) from None
        finally:
            if reads:
                self._reading -= 1
            else:
                self._writing -= 1

    @property
    def inflight(self) -> tuple[int, int]:
        """(reads, writes) being served."""
        return self._reading, self._writing


def identity_of_peer(certificate: dict[str, object] | None) -> Identity | None:
    """The identity in what `SSLObject.getpeercert()` returns: common name = user, organizations = groups."""
    if not certificate:
        return None
    user, groups = "", []
    for attributes in certificate.get("subject", ()):  # type: ignore[attr-defined]  # tuples of tuples of pairs
        for name, value in attributes:
            if name == "commonName":
                user = value
            elif name == "organizationName":
                groups.append(value)
    return Identity(user, tuple(groups)) if user else None


def _impersonation(headers: CIMultiDictProxy[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower().startswith("impersonate-")]

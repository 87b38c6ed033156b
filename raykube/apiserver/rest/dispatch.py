"""Which handler answers a resource request."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from raykube.api.errors import ApiError
from raykube.api.resources import PROXY, Resource
from raykube.apiserver import resourcemetrics
from raykube.apiserver.resourcemetrics import ResourceMetrics
from raykube.apiserver.rest.connect import Connects
from raykube.apiserver.rest.context import Context
from raykube.apiserver.rest.proxying import Proxying
from raykube.apiserver.rest.read import Reads
from raykube.apiserver.rest.reviews import Reviews
from raykube.apiserver.rest.streams import Streams
from raykube.apiserver.rest.subresources import Subresources
from raykube.apiserver.rest.write import Writes

Handler = Callable[[Context], Awaitable[web.StreamResponse]]


class Dispatch:
    """Routes by resource, subresource and verb."""

    def __init__(
        self,
        reads: Reads,
        writes: Writes,
        subresources: Subresources,
        reviews: Reviews,
        connects: Connects,
        streams: Streams,
        proxying: Proxying,
        metrics: ResourceMetrics,
    ) -> None:
        self._verbs: dict[str, Handler] = {
            "get": reads.get,
            "list": reads.list,
            "watch": reads.watch,
            "create": writes.create,
            "update": writes.update,
            "patch": writes.patch,
            "delete": writes.delete,
            "deletecollection": writes.delete_collection,
        }
        self._subresources: dict[tuple[str, str, str], Handler] = {
            ("pods", "binding", "create"): subresources.bind,
            ("pods", "eviction", "create"): subresources.evict,
            ("pods", "log", "get"): connects.log,
            ("serviceaccounts", "token", "create"): subresources.token,
        }
        for verb in ("get", "create"):
            self._subresources["pods", "exec", verb] = streams.exec
            self._subresources["pods", "attach", verb] = streams.attach
            self._subresources["pods", "portforward", verb] = streams.port_forward
        for plural in ("nodes", "pods", "services"):
            for verb in PROXY:
                self._subresources[plural, "proxy", verb] = proxying
        self._scale: Handler = subresources.scale
        self._bindings: Handler = subresources.binding
        self._reviews = reviews
        self._metrics = metrics

    async def __call__(self, context: Context) -> web.StreamResponse:
        """Answers a resource request. Raises ApiError."""
        resource, info = context.target, context.info
        if info.subresource:
            return await self._subresource(resource, context)
        if resource.group == resourcemetrics.GROUP:
            return await self._metrics.answer(context)
        if not resource.stored:
            if info.verb != "create":
                raise ApiError.method_not_allowed(resource, info.verb)
            if resource.plural == "bindings":
                return await self._bindings(context)
            return await self._reviews.answer(context)
        handler = self._verbs.get(info.verb)
        needs_name = info.verb in ("get", "update", "patch", "delete")
        names_fit = needs_name == bool(info.name) or info.verb == "watch"
        if handler is None or info.verb not in resource.verbs or not names_fit:
            raise ApiError.method_not_allowed(resource, info.verb)
        if resource.namespaced and not info.namespace and info.verb not in ("list", "watch"):
            raise ApiError.method_not_allowed(resource, info.verb)
        return await handler(context)

    async def _subresource(self, resource: Resource, context: Context) -> web.StreamResponse:
        info = context.info
        known = resource.subresource(info.subresource)
        if known is None or not info.name:
            raise ApiError.unknown_path()
        handler = self._subresources.get((resource.plural, info.subresource, info.verb))
        if handler is not None:
            return await handler(context)
        if info.verb not in known.verbs:
            raise ApiError.method_not_allowed(resource, info.verb)
        if info.subresource == "scale" and info.verb == "get":
            return await self._scale(context)
        if known.kind in (resource.kind, "Scale"):
            return await self._verbs[info.verb](context)
        raise ApiError.unknown_path()

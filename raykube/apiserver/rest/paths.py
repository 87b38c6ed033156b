"""Everything that is no resource: version, health, discovery, OpenAPI, metrics, keys for tokens."""

import asyncio
import platform
from collections.abc import Awaitable, Callable
from hashlib import sha256

import orjson
from aiohttp import web

from raykube.api import discovery, openapi, openapi_v2, version
from raykube.api.errors import ApiError
from raykube.api.resources import BUILTIN
from raykube.apiserver.core import negotiation
from raykube.apiserver.core.serviceaccount_token import Verifier
from raykube.apiserver.measures import Measures
from raykube.apiserver.rest.context import JSON_TYPE, Context
from raykube.apiserver.store import Store

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # Go's names
_HEALTH_WAIT_S = 2.0  # a load balancer does not wait longer
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Paths:
    """Handlers by path."""

    def __init__(self, store: Store, measures: Measures, verifier: Verifier | None) -> None:
        self._store = store
        self._measures = measures
        self._verifier = verifier
        self._documents: dict[str, tuple[bytes, str]] = {}
        self.stopping = False
        self.address = ""  # host:port, as legacy discovery tells it

    async def __call__(self, context: Context) -> web.StreamResponse:
        """Answers a path. An unknown one gets upstream's plain text, an unknown group-version's resource a Status."""
        if context.request.method not in ("GET", "HEAD"):
            if context.info.is_resource:
                return self._missing(context)
            raise ApiError.method_not_allowed()
        parts = [part for part in context.request.path.split("/") if part]
        handler: Callable[[Context, list[str]], Awaitable[web.StreamResponse]] | None = None
        if not parts:
            handler = self._root
        elif parts[0] in ("healthz", "livez", "readyz"):
            handler = self._health
        elif parts == ["version"]:
            handler = self._version
        elif parts[0] in ("api", "apis") and len(parts) <= 3:
            handler = self._discovery
        elif parts[:2] == ["openapi", "v3"]:
            handler = self._openapi
        elif parts == ["openapi", "v2"]:
            handler = self._openapi_v2
        elif parts == ["metrics"]:
            handler = self._metrics
        elif parts == [".well-known", "openid-configuration"] or parts == ["openid", "v1", "jwks"]:
            handler = self._openid
        return await handler(context, parts) if handler is not None else self._missing(context)

    def _missing(self, context: Context) -> web.Response:
        if context.info.is_resource:
            raise ApiError.unknown_path()
        return context.answer(b"404 page not found\n", 404, "text/plain; charset=utf-8")

    async def _root(self, context: Context, _: list[str]) -> web.Response:
        groups = sorted(group for group in discovery.groups(BUILTIN) if group)
        paths = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        paths += [f"/apis/{group}" for group in groups]
        paths += [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        return context.document({"paths": paths})

    async def _version(self, context: Context, _: list[str]) -> web.Response:
        return context.document(
            {
                "major": version.KUBERNETES_MAJOR,
                "minor": version.KUBERNETES_MINOR,
                "gitVersion": version.KUBERNETES_VERSION,
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "",
                "compiler": f"python{platform.python_version()}",
                "platform": f"{platform.system().lower()}/{_MACHINES.get(platform.machine(), platform.machine())}",
            }
        )

    # -- health

    async def _health(self, context: Context, parts: list[str]) -> web.Response:
        checks = {"ping": True, "log": True}
        wants_store = parts[0] != "livez"
        if wants_store:
            checks["etcd"] = await self._store_answers()
        if parts[0] == "readyz":
            checks["informer-sync"] = self._store.loaded.is_set()
            checks["shutdown"] = not self.stopping
        if len(parts) > 1:
            if parts[1] not in checks:
                return self._missing(context)
            checks = {parts[1]: checks[parts[1]]}
        excluded = set(context.request.query.getall("exclude", []))
        lines, healthy = [], True
        for name, good in checks.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
            elif good:
                lines.append(f"[+]{name} ok")
            else:
                lines.append(f"[-]{name} failed: reason withheld")
                healthy = False
        if not healthy:
            text = "\n".join([*lines, f"{parts[0]} check failed", ""])
            return context.answer(text.encode(), 500, "text/plain; charset=utf-8")
        if "verbose" in context.query:
            text = "\n".join([*lines, f"{parts[0]} check passed", ""])
            return context.answer(text.encode(), 200, "text/plain; charset=utf-8")
        return context.answer(b"ok", 200, "text/plain; charset=utf-8")

    async def _store_answers(self) -> bool:
        try:
            await self._store.fresh(_HEALTH_WAIT_S)
        except ApiError:
            return False
        return True

    # -- discovery and OpenAPI

    async def _discovery(self, context: Context, parts: list[str]) -> web.Response:
        if len(parts) == 1:
            for form in negotiation.forms(context.request.headers.get("Accept", "")):
                if not form.kind:
                    break
                if form.kind == "APIGroupDiscoveryList" and form.version in ("v2", "v2beta1"):
                    return self._aggregated(context, parts[0], form.version)
        document = self._legacy(parts)
        if document is None:
            return self._missing(context)
        return self._tagged(context, "/".join(parts), lambda: orjson.dumps(document), JSON_TYPE)

    def _aggregated(self, context: Context, root: str, wanted: str) -> web.Response:
        content_type = _AGGREGATED.format(wanted)

        def make() -> bytes:
            return orjson.dumps(discovery.aggregated(BUILTIN, root == "api", wanted))

        return self._tagged(context, f"{root} {wanted}", make, content_type)

    def _legacy(self, parts: list[str]) -> dict[str, object] | None:
        match parts:
            case ["api"]:
                return discovery.api_versions(self.address)
            case ["apis"]:
                return discovery.api_group_list(BUILTIN)
            case ["apis", group]:
                return discovery.api_group(BUILTIN, group)
            case ["api", wanted]:
                return discovery.api_resource_list(BUILTIN, "", wanted)
            case ["apis", group, wanted]:
                return discovery.api_resource_list(BUILTIN, group, wanted)
        return None

    def _tagged(self, context: Context, key: str, make: Callable[[], bytes], content_type: str) -> web.Response:
        """A document that never changes, with an ETag: clients keep it."""
        known = self._documents.get(key)
        if known is None:
            body = make()
            known = self._documents[key] = (body, '"' + sha256(body).hexdigest().upper() + '"')
        body, tag = known
        if context.request.headers.get("If-None-Match") == tag:
            response = context.answer(b"", 304, content_type)
        else:
            response = context.answer(body, 200, content_type)
        response.headers["ETag"] = tag
        response.headers["Vary"] = "Accept"
        return response

    async def _openapi(self, context: Context, parts: list[str]) -> web.Response:
        if len(parts) == 2:
            return context.answer(openapi.index(BUILTIN))
        match parts[2:]:
            case ["api", wanted]:
                group = ""
            case ["apis", group, wanted]:
                pass
            case _:
                return self._missing(context)
        if (group, wanted) not in BUILTIN.group_versions():
            return self._missing(context)
        digest = openapi.digest(BUILTIN, group, wanted)
        key = "/".join(parts)
        if key not in self._documents:
            # Half a second of work for the big ones: not in the way of other requests.
            body = await asyncio.to_thread(openapi.document, BUILTIN, group, wanted)
            self._documents[key] = (body or b"{}", f'"{digest}"')
        response = self._tagged(context, key, bytes, JSON_TYPE)
        if context.query.get("hash") == digest:
            response.headers["Cache-Control"] = "public, immutable"
        return response

    async def _openapi_v2(self, context: Context, parts: list[str]) -> web.Response:
        """Protobuf or nothing: kubectl takes any 200 for protobuf."""
        if openapi_v2.MEDIA_TYPE not in context.request.headers.get("Accept", ""):
            raise ApiError.not_acceptable((openapi_v2.MEDIA_TYPE,))
        return self._tagged(context, "/".join(parts), lambda: openapi_v2.document(BUILTIN), openapi_v2.CONTENT_TYPE)

    # -- the rest

    async def _metrics(self, context: Context, _: list[str]) -> web.Response:
        return context.answer(self._measures.registry.render().encode(), content_type=_METRICS_TYPE)

    async def _openid(self, context: Context, parts: list[str]) -> web.Response:
        if self._verifier is None:
            return self._missing(context)
        if parts[0] == "openid":
            return context.answer(orjson.dumps(self._verifier.jwks()), content_type="application/jwk-set+json")
        response = context.document(self._verifier.openid_configuration())
        response.headers["Cache-Control"] = "public, max-age=3600"
        return response

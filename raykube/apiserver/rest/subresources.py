"""Subresources with a behaviour of their own: scale, binding, eviction, ServiceAccount tokens."""

from aiohttp import web

from raykube.api.errors import ApiError, Cause
from raykube.api.resources import builtin
from raykube.api.schema import Typed
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import scaling
from raykube.apiserver.core.options import delete_options
from raykube.apiserver.core.planning import BIND, Operation
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.core.users import node_name
from raykube.apiserver.evictions import Evictions
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest.context import Context
from raykube.apiserver.rest.write import decode_body
from raykube.apiserver.tokens import Tokens
from raykube.apiserver.writer import Writer

PODS = builtin("v1", "Pod")
_CREATED: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class Subresources:
    """Handlers of subresources."""

    def __init__(
        self, reader: Reader, writer: Writer, authorization: Authorization, evictions: Evictions, tokens: Tokens | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._authorization = authorization
        self._evictions = evictions
        self._tokens = tokens

    async def scale(self, context: Context) -> web.Response:
        """The Scale of a workload."""
        info, resource = context.info, context.target
        item = await self._reader.get(resource, info.namespace, info.name, context.query.get("resourceVersion", ""))
        return context.document(scaling.scale_of(resource, item.decode(), item.revision))

    async def bind(self, context: Context) -> web.Response:
        """POST pods/NAME/binding."""
        binding = await decode_body(context, _typed(context), "Ignore")
        return await self._bind(context, context.info.name, binding)

    async def binding(self, context: Context) -> web.Response:
        """POST bindings: the pod's name is the binding's."""
        binding = await decode_body(context, _typed(context), "Ignore")
        return await self._bind(context, (binding.get("metadata") or {}).get("name", ""), binding)

    async def _bind(self, context: Context, name: str, binding: Object) -> web.Response:
        target = binding.get("target")
        if not isinstance(target, dict) or not target.get("name"):
            raise ApiError.invalid("Binding", name, [Cause("FieldValueRequired", "Required value", "target.name")])
        if target.get("kind") not in (None, "", "Node"):
            cause = Cause(
                "FieldValueNotSupported",
                f'Unsupported value: "{target["kind"]}": supported values: "Node", "<empty>"',
                "target.kind",
            )
            raise ApiError.invalid("Binding", name, [cause])
        metadata = binding.get("metadata") or {}
        await self._writer.one(
            Operation(
                BIND,
                PODS,
                context.info.namespace,
                name,
                node=target["name"],
                body=binding,
                uid=metadata.get("uid") or "",
                resource_version=str(metadata.get("resourceVersion") or ""),
                dry_run=context.query.get("dryRun") == "All",
            )
        )
        return context.document(_CREATED, 201)

    async def evict(self, context: Context) -> web.Response:
        """POST pods/NAME/eviction: a deletion that asks the disruption budgets first."""
        info = context.info
        eviction = await decode_body(context, _typed(context), "Ignore")
        given = (eviction.get("metadata") or {}).get("name")
        if given and given != info.name:
            raise ApiError.bad_request("name in URL does not match name in Eviction object")
        options = delete_options(eviction.get("deleteOptions") or {}, context.query)
        guard = self._authorization.guard(context.user, "create", context.target, "eviction")
        await self._evictions.evict(context.target, info.namespace, info.name, options, guard)
        return context.document(_CREATED, 201)

    async def token(self, context: Context) -> web.Response:
        """POST serviceaccounts/NAME/token: a signed token for the account."""
        if self._tokens is None:
            raise ApiError.internal("this apiserver has no key to sign tokens with")
        info = context.info
        request = await decode_body(context, _typed(context), "Ignore")
        return context.document(
            await self._tokens.issue(info.namespace, info.name, request, node_name(context.user)), 201
        )


def _typed(context: Context) -> Typed:
    return context.target.subresource(context.info.subresource) or context.target

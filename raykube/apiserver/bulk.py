"""The gRPC front, for raykube's own components and Python client: bulk writes; reads are in `bulkreads.py`."""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization, Standing
from raykube.apiserver.bulkreads import BulkReads, resource_of, rpc_errors
from raykube.apiserver.core import planning
from raykube.apiserver.core.options import delete_options
from raykube.apiserver.core.planning import Operation
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.core.users import UserInfo, node_name
from raykube.apiserver.evictions import Evictions
from raykube.apiserver.kubelets import Kubelets
from raykube.apiserver.measures import Measures
from raykube.apiserver.membership import Membership
from raykube.apiserver.outcome import Outcome, not_alone
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest.write import decode
from raykube.apiserver.tokens import Tokens
from raykube.apiserver.writer import PLANS_AT_ONCE, Writer
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call

_VERBS = {
    api_pb2.CREATE: planning.CREATE,
    api_pb2.UPDATE: planning.UPDATE,
    api_pb2.PATCH: planning.PATCH,
    api_pb2.DELETE: planning.DELETE,
    api_pb2.BIND: planning.BIND,
}
_PATCHES = {
    api_pb2.JSON: planning.JSON_PATCH,
    api_pb2.MERGE: planning.MERGE_PATCH,
    api_pb2.STRATEGIC: planning.STRATEGIC_PATCH,
    api_pb2.APPLY: planning.APPLY_PATCH,
}
OPERATIONS_MAX = 20_000


class Bulk(BulkReads):
    """Handler of raykube.api.v1.Api."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        authenticator: Authenticator,
        authorization: Authorization,
        evictions: Evictions,
        kubelets: Kubelets,
        membership: Membership,
        measures: Measures,
        tokens: Tokens | None,
    ) -> None:
        super().__init__(reader, authenticator, authorization, measures)
        self._writer = writer
        self._evictions = evictions
        self._kubelets = kubelets
        self._membership = membership
        self._tokens = tokens

    # -- writes

    async def Write(  # noqa: N802  # the RPC's name
        self, request: api_pb2.WriteRequest, call: Call
    ) -> api_pb2.WriteResponse:
        user = self._user(call)
        if len(request.operations) > OPERATIONS_MAX:
            raise RpcError(Code.INVALID_ARGUMENT, f"more than {OPERATIONS_MAX} operations in one request")
        outcomes: list[Outcome | None] = [None] * len(request.operations)
        ops: list[Operation] = []
        places: list[int] = []
        special: list[tuple[int, api_pb2.Operation, Resource]] = []
        standing, is_quiet = self._authorization.standing(user), not request.return_objects
        for index, wanted in enumerate(request.operations):
            if index % PLANS_AT_ONCE == PLANS_AT_ONCE - 1:
                await self._writer.turns.next()
            try:
                resource = resource_of(wanted.resource)
                if wanted.subresource in ("eviction", "token"):
                    special.append((index, wanted, resource))
                    continue
                op = self._operation(user, standing, wanted, resource)
                op.is_quiet = is_quiet
                ops.append(op)
                places.append(index)
            except ApiError as error:
                outcomes[index] = Outcome(error.code, orjson.dumps(error.status()))
        if request.together:
            outcomes = await self._together(outcomes, ops, bool(special))
        else:
            for index, outcome in zip(places, await self._writer.run(ops), strict=True):
                outcomes[index] = outcome
        for index, wanted, resource in special:
            answer = self._evict if wanted.subresource == "eviction" else self._token
            outcomes[index] = await answer(user, wanted, resource)
        response = api_pb2.WriteResponse()
        add = response.results.add
        for answered in outcomes:
            assert answered is not None
            body = b"" if is_quiet and answered.code < 400 else answered.body
            add(code=answered.code, body=body, resource_version=answered.revision)
        self._count(request, response)
        return response

    async def _together(
        self, outcomes: list[Outcome | None], ops: list[Operation], special: bool
    ) -> list[Outcome | None]:
        """All or none; what was refused already is the reason for none."""
        if special:
            raise RpcError(Code.INVALID_ARGUMENT, "evictions and tokens cannot go together with other operations")
        if len(ops) == len(outcomes):
            return list(await self._writer.together(ops))
        left = iter(ops)
        return [outcome or not_alone(next(left)) for outcome in outcomes]

    def _count(self, request: api_pb2.WriteRequest, response: api_pb2.WriteResponse) -> None:
        counts: dict[tuple[api_pb2.Verb, str, int], int] = {}
        for wanted, result in zip(request.operations, response.results, strict=True):
            key = (wanted.verb, wanted.resource.plural, result.code)
            counts[key] = counts.get(key, 0) + 1
        for (verb, plural, code), count in counts.items():
            self._measures.batch_operations.add((_VERBS.get(verb, ""), plural, str(code)), count)

    def _operation(
        self, user: UserInfo, standing: Standing, wanted: api_pb2.Operation, resource: Resource
    ) -> Operation:
        verb = _VERBS.get(wanted.verb)
        if verb is None or not resource.stored:
            raise ApiError.method_not_allowed(resource, "this verb")
        if resource.namespaced and not wanted.namespace:
            raise ApiError.bad_request(
                "an empty namespace may not be set during creation"
                if verb == planning.CREATE
                else "a namespace is required"
            )
        if not wanted.name and verb != planning.CREATE:
            raise ApiError.bad_request("a name is required")
        subresource = "binding" if verb == planning.BIND else wanted.subresource
        if subresource:
            known = resource.subresource(subresource)
            if known is None or (verb != planning.BIND and known.kind not in (resource.kind, "Scale")):
                raise ApiError.unknown_path()
        checked = "create" if verb == planning.BIND else verb
        namespace = wanted.namespace if resource.namespaced else ""
        standing.require(checked, resource.group, resource.plural, subresource, wanted.name, namespace)
        op = Operation(
            verb,
            resource,
            namespace,
            "" if verb == planning.CREATE else wanted.name,
            wanted.subresource,
            field_manager=wanted.field_manager,
            force=wanted.force,
            dry_run=wanted.dry_run,
            validation="Strict" if wanted.strict else "Ignore",
            resource_version=str(wanted.resource_version) if wanted.resource_version > 0 else "",
            uid=wanted.uid,
            node=wanted.node,
            guard=self._authorization.guard(user, checked, resource, subresource),
        )
        self._decode(op, wanted, standing)
        return op

    def _decode(self, op: Operation, wanted: api_pb2.Operation, standing: Standing) -> None:
        if op.verb == planning.CREATE and not op.subresource and op.validation == "Ignore":
            op.raw = wanted.body
            return
        if op.verb in (planning.CREATE, planning.UPDATE):
            typed = (op.resource.subresource(op.subresource) if op.subresource else None) or op.resource
            op.body = decode(typed, wanted.body, "", op.validation, op.warnings)
            return
        if op.verb == planning.BIND:
            op.body = _object(wanted.body) if wanted.body else None
            return
        if op.verb == planning.DELETE:
            op.deletion = delete_options(_object(wanted.body), {})
            return
        op.patch_type = _PATCHES.get(wanted.patch_type, "")
        if not op.patch_type:
            raise ApiError.unsupported_media_type(_PATCHES.values())
        op.body = _json(wanted.body)
        if op.patch_type == planning.APPLY_PATCH and not op.subresource:
            place = op.resource.group, op.resource.plural, "", op.name, op.namespace
            op.may_create = lambda: standing.require("create", *place)

    async def _evict(self, user: UserInfo, wanted: api_pb2.Operation, resource: Resource) -> Outcome:
        try:
            asked = Attributes(
                user, "create", resource.group, resource.plural, "eviction", wanted.name, wanted.namespace
            )
            self._authorization.require(asked)
            eviction = _object(wanted.body)
            options = delete_options(_checked(eviction.get("deleteOptions") or {}), {})
            options.uid = options.uid or wanted.uid
            guard = self._authorization.guard(user, "create", resource, "eviction")
            await self._evictions.evict(resource, wanted.namespace, wanted.name, options, guard)
        except ApiError as error:
            return Outcome(error.code, orjson.dumps(error.status()))
        return Outcome(201, b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}')

    async def _token(self, user: UserInfo, wanted: api_pb2.Operation, resource: Resource) -> Outcome:
        try:
            known = resource.subresource("token")
            if known is None or wanted.verb != api_pb2.CREATE:
                raise ApiError.unknown_path()
            place = (resource.group, resource.plural, "token", wanted.name, wanted.namespace)
            self._authorization.require(Attributes(user, "create", *place))
            if self._tokens is None:
                raise ApiError.internal("this apiserver has no key to sign tokens with")
            asked = decode(known, wanted.body, "", "Ignore", [])
            answered = await self._tokens.issue(wanted.namespace, wanted.name, asked, node_name(user))
        except ApiError as error:
            return Outcome(error.code, orjson.dumps(error.status()))
        return Outcome(201, orjson.dumps(answered))

    # -- others

    async def Endpoints(  # noqa: N802  # the RPC's name
        self, request: api_pb2.EndpointsRequest, call: Call
    ) -> AsyncIterator[api_pb2.EndpointsResponse]:
        self._user(call)
        async for endpoints in self._membership.follow():
            yield api_pb2.EndpointsResponse(endpoints=endpoints)

    async def Logs(  # noqa: N802  # the RPC's name
        self, request: api_pb2.LogsRequest, call: Call
    ) -> AsyncIterator[api_pb2.LogsResponse]:
        user = self._user(call)
        with rpc_errors():
            self._authorization.require(Attributes(user, "get", "", "pods", "log", request.pod, request.namespace))
            query = {"container": request.container}
            if request.tail_lines >= 0:
                query["tailLines"] = str(request.tail_lines)
            if request.since_seconds > 0:
                query["sinceSeconds"] = str(request.since_seconds)
            for name in ("follow", "previous", "timestamps"):
                if getattr(request, name):
                    query[name] = "true"
            async with self._kubelets.logs(request.namespace, request.pod, query) as log:
                async for data in log:
                    yield api_pb2.LogsResponse(data=data)


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError.bad_request(f"the body is not JSON: {error}") from None


def _object(data: bytes) -> Object:
    """A body that is a JSON object; none is an empty one."""
    return _checked(_json(data)) if data else {}


def _checked(value: Any) -> Object:
    if not isinstance(value, dict):
        raise ApiError.bad_request("the body must be a JSON object")
    return value

"""The gRPC front: bulk writes, lists and watches in batches, for raykube's own components and Python client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import planning, selecting
from raykube.apiserver.core.options import NOT_OLDER_THAN, ListOptions
from raykube.apiserver.core.planning import Operation
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.strategy import Object, delete_options
from raykube.apiserver.core.users import UserInfo, node_name
from raykube.apiserver.core.watchcache import Item, Selection
from raykube.apiserver.evictions import Evictions
from raykube.apiserver.kubelets import Kubelets
from raykube.apiserver.measures import Measures
from raykube.apiserver.membership import Membership
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest.render import data_of
from raykube.apiserver.rest.write import decode
from raykube.apiserver.tokens import Tokens
from raykube.apiserver.writer import PLANS_AT_ONCE, Outcome, Writer
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
_EVENTS = {"ADDED": api_pb2.ADDED, "MODIFIED": api_pb2.MODIFIED, "DELETED": api_pb2.DELETED}
_CHUNK_BYTES = 1024 * 1024
OPERATIONS_MAX = 20_000
BOOKMARK_INTERVAL_S = 30.0


class Bulk:
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
        self._reader = reader
        self._writer = writer
        self._authenticator = authenticator
        self._authorization = authorization
        self._evictions = evictions
        self._kubelets = kubelets
        self._membership = membership
        self._measures = measures
        self._tokens = tokens
        self.stopping = asyncio.Event()

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
        for index, wanted in enumerate(request.operations):
            if index % PLANS_AT_ONCE == PLANS_AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                resource = _resource(wanted.resource)
                if wanted.subresource in ("eviction", "token"):
                    special.append((index, wanted, resource))
                    continue
                ops.append(self._operation(user, wanted, resource))
                places.append(index)
            except ApiError as error:
                outcomes[index] = Outcome(error.code, orjson.dumps(error.status()))
        for index, outcome in zip(places, await self._writer.run(ops), strict=True):
            outcomes[index] = outcome
        for index, wanted, resource in special:
            answer = self._evict if wanted.subresource == "eviction" else self._token
            outcomes[index] = await answer(user, wanted, resource)
        response = api_pb2.WriteResponse()
        for answered in outcomes:
            assert answered is not None
            body = answered.body if request.return_objects or answered.code >= 400 else b""
            response.results.append(api_pb2.Result(code=answered.code, body=body, resource_version=answered.revision))
        self._count(request, response)
        return response

    def _count(self, request: api_pb2.WriteRequest, response: api_pb2.WriteResponse) -> None:
        counts: dict[tuple[str, str, str], int] = {}
        for wanted, result in zip(request.operations, response.results, strict=True):
            labels = (_VERBS.get(wanted.verb, ""), wanted.resource.plural, str(result.code))
            counts[labels] = counts.get(labels, 0) + 1
        for labels, count in counts.items():
            self._measures.batch_operations.add(labels, count)

    def _operation(self, user: UserInfo, wanted: api_pb2.Operation, resource: Resource) -> Operation:
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
        self._authorization.require(
            Attributes(user, checked, resource.group, resource.plural, subresource, wanted.name, namespace)
        )
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
        self._decode(op, wanted, user)
        return op

    def _decode(self, op: Operation, wanted: api_pb2.Operation, user: UserInfo) -> None:
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
            place = (op.resource.group, op.resource.plural, "", op.name, op.namespace)
            self._authorization.require(Attributes(user, "create", *place))

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

    # -- reads

    async def Get(  # noqa: N802  # the RPC's name
        self, request: api_pb2.GetRequest, call: Call
    ) -> api_pb2.GetResponse:
        user = self._user(call)
        with _rpc_errors():
            resource = _resource(request.resource)
            namespace = request.namespace if resource.namespaced else ""
            self._authorization.require(
                Attributes(user, "get", resource.group, resource.plural, "", request.name, namespace)
            )
            item = await self._reader.get(resource, namespace, request.name, _version(request.resource_version))
            return api_pb2.GetResponse(object=data_of(resource, item))

    async def List(  # noqa: N802  # the RPC's name
        self, request: api_pb2.ListRequest, call: Call
    ) -> AsyncIterator[api_pb2.ListResponse]:
        user = self._user(call)
        with _rpc_errors():
            resource = _resource(request.resource)
            selection = self._selection(user, "list", resource, request)
            options = ListOptions(resource_version=_version(request.resource_version))
            page = await self._reader.page(resource, selection, options)
        for chunk in _chunks(resource, page.items):
            yield api_pb2.ListResponse(objects=chunk)
        yield api_pb2.ListResponse(resource_version=page.revision)

    def _selection(self, user: UserInfo, verb: str, resource: Resource, request: Any) -> Selection:
        namespace = request.namespace if resource.namespaced else ""
        fields = selecting.fixed_fields(request.field_selector)
        name = dict(fields).get("metadata.name", "")
        self._authorization.require(
            Attributes(user, verb, resource.group, resource.plural, "", name, namespace, fields=fields)
        )
        return selecting.selection(resource, namespace, request.label_selector, request.field_selector)

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: api_pb2.WatchRequest, call: Call
    ) -> AsyncIterator[api_pb2.WatchResponse]:
        user = self._user(call)
        with _rpc_errors():
            resource = _resource(request.resource)
            selection = self._selection(user, "watch", resource, request)
            options = ListOptions(watch=True, resource_version=_version(request.resource_version))
            options.initial_events = request.send_initial_events
            if request.send_initial_events:
                options.match = NOT_OLDER_THAN
        try:
            initial, watcher = await self._reader.watch(resource, selection, options)
        except ApiError as error:
            yield _error(error)
            return
        labels = ("WATCH", resource.group, resource.version, resource.plural)
        self._measures.long_running.add(labels)
        try:
            revision = self._reader.store.feed.revision
            if initial is not None:
                for chunk in _event_chunks(resource, [("ADDED", item) for item in initial]):
                    yield chunk
                yield _bookmark(revision, initial_events_end=True)
            awake = asyncio.Event()
            watcher.wake = awake.set
            while not self.stopping.is_set():
                events = watcher.drain()
                if events:
                    for chunk in _event_chunks(resource, events):
                        yield chunk
                    continue
                if watcher.closed:
                    return
                if watcher.pending:
                    continue
                awake.clear()
                try:
                    async with asyncio.timeout(BOOKMARK_INTERVAL_S):
                        await awake.wait()
                except TimeoutError:
                    if not watcher.pending:
                        yield _bookmark(self._reader.store.feed.revision)
        finally:
            self._measures.long_running.add(labels, -1)
            watcher.close()

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
        with _rpc_errors():
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

    def _user(self, call: Call) -> UserInfo:
        with _rpc_errors():
            return self._authenticator.authenticate(call.identity, call.metadata.get("authorization"))


class _rpc_errors:  # noqa: N801  # reads as the statement it is
    """Turns an ApiError into a gRPC status whose message is the Status object."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ApiError):
            raise RpcError(_CODES.get(error.code, Code.INTERNAL), orjson.dumps(error.status()).decode()) from None


_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    409: Code.ABORTED,
    410: Code.OUT_OF_RANGE,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def _resource(wanted: api_pb2.Resource) -> Resource:
    found = resources.by_path(wanted.group, wanted.version, wanted.plural)
    if found is None:
        raise ApiError.unknown_path()
    return found


def _version(number: int) -> str:
    """The wire's -1, 0, N as REST's "0", "", "N"."""
    return "" if number == 0 else "0" if number < 0 else str(number)


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


def _chunks(resource: Resource, items: list[Item]) -> list[list[bytes]]:
    chunks: list[list[bytes]] = []
    size = _CHUNK_BYTES
    for item in items:
        data = data_of(resource, item)
        if size >= _CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(data)
        size += len(data)
    return chunks


def _event_chunks(resource: Resource, events: list[tuple[str, Item]]) -> list[api_pb2.WatchResponse]:
    chunks: list[api_pb2.WatchResponse] = []
    size = _CHUNK_BYTES
    for kind, item in events:
        data = data_of(resource, item)
        if size >= _CHUNK_BYTES:
            chunks.append(api_pb2.WatchResponse())
            size = 0
        chunks[-1].events.append(api_pb2.Event(type=_EVENTS[kind], object=data, resource_version=item.revision))
        size += len(data)
    return chunks


def _bookmark(revision: int, initial_events_end: bool = False) -> api_pb2.WatchResponse:
    event = api_pb2.Event(type=api_pb2.BOOKMARK, resource_version=revision, initial_events_end=initial_events_end)
    return api_pb2.WatchResponse(events=[event])


def _error(error: ApiError) -> api_pb2.WatchResponse:
    return api_pb2.WatchResponse(events=[api_pb2.Event(type=api_pb2.ERROR, object=orjson.dumps(error.status()))])

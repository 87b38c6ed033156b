"""The reading half of the gRPC front: objects, lists and watches in batches.

A list or a watch of everything takes turns with everybody else: it is found in steps (`Reader.steps`), and sent message
by message.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import orjson

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core import conversion, eventwire, selecting
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.options import NOT_OLDER_THAN, ListOptions
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.selecting import Selection
from raykube.apiserver.core.users import UserInfo
from raykube.apiserver.core.watcher import Watcher
from raykube.apiserver.measures import Measures
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest.render import data_of
from raykube.base.encoded import Encoded
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call

_CHUNK_BYTES = 512 * 1024
BOOKMARK_INTERVAL_S = 30.0


class BulkReads:
    """Get, List and Watch of raykube.api.v1.Api."""

    def __init__(
        self, reader: Reader, authenticator: Authenticator, authorization: Authorization, measures: Measures
    ) -> None:
        self._reader = reader
        self._authenticator = authenticator
        self._authorization = authorization
        self._measures = measures
        self.stopping = asyncio.Event()

    def _user(self, call: Call) -> UserInfo:
        with rpc_errors():
            return self._authenticator.authenticate(call.identity, call.metadata.get("authorization"))

    def _selection(self, user: UserInfo, verb: str, resource: Resource, request: Any) -> Selection:
        namespace = request.namespace if resource.namespaced else ""
        fields = selecting.fixed_fields(request.field_selector)
        name = dict(fields).get("metadata.name", "")
        self._authorization.require(
            Attributes(user, verb, resource.group, resource.plural, "", name, namespace, fields=fields)
        )
        return selecting.selection(resource, namespace, request.label_selector, request.field_selector)

    async def Get(  # noqa: N802  # the RPC's name
        self, request: api_pb2.GetRequest, call: Call
    ) -> api_pb2.GetResponse:
        user = self._user(call)
        with rpc_errors():
            resource = resource_of(request.resource)
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
        with rpc_errors():
            resource = resource_of(request.resource)
            selection = self._selection(user, "list", resource, request)
            options = ListOptions(resource_version=_version(request.resource_version))
            page = await self._reader.page(resource, selection, options)
        for chunk in _chunks([("", item) for item in page.items]):
            yield api_pb2.ListResponse(objects=[data_of(resource, item) for _, item in chunk])
            await self._reader.turns.next()
        yield api_pb2.ListResponse(resource_version=page.revision)

    async def Watch(  # noqa: N802  # the RPC's name
        self, request: api_pb2.WatchRequest, call: Call
    ) -> AsyncIterator[Encoded]:
        """Messages of api_pb2.WatchResponse."""
        user = self._user(call)
        with rpc_errors():
            resource = resource_of(request.resource)
            selection = self._selection(user, "watch", resource, request)
            if request.nodes:
                selecting.require_pods(resource)
                selection.nodes = frozenset(request.nodes)
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
        converted = _converted(resource)
        try:
            if initial is not None:
                async for items in self._reader.steps(initial):
                    for chunk in _chunks([("ADDED", item) for item in items]):
                        yield eventwire.message(chunk, converted, shared=False)
                yield _bookmark(initial.page.revision, initial_events_end=True)
            async with aclosing(self._follow(watcher, converted)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._measures.long_running.add(labels, -1)
            watcher.close()

    async def _follow(
        self, watcher: Watcher, converted: Callable[[Item], bytes] | None
    ) -> AsyncGenerator[Encoded, None]:
        """What the watcher sees, until it is closed; a bookmark now and then, when everything has been sent."""
        loop = asyncio.get_running_loop()
        awake = asyncio.Event()
        watcher.wake = awake.set
        due = loop.time() + BOOKMARK_INTERVAL_S
        timer = loop.call_at(due, awake.set)  # one for many waits: there is a wait an event
        try:
            while not self.stopping.is_set():
                for chunk in _chunks(watcher.drain()):
                    yield eventwire.message(chunk, converted)
                if watcher.closed:
                    return
                if watcher.pending:
                    continue
                if loop.time() >= due:
                    yield _bookmark(self._reader.store.feed.revision)
                    due = loop.time() + BOOKMARK_INTERVAL_S
                    timer = loop.call_at(due, awake.set)
                    continue
                awake.clear()
                await awake.wait()
        finally:
            timer.cancel()


class rpc_errors:  # noqa: N801  # reads as the statement it is
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


def resource_of(wanted: api_pb2.Resource) -> Resource:
    """The resource that a request names. Raises ApiError 404."""
    found = resources.by_path(wanted.group, wanted.version, wanted.plural)
    if found is None:
        raise ApiError.unknown_path()
    return found


def _version(number: int) -> str:
    """The wire's -1, 0, N as REST's "0", "", "N"."""
    return "" if number == 0 else "0" if number < 0 else str(number)


def _converted(resource: Resource) -> Callable[[Item], bytes] | None:
    """How items become what the client speaks; None when they are that already."""
    return None if conversion.stored(resource) is resource else lambda item: data_of(resource, item)


def _chunks(events: list[tuple[str, Item]]) -> Iterator[list[tuple[str, Item]]]:
    """What goes into one message each."""
    size, start = 0, 0
    for index, (_, item) in enumerate(events):
        size += len(item.data)
        if size >= _CHUNK_BYTES:
            yield events[start : index + 1]
            size, start = 0, index + 1
    if start < len(events):
        yield events[start:]


def _bookmark(revision: int, initial_events_end: bool = False) -> Encoded:
    event = api_pb2.Event(type=api_pb2.BOOKMARK, resource_version=revision, initial_events_end=initial_events_end)
    return Encoded(api_pb2.WatchResponse(events=[event]).SerializeToString())


def _error(error: ApiError) -> Encoded:
    event = api_pb2.Event(type=api_pb2.ERROR, object=orjson.dumps(error.status()))
    return Encoded(api_pb2.WatchResponse(events=[event]).SerializeToString())

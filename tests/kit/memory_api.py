"""An apiserver over a dict, with switches for what goes wrong on a wire: lost answers, broken watches, lag.

Several `MemoryApi`s over one `MemoryStore` are several apiservers of one cluster.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.field_selectors import FieldSelector, selectable_fields
from raykube.api.label_selectors import LabelSelector
from raykube.api.patch import merge_patch
from raykube.api.resources import Resource, by_path
from raykube.api.strategic import strategic_merge
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call, Server

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name


class MemoryStore:
    """Objects, and the log of what happened to them."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.objects: dict[Key, Object] = {}
        self.log: list[tuple[int, Key, Object | None, Object | None]] = []  # revision, key, before, after
        self.changed = asyncio.Condition()
        self.operations: list[api_pb2.Operation] = []

    def put(self, key: Key, obj: Object | None) -> Object:
        self.revision += 1
        before = self.objects.pop(key, None)
        after = None
        if obj is not None:
            after = orjson.loads(orjson.dumps(obj))
            after["metadata"]["resourceVersion"] = str(self.revision)
            self.objects[key] = after
        self.log.append((self.revision, key, before, after))
        result = after if after is not None else before
        assert result is not None
        return result

    def compact(self) -> None:
        self.compacted = self.revision
        self.log.clear()

    def write(self, op: api_pb2.Operation) -> Object:
        resource = by_path(op.resource.group, op.resource.version, op.resource.plural)
        assert resource is not None
        key = (op.resource.plural, op.namespace, op.name)
        old = self.objects.get(key)
        if op.verb == api_pb2.CREATE:
            obj = orjson.loads(op.body)
            name = op.name or f"{obj['metadata']['generateName']}{self.revision}"
            if (op.resource.plural, op.namespace, name) in self.objects:
                raise ApiError.already_exists(resource, name)
            obj["metadata"] |= {"name": name, "uid": f"uid-{self.revision}"}
            return self.put((op.resource.plural, op.namespace, name), obj)
        if old is None:
            raise ApiError.not_found(resource, op.name)
        if (op.resource_version and str(op.resource_version) != old["metadata"]["resourceVersion"]) or (
            op.uid and op.uid != old["metadata"]["uid"]
        ):
            raise ApiError.conflict(resource, op.name)
        if op.verb == api_pb2.DELETE:
            return self.put(key, None)
        if op.verb == api_pb2.BIND:
            if old["spec"].get("nodeName"):
                raise ApiError.conflict(resource, op.name, f"pod {op.name} is already assigned to node")
            return self.put(key, old | {"spec": old["spec"] | {"nodeName": op.node}})
        body = orjson.loads(op.body)
        if op.verb == api_pb2.UPDATE:
            body["metadata"]["uid"] = old["metadata"]["uid"]
            return self.put(key, body)
        if op.patch_type == api_pb2.STRATEGIC:
            return self.put(key, strategic_merge(resource, old, body))
        return self.put(key, merge_patch(old, body))


class MemoryApi:
    """One apiserver. `faults` are looked at by each call."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.peers: list[str] = []
        self.requests = 0
        self.lose_answers = 0  # writes that happen, but whose answer never comes
        self.refuse_bindings = 0  # bindings answered 409, as if the pod had changed
        self.watch_break_after = -1  # messages until a watch breaks
        self.lag = 0  # revisions that initial states are behind
        self.address = ""
        self._server: Server | None = None

    async def start(self, port: int = 0) -> str:
        self._server = Server()
        self._server.add(api_pb2.DESCRIPTOR.services_by_name["Api"], self)
        self.address = f"127.0.0.1:{self._server.listen(f'127.0.0.1:{port}')}"
        await self._server.start()
        return self.address

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def Write(self, request: api_pb2.WriteRequest, call: Call) -> api_pb2.WriteResponse:
        self.requests += 1
        response = api_pb2.WriteResponse()
        refused = request.together and self._refuses(request.operations)
        for op in request.operations:
            self.store.operations.append(op)
            try:
                if refused:
                    raise ApiError.conflict(_resource(op), op.name)
                if op.verb == api_pb2.BIND and self.refuse_bindings:
                    self.refuse_bindings -= 1
                    raise ApiError.conflict(_resource(op), op.name)
                obj = self.store.write(op)
            except ApiError as error:
                response.results.append(api_pb2.Result(code=error.code, body=orjson.dumps(error.status())))
                continue
            response.results.append(
                api_pb2.Result(
                    code=201 if op.verb == api_pb2.CREATE else 200,
                    body=orjson.dumps(obj) if request.return_objects else b"",
                    resource_version=self.store.revision,
                )
            )
        async with self.store.changed:
            self.store.changed.notify_all()
        if self.lose_answers:
            self.lose_answers -= 1
            raise RpcError(Code.UNAVAILABLE, "connection reset by peer")
        return response

    def _refuses(self, operations: Iterable[api_pb2.Operation]) -> bool:
        """Whether one of several bindings cannot be carried out."""
        if self.refuse_bindings:
            self.refuse_bindings -= 1
            return True
        for op in operations:
            there = self.store.objects.get(("pods", op.namespace, op.name))
            if there is None or there["spec"].get("nodeName"):
                return True
            if there["metadata"]["resourceVersion"] != str(op.resource_version) or there["metadata"]["uid"] != op.uid:
                return True
        return False

    async def Get(self, request: api_pb2.GetRequest, call: Call) -> api_pb2.GetResponse:
        self.requests += 1
        obj = self.store.objects.get((request.resource.plural, request.namespace, request.name))
        if obj is None:
            error = ApiError.not_found(_resource(request), request.name)
            raise RpcError(Code.NOT_FOUND, orjson.dumps(error.status()).decode())
        return api_pb2.GetResponse(object=orjson.dumps(obj))

    async def List(self, request: api_pb2.ListRequest, call: Call) -> AsyncIterator[api_pb2.ListResponse]:
        self.requests += 1
        wanted = _selects(request)
        for key, obj in self.store.objects.items():
            if wanted(key, obj):
                yield api_pb2.ListResponse(objects=[orjson.dumps(obj)])
        yield api_pb2.ListResponse(resource_version=self.store.revision)

    async def Watch(self, request: api_pb2.WatchRequest, call: Call) -> AsyncIterator[api_pb2.WatchResponse]:
        self.requests += 1
        wanted = _selects(request)
        position = request.resource_version
        if request.send_initial_events:
            position = self.store.revision - self.lag
            for key, obj in list(self.store.objects.items()):
                if wanted(key, obj):
                    yield _event(api_pb2.ADDED, obj, int(obj["metadata"]["resourceVersion"]))
            yield api_pb2.WatchResponse(
                events=[api_pb2.Event(type=api_pb2.BOOKMARK, resource_version=position, initial_events_end=True)]
            )
        elif position < self.store.compacted:
            error = ApiError.expired(f"too old resource version: {position} ({self.store.compacted})")
            yield api_pb2.WatchResponse(events=[api_pb2.Event(type=api_pb2.ERROR, object=orjson.dumps(error.status()))])
            return
        while True:
            start, position = position, self.store.revision
            for revision, key, before, after in list(self.store.log):
                if revision <= start:
                    continue
                was = before is not None and wanted(key, before)
                event = None
                if after is not None and wanted(key, after):
                    event = _event(api_pb2.MODIFIED if was else api_pb2.ADDED, after, revision)
                elif was and before is not None:
                    event = _event(api_pb2.DELETED, before, revision)
                if event is not None:
                    if self.watch_break_after == 0:
                        self.watch_break_after = -1
                        raise RpcError(Code.UNAVAILABLE, "connection reset by peer")
                    self.watch_break_after -= 1
                    yield event
            async with self.store.changed:
                while self.store.revision <= position:
                    await self.store.changed.wait()

    async def Endpoints(
        self, request: api_pb2.EndpointsRequest, call: Call
    ) -> AsyncIterator[api_pb2.EndpointsResponse]:
        addresses = self.peers or [self.address]
        yield api_pb2.EndpointsResponse(endpoints=[api_pb2.Endpoint(address=address) for address in addresses])
        await asyncio.Event().wait()


def _resource(request: Any) -> Resource:
    found = by_path(request.resource.group, request.resource.version, request.resource.plural)
    assert found is not None
    return found


def _selects(request: Any) -> Callable[[Key, Object], bool]:
    resource = _resource(request)
    labels = LabelSelector.parse(request.label_selector)
    fields = FieldSelector.parse(request.field_selector)

    def selects(key: Key, obj: Object) -> bool:
        return (
            key[0] == resource.plural
            and request.namespace in ("", key[1])
            and labels.matches(obj["metadata"].get("labels"))
            and fields.matches(selectable_fields(resource, obj))
        )

    return selects


def _event(kind: Any, obj: Object, revision: int) -> api_pb2.WatchResponse:
    return api_pb2.WatchResponse(events=[api_pb2.Event(type=kind, object=orjson.dumps(obj), resource_version=revision)])

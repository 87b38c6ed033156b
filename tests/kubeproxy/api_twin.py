"""The apiserver's gRPC API over a dictionary: enough for informers, patches and events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from raykube.api.resources import by_kind
from raykube.api.selectors import FieldSelector, LabelSelector
from raykube.pb import api_pb2
from raykube.rpc.server import Server
from tests.kit import pki

API = api_pb2.DESCRIPTOR.services_by_name["Api"]


class ApiTwin:
    """Start it, then `put` and `delete` objects; `written` are the operations that clients sent."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.users: set[str] = set()
        self.held: dict[str, asyncio.Event] = {}  # watches of these resources (plural) begin when it is set
        self.address = ""
        self._revision = 100
        self._watches: set[asyncio.Queue[tuple[str, Any]]] = set()
        self._server: Server | None = None

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> "ApiTwin":
        self._server = Server()
        self._server.add(API, self)
        ips = (*pki.SERVER_IPS, *({host} - {*pki.SERVER_IPS}))
        number = self._server.listen(f"{host}:{port}", pki.tls("kube-apiserver", server=True, ips=ips))
        await self._server.start()
        self.address = f"{host}:{number}"
        return self

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @staticmethod
    def _key(obj: dict[str, Any]) -> tuple[str, str, str]:
        group, _, version = obj["apiVersion"].rpartition("/")
        resource = by_kind(group, version, obj["kind"])
        assert resource is not None
        return resource.plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

    def put(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            self._revision += 1
            obj["metadata"]["resourceVersion"] = str(self._revision)
            key = self._key(obj)
            kind = api_pb2.MODIFIED if key in self.objects else api_pb2.ADDED
            self.objects[key] = obj
            self._publish(key[0], kind, obj)

    def delete(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            self._revision += 1
            key = self._key(obj)
            self._publish(key[0], api_pb2.DELETED, self.objects.pop(key))

    def _publish(self, plural: str, kind: int, obj: dict[str, Any]) -> None:
        event = api_pb2.Event(type=kind, object=orjson.dumps(obj), resource_version=self._revision)
        for queue in self._watches:
            queue.put_nowait((plural, event))

    async def Watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
        self.users.add(call.identity.user)
        if request.resource.plural in self.held:
            await self.held[request.resource.plural].wait()
        labels = LabelSelector.parse(request.label_selector)
        fields = FieldSelector.parse(request.field_selector)

        def selected(plural: str, obj: dict[str, Any]) -> bool:
            metadata = obj["metadata"]
            return (
                plural == request.resource.plural
                and labels.matches(metadata.get("labels") or {})
                and fields.matches(
                    {"metadata.name": metadata["name"], "metadata.namespace": metadata.get("namespace", "")}
                )
            )

        def event(kind: int, obj: dict[str, Any]) -> Any:
            version = int(obj["metadata"]["resourceVersion"])
            return api_pb2.Event(type=kind, object=orjson.dumps(obj), resource_version=version)

        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._watches.add(queue)
        try:
            events = [event(api_pb2.ADDED, obj) for key, obj in self.objects.items() if selected(key[0], obj)]
            bookmark = api_pb2.Event(type=api_pb2.BOOKMARK, resource_version=self._revision, initial_events_end=True)
            yield api_pb2.WatchResponse(events=[*events, bookmark])
            while True:
                plural, news = await queue.get()
                if selected(plural, orjson.loads(news.object)):
                    yield api_pb2.WatchResponse(events=[news])
        finally:
            self._watches.discard(queue)

    async def Endpoints(self, _request: Any, _call: Any) -> AsyncIterator[Any]:
        yield api_pb2.EndpointsResponse(endpoints=[api_pb2.Endpoint(name="twin", address=self.address)])
        await asyncio.Event().wait()

    async def Write(self, request: Any, _call: Any) -> Any:
        results = []
        for operation in request.operations:
            body = orjson.loads(operation.body)
            self.written.append((operation.resource.plural, body))
            key = (operation.resource.plural, operation.namespace, operation.name)
            if operation.verb == api_pb2.PATCH and key in self.objects:
                patched = orjson.loads(orjson.dumps(self.objects[key]))
                patched["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations") or {})
                self.put(patched)
            results.append(api_pb2.Result(code=200, body=operation.body, resource_version=self._revision))
        return api_pb2.WriteResponse(results=results)

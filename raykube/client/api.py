"""The asynchronous client of the apiservers' gRPC API.

`write` takes many operations and answers for each; concurrent writers share requests. Reads and watches go round robin
over the live apiservers. A read that meets a dead apiserver goes to another one, a write too as far as that is honest
(see `failures`); both until their time-out. Helpers for one object raise `ApiError` as the server worded it.

Objects are dicts. Use as `async with ApiClient(["127.0.0.1:6444"], tls) as client:` or call `close`.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.base.clock import Clock
from raykube.client import operations
from raykube.client.batcher import Batcher
from raykube.client.core.listwatch import BOOKMARK, WatchEvent
from raykube.client.endpoints import Endpoints, Peer
from raykube.client.failures import (
    contains,
    error_of_body,
    error_of_rpc,
    repeatable,
    status,
    unknown_outcome,
)
from raykube.client.operations import Object, Operation, PatchType, Result, wire
from raykube.client.residents import residents
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError, Tls, Unprocessed
from raykube.rpc.clock import SystemClock

TIMEOUT_S = 30.0
READ_ATTEMPT_S = 10.0  # one apiserver's time to answer a read before another is asked
# Aliases: inside ApiClient the name `list` is the method.
Objects = list[Object]
Events = list[WatchEvent]
Operations = list[Operation]
Results = list[Result]
Addresses = list[str]
OptionalResults = list[Result | None]
Decode = Callable[[bytes], Any]
_EVENT_NAMES = {
    api_pb2.ADDED: "ADDED",
    api_pb2.MODIFIED: "MODIFIED",
    api_pb2.DELETED: "DELETED",
    api_pb2.BOOKMARK: BOOKMARK,
}


class ApiClient:
    """Talks to whichever apiservers live; safe for any number of concurrent callers of one event loop."""

    def __init__(self, endpoints: list[str], tls: Tls | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._endpoints = Endpoints(endpoints, tls, self._clock)
        self._plain = Batcher(lambda batch: self._send(batch, return_objects=False))
        self._full = Batcher(lambda batch: self._send(batch, return_objects=True))

    async def __aenter__(self) -> "ApiClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._plain.close()
        await self._full.close()
        await self._endpoints.close()

    @property
    def addresses(self) -> list[str]:
        """The apiservers known now."""
        return self._endpoints.addresses

    async def https_addresses(self, *, timeout: float = TIMEOUT_S) -> Addresses:
        """host:port of the live apiservers' REST APIs, in any order. Raises ApiError when none answers."""

        async def call(peer: Peer, left: float) -> Addresses:
            async with asyncio.timeout(left), aclosing(peer.stub.Endpoints(api_pb2.EndpointsRequest())) as answers:
                answer = await anext(answers)
            found = [endpoint.https_address for endpoint in answer.endpoints if endpoint.https_address]
            random.shuffle(found)
            return found

        return await self._read(call, timeout)  # type: ignore[no-any-return]  # call's type

    # Writes

    async def write(self, batch: Sequence[Operation], *, return_objects: bool = False) -> list[Result]:
        """One result per operation, in order; a failed operation is a result with code ≥ 400 and a Status body.

        Operations of one call may run at the same time when they are too many for one request (1,000): a call must
        not hold two operations of which one needs the other.

        Raises ApiError 503 when no apiserver could be reached in time.
        """
        if not batch:
            return []
        self._endpoints.start()
        return await (self._full if return_objects else self._plain).write(list(batch))

    async def write_together(self, batch: Sequence[Operation]) -> list[Result]:
        """As `write`, but all operations are carried out in one step of the store, or none of them."""
        if not batch:
            return []
        self._endpoints.start()
        return await self._send(list(batch), return_objects=False, together=True)

    async def write_one(self, operation: Operation) -> Object:
        """Runs one operation; the resulting object. Raises ApiError."""
        (result,) = await self.write([operation], return_objects=True)
        if result.code >= 400:
            raise error_of_body(result.body, result.code)
        return orjson.loads(result.body) if result.body else {}

    async def create(self, obj: Object, *, field_manager: str = "", strict: bool = False) -> Object:
        return await self.write_one(operations.create(obj, field_manager=field_manager, strict=strict))

    async def update(self, obj: Object) -> Object:
        """Replaces an object; with a metadata.resourceVersion only if it did not change since."""
        return await self.write_one(operations.update(obj))

    async def update_status(self, obj: Object) -> Object:
        return await self.write_one(operations.update(obj, "status"))

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Object | list[Any] | bytes,
        patch_type: PatchType = api_pb2.MERGE,
        subresource: str = "",
        *,
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        return await self.write_one(
            operations.patch(
                resource, namespace, name, body, patch_type, subresource, field_manager=field_manager, force=force
            )
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> Object:
        return await self.write_one(
            operations.delete(
                resource, namespace, name, uid=uid, grace_period_s=grace_period_s, propagation=propagation
            )
        )

    # Reads

    async def get(
        self, resource: Resource, namespace: str, name: str, *, resource_version: int = 0, timeout: float = TIMEOUT_S
    ) -> Object:
        """The object; `resource_version` 0: the latest, -1: any cached state, N: not older than N."""
        request = api_pb2.GetRequest(
            resource=wire(resource), namespace=namespace, name=name, resource_version=resource_version
        )

        async def call(peer: Peer, left: float) -> bytes:
            return bytes((await peer.stub.Get(request, timeout=left)).object)

        return orjson.loads(await self._read(call, timeout))  # type: ignore[no-any-return]  # JSON object

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: int = 0,
        timeout: float = TIMEOUT_S,
    ) -> tuple[Objects, int]:
        """All objects, and the revision of the whole list."""
        request = api_pb2.ListRequest(
            resource=wire(resource),
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            resource_version=resource_version,
        )

        async def call(peer: Peer, left: float) -> tuple[Objects, int]:
            objects: Objects = []
            revision = 0
            async for chunk in peer.stub.List(request, timeout=left):
                objects += map(orjson.loads, chunk.objects)
                revision = chunk.resource_version or revision
            return objects, revision

        return await self._read(call, timeout)  # type: ignore[no-any-return]  # call's type

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: int = 0,
        send_initial_events: bool = False,
        nodes: Sequence[str] = (),
        decode: Decode = orjson.loads,
    ) -> AsyncIterator[Events]:
        """Batches of events from one apiserver until it ends the stream or breaks; the caller resumes (see Informer).

        `nodes`, of pods alone: those of any of these nodes. `decode` makes of an object's JSON what the caller keeps.

        Raises ApiError (410 Expired when `resource_version` is too old; 503 when the connection broke).
        """
        request = api_pb2.WatchRequest(
            resource=wire(resource),
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            resource_version=resource_version,
            send_initial_events=send_initial_events,
            nodes=nodes,
        )
        async with aclosing(self._stream(lambda peer: peer.stub.Watch(request))) as responses:
            async for response in responses:
                yield decode_events(response, decode)

    async def logs(
        self,
        namespace: str,
        pod: str,
        container: str = "",
        *,
        follow: bool = False,
        tail_lines: int = -1,
        previous: bool = False,
        timestamps: bool = False,
        since_s: int = 0,
    ) -> AsyncIterator[bytes]:
        """Chunks of a container's log. Raises ApiError."""
        request = api_pb2.LogsRequest(
            namespace=namespace,
            pod=pod,
            container=container,
            follow=follow,
            tail_lines=tail_lines,
            previous=previous,
            timestamps=timestamps,
            since_seconds=since_s,
        )
        async with aclosing(self._stream(lambda peer: peer.stub.Logs(request))) as responses:
            async for response in responses:
                yield response.data

    async def _stream(self, call: Callable[[Peer], AsyncGenerator[Any, None]]) -> AsyncGenerator[Any, None]:
        """The responses of one apiserver until it ends the stream. Raises ApiError."""
        self._endpoints.start()
        peer = self._endpoints.pick()
        try:
            async with aclosing(call(peer)) as stream:
                async for response in stream:
                    self._endpoints.on_success(peer)
                    yield response
        except RpcError as error:
            if error.code == Code.UNAVAILABLE:
                self._endpoints.on_failure(peer)
            raise error_of_rpc(error) from None

    # Calls with fail-over

    async def _read(self, call: Any, timeout: float) -> Any:
        """Runs `call(peer, seconds)` on one apiserver after another until one answers. Raises ApiError."""
        self._endpoints.start()
        deadline = self._clock.monotonic() + timeout
        peer: Peer | None = None
        while True:
            peer = self._endpoints.pick(avoid=peer)
            left = deadline - self._clock.monotonic()
            try:
                answer = await call(peer, max(0.001, min(left, READ_ATTEMPT_S)))
            except RpcError as error:
                if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    raise error_of_rpc(error) from None
                self._endpoints.on_failure(peer)
                await self._rest(deadline, error)
            else:
                self._endpoints.on_success(peer)
                return answer

    async def _rest(self, deadline: float, error: RpcError) -> None:
        """Waits for the next attempt; raises when it would be too late."""
        pause_s = self._endpoints.wait_s()
        if self._clock.monotonic() + pause_s >= deadline:
            message = f"no apiserver answered ({', '.join(self._endpoints.addresses)}): {error.message}"
            raise ApiError.from_status(status(503, "ServiceUnavailable", message)) from None
        await asyncio.sleep(pause_s)

    async def _send(self, batch: Operations, return_objects: bool, together: bool = False) -> Results:
        """One bulk request, repeated on other apiservers as far as that is honest."""
        deadline = self._clock.monotonic() + TIMEOUT_S
        results: OptionalResults = [None] * len(batch)
        left = list(range(len(batch)))
        repeated = False
        peer: Peer | None = None
        while True:
            peer = self._endpoints.pick(avoid=peer)
            request = api_pb2.WriteRequest(
                operations=[batch[i] for i in left], return_objects=return_objects, together=together
            )
            try:
                response = await peer.stub.Write(request, timeout=max(0.001, deadline - self._clock.monotonic()))
            except RpcError as error:
                if error.code != Code.UNAVAILABLE:
                    raise error_of_rpc(error) from None
                self._endpoints.on_failure(peer)
                if not isinstance(error, Unprocessed):
                    repeated = True
                    for i in left:
                        if not repeatable(batch[i]):
                            results[i] = unknown_outcome()
                    left = [i for i in left if results[i] is None]
                if left:
                    await self._rest(deadline, error)
                    continue
            else:
                self._endpoints.on_success(peer)
                for i, result in zip(left, response.results, strict=True):
                    results[i] = result
                if repeated:
                    for i in left:
                        results[i] = await self._settle(batch[i], response_of(results[i]), return_objects)
            return [response_of(result) for result in results]

    async def _settle(self, operation: Operation, result: Result, return_object: bool) -> Result:
        """A repeated CREATE that met an object with all that was sent has succeeded."""
        if operation.verb != api_pb2.CREATE or result.code != 409:
            return result
        resource = operation.resource
        request = api_pb2.GetRequest(resource=resource, namespace=operation.namespace, name=operation.name)

        async def call(peer: Peer, left: float) -> bytes:
            return bytes((await peer.stub.Get(request, timeout=left)).object)

        try:
            body = await self._read(call, READ_ATTEMPT_S)
        except ApiError:
            return result
        stored = orjson.loads(body)
        if not contains(stored, orjson.loads(operation.body)):
            return result
        revision = int(stored["metadata"].get("resourceVersion") or 0)
        return Result(code=201, body=body if return_object else b"", resource_version=revision)


def response_of(result: Result | None) -> Result:
    assert result is not None  # every operation of a finished request has one
    return result


def decode_events(response: api_pb2.WatchResponse, decode: Decode = orjson.loads) -> list[WatchEvent]:
    """Parses a batch. Raises ApiError for an ERROR event that comes first; one behind events ends the batch there."""
    events: list[WatchEvent] = []
    with residents.arrival(len(response.events)):
        for event in response.events:
            if event.type == api_pb2.ERROR:
                if events:
                    break  # deliver what came before; the server ends the stream, and resuming meets the error again
                raise error_of_body(event.object)
            obj = decode(event.object) if event.object and event.type != api_pb2.BOOKMARK else None
            events.append(WatchEvent(_EVENT_NAMES[event.type], obj, event.resource_version, event.initial_events_end))
    return events

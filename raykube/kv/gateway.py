"""etcd's HTTP on the clients' port: its JSON gateway (`POST /v3/kv/range`), and pages for people and probes.

A body is the request's message in protobuf's JSON form; where the client streams, any number of them, one behind the
other. An answer that is a stream comes as lines `{"result": …}`. An error is HTTP's nearest status, and gRPC's code.
Nothing is served to pages of other origins: a browser on a machine with a member would let any of them write.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from aiohttp import hdrs, web
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, ServiceDescriptor

from raykube.rpc import Code, RpcError
from raykube.rpc.handlers import Call, Served, served_by
from raykube.rpc.health import Page
from raykube.rpc.http_connections import Connections, runner
from raykube.rpc.pending import Pending
from raykube.rpc.tls import denial, peer_of

PATHS = {
    "Range": ("kv/range",),
    "Put": ("kv/put",),
    "DeleteRange": ("kv/deleterange",),
    "Txn": ("kv/txn",),
    "Compact": ("kv/compaction",),
    "Watch": ("watch",),
    "LeaseGrant": ("lease/grant",),
    "LeaseRevoke": ("lease/revoke", "kv/lease/revoke"),
    "LeaseKeepAlive": ("lease/keepalive",),
    "LeaseTimeToLive": ("lease/timetolive", "kv/lease/timetolive"),
    "LeaseLeases": ("lease/leases", "kv/lease/leases"),
    "MemberAdd": ("cluster/member/add",),
    "MemberRemove": ("cluster/member/remove",),
    "MemberUpdate": ("cluster/member/update",),
    "MemberList": ("cluster/member/list",),
    "MemberPromote": ("cluster/member/promote",),
    "Alarm": ("maintenance/alarm",),
    "Status": ("maintenance/status",),
    "Defragment": ("maintenance/defragment",),
    "HashKV": ("maintenance/hash",),
    "Snapshot": ("maintenance/snapshot",),
    "MoveLeader": ("maintenance/transfer-leadership",),
    "Lock": ("lock/lock",),
    "Unlock": ("lock/unlock",),
    "Campaign": ("election/campaign",),
    "Proclaim": ("election/proclaim",),
    "Leader": ("election/leader",),
    "Observe": ("election/observe",),
    "Resign": ("election/resign",),
    "AuthEnable": ("auth/enable",),
    "AuthStatus": ("auth/status",),
    "Authenticate": ("auth/authenticate",),
}
STATUSES = {
    Code.CANCELLED: 408,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
BODY_TIMEOUT_S = 30.0
METADATA = "grpc-metadata-"  # how headers begin that are the call's metadata
ASIDE_BYTES = 64 << 10
_THREAD = ThreadPoolExecutor(1, "gateway")  # one, and not that in which snapshots and logs are seen to
_JSON = "application/json"
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2}(?:==)?|[A-Za-z0-9+/_-]{3}=?)?")
_MORE = re.compile(r"\s*")
_BASE64_GROWTH = 2  # a body of so many bytes for one of a message, at most and roundly

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Serves `services` to those whose certificate names one of `users` (empty: everybody), and `pages`, by path."""

    def __init__(self, users: Iterable[str], message_bytes_max: int, pages: Mapping[str, Page]) -> None:
        self._users = frozenset(users)
        self._connections = Connections()
        self._app = web.Application(
            client_max_size=_BASE64_GROWTH * message_bytes_max, middlewares=[self._connections.mark, self._admit]
        )
        for path, page in pages.items():
            self._app.router.add_get(path, _shown(page))
        self._runner = runner(self._app, cancels=True)
        self._watcher: asyncio.Task[None] | None = None

    def add(self, service: ServiceDescriptor, handler: object) -> None:
        """Before `start`."""
        for served in served_by(service, handler):
            for path in PATHS.get(served.method.name, ()) if served.function is not None else ():
                streams = served.method.client_streaming or served.method.server_streaming
                self._app.router.add_post(
                    f"/v3/{path}", _streamed(served, self._connections) if streams else _unary(served)
                )

    async def start(self) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        self._watcher = asyncio.create_task(self._connections.keep_few(self._runner.server))

    def connection(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        assert self._runner.server is not None
        return self._runner.server()

    async def stop(self) -> None:
        """Ends all connections; idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
        with suppress(OSError):
            await self._runner.cleanup()

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if hdrs.ORIGIN in request.headers:
            return _refusal(RpcError(Code.PERMISSION_DENIED, "nothing is served to pages of other origins"))
        denied = denial(peer_of(request.transport), self._users)
        if denied is not None:
            return _refusal(denied)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            text = "Not Found\n" if request.path.startswith("/v3/") else "404 page not found\n"
            return web.Response(status=404, text=text)
        except web.HTTPMethodNotAllowed as error:
            return web.Response(
                status=405, text="Method Not Allowed\n", headers={hdrs.ALLOW: error.headers[hdrs.ALLOW]}
            )
        except web.HTTPRequestEntityTooLarge:
            return _refusal(RpcError(Code.INVALID_ARGUMENT, "etcdserver: request is too large"))


def _shown(page: Page) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return page()

    return answer


def _unary(served: Served) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            body = await _body(request)
            message = await _aside(len(body), lambda: next(_messages(served, body), served.method.request_type()))
            found = await _result(served, message, _call(request))
        except RpcError as error:
            return _refusal(error)
        return web.Response(text=await _text(served, found, "{}"), content_type=_JSON)

    return answer


def _streamed(served: Served, connections: Connections) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        connections.lasts(request)  # a watch may be silent for days
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: _JSON})
        try:
            body = await _body(request)
            messages = _messages(served, body)
            first = await _aside(len(body), lambda: next(messages, None))
            asked: Any = _each(first, messages, len(body)) if served.method.client_streaming else first
            if asked is None:
                asked = served.method.request_type()
            assert served.function is not None
            async for found in served.function(asked, _call(request)):
                if not response.prepared:
                    await response.prepare(request)
                await response.write((await _text(served, found, '{{"result":{}}}\n')).encode())
        except RpcError as error:
            if not response.prepared:
                return _refusal(error)
            status = STATUSES.get(error.code, 500)
            told = {"grpc_code": int(error.code), "http_code": status, "message": error.message}
            await response.write(_dumps({"error": told}).encode() + b"\n")
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    return answer


async def _aside(size: int, work: Callable[[], Any]) -> Any:
    """What `work` returns. In a thread where it takes long, as for many bytes: nothing may hold up the store."""
    return work() if size < ASIDE_BYTES else await asyncio.get_running_loop().run_in_executor(_THREAD, work)


async def _body(request: web.Request) -> bytes:
    """Raises RpcError when it does not come."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise RpcError(Code.CANCELLED, f"no whole request came in {BODY_TIMEOUT_S:g} seconds") from None


async def _each(first: Any, rest: Iterator[Any], size: int) -> AsyncIterator[Any]:
    """Of a body of so many bytes."""
    message = first
    while message is not None:
        yield message
        await asyncio.sleep(0)  # there may be many
        message = await _aside(size, lambda: next(rest, None))


async def _result(served: Served, message: Any, call: Call) -> Any:
    assert served.function is not None
    found = served.function(message, call)
    if isinstance(found, Pending):
        is_there = asyncio.Event()
        found.then(lambda _: is_there.set())
        try:
            await is_there.wait()
        except asyncio.CancelledError:
            found.cancel()
            raise
        error = found.exception()
        if error is not None:
            raise error
        return found.result()
    return await found if isawaitable(found) else found


def _call(request: web.Request) -> Call:
    metadata = {
        name.lower().removeprefix(METADATA): value
        for name, value in request.headers.items()
        if name.lower().startswith(METADATA)
    }
    return Call(lambda: None, metadata, None, asyncio.get_running_loop().time)


def _messages(served: Served, body: bytes) -> Iterator[Any]:
    """The messages of a body, one after the other. Raises RpcError at what is none."""
    decoder = json.JSONDecoder()
    try:
        text = body.decode()
        end = 0
        while (start := _MORE.match(text, end).end()) < len(text):  # type: ignore[union-attr] # it matches anything
            found, end = decoder.raw_decode(text, start)
            message = served.method.request_type()
            _check(found, message.DESCRIPTOR)
            yield json_format.ParseDict(found, message, ignore_unknown_fields=True)
    except (ValueError, RecursionError, json_format.ParseError) as error:
        raise RpcError(Code.INVALID_ARGUMENT, " ".join(str(error).split())) from None


def _check(found: Any, kind: Descriptor) -> None:
    """Raises ValueError for what `json_format` makes something of: a body that is no object, bytes in no base64."""
    if not isinstance(found, dict):
        raise ValueError(f"{kind.name} is written as an object, not {str(found)[:64]!r}")
    for field in kind.fields:
        value = found.get(field.name, found.get(field.json_name))
        values = value if isinstance(value, list) else [value]
        for each in values:
            if each is None:
                continue
            if field.message_type is not None:
                _check(each, field.message_type)
            elif field.enum_type is not None:
                if isinstance(each, str) and each not in field.enum_type.values_by_name:
                    raise ValueError(f"unknown value {each[:64]!r} for enum {field.enum_type.full_name}")
            elif field.type == field.TYPE_BYTES and not (isinstance(each, str) and _BASE64.fullmatch(each)):
                raise ValueError(f"{kind.name}.{field.name} is not base64: {str(each)[:64]!r}")


async def _text(served: Served, found: Any, around: str) -> str:
    """A message as JSON, put into `around`. Handlers may give what is encoded already."""
    data = found.SerializeToString()

    def text() -> str:
        message = served.method.response_type.FromString(data)
        shape = json_format.MessageToDict(message, preserving_proto_field_name=True)
        return around.format(_dumps(shape))

    text_now: str = await _aside(len(data), text)
    return text_now


def _dumps(shape: Any) -> str:
    # In pieces: made in one call, a large one would hold Python's lock, and with it the store, until it is done.
    return "".join(_ENCODER.iterencode(shape))


def _refusal(error: RpcError) -> web.Response:
    shape = {"error": error.message, "code": int(error.code), "message": error.message}
    return web.json_response(shape, status=STATUSES.get(error.code, 500), dumps=_dumps)

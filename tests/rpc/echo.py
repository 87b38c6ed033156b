"""A service with one method of each kind, a handler for it, and two servers to put it behind: grpcio's and ours.

Messages are `google.protobuf.BytesValue`; the first word of a request says what the handler does with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2

from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel
from raykube.rpc.methods import methods_of
from raykube.rpc.server import Server

Bytes = wrappers_pb2.BytesValue


def _echo_service() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tests/rpc/echo.proto", package="tests.rpc", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    service = file.service.add(name="Echo")
    kinds = (("Unary", False, False), ("Spread", False, True), ("Gather", True, False), ("Both", True, True))
    for name, client_streaming, server_streaming in (*kinds, ("Missing", False, False)):
        service.method.add(
            name=name,
            input_type=".google.protobuf.BytesValue",
            output_type=".google.protobuf.BytesValue",
            client_streaming=client_streaming,
            server_streaming=server_streaming,
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName("tests.rpc.Echo")


ECHO = _echo_service()


def say(text: str) -> Any:
    """A request."""
    return Bytes(value=text.encode())


class Handler:
    """Does what requests say:

    `fail NAME text`: raises that status · `hang`: never answers · `sleep S`: answers after so many seconds ·
    `bytes N`: so many zero bytes · `count N SIZE`: so many messages of that size (streamed answers) · anything else:
    comes back.
    """

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.ended = 0  # Both, however
        self.sent = 0  # messages given to the transport
        self.read = 0  # messages taken from the transport
        self.remaining_s: list[float | None] = []
        self.gate = asyncio.Event()  # opened: Gather reads on

    async def _do(self, request: Any) -> Any:
        word, _, rest = request.value[:5000].decode(errors="replace").partition(" ")
        if word == "fail":
            name, _, text = rest.partition(" ")
            raise RpcError(Code[name], text)
        if word == "bytes":
            return Bytes(value=bytes(int(rest)))
        if word in ("hang", "sleep"):
            try:
                await asyncio.sleep(float(rest or 1e6))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return request

    async def Unary(self, request: Any, call: Any) -> Any:
        self.started += 1
        self.remaining_s.append(call.remaining_s())
        return await self._do(request)

    async def Spread(self, request: Any, call: Any) -> AsyncIterator[Any]:
        self.started += 1
        words = request.value.decode().split(" ", 3)
        try:
            if words[0] == "count":
                for _ in range(int(words[1])):
                    yield Bytes(value=bytes(int(words[2])))
                    self.sent += 1
                request = say(words[3] if len(words) > 3 else "end")
            yield await self._do(request)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def Gather(self, requests: AsyncIterator[Any], call: Any) -> Any:
        self.started += 1
        total = 0
        first = True
        async for request in requests:
            if first and request.value.startswith((b"fail", b"sleep", b"hang")):
                return await self._do(request)
            if first and request.value == b"wait":
                await self.gate.wait()
            first = False
            self.read += 1
            total += len(request.value)
        return say(f"{self.read} {total}")

    async def Both(self, requests: AsyncIterator[Any], call: Any) -> AsyncIterator[Any]:
        self.started += 1
        try:
            async for request in requests:
                self.read += 1
                yield await self._do(request)
        finally:
            self.ended += 1


@contextlib.asynccontextmanager
async def serving(handler: object) -> AsyncIterator[tuple[Server, Channel]]:
    """Our server with `handler`, and a channel to it."""
    server = Server()
    server.add(ECHO, handler)
    port = server.listen("127.0.0.1:0")
    await server.start()
    channel = Channel(f"127.0.0.1:{port}")
    try:
        yield server, channel
    finally:
        await channel.close()
        await server.stop(0)


class _ReferenceCall:
    def __init__(self, context: Any) -> None:
        self._context = context

    def remaining_s(self) -> float | None:
        remaining = self._context.time_remaining()
        return None if remaining is None else float(remaining)


class ReferenceServer:
    """grpcio's server behind the interface of `raykube.rpc.server.Server`."""

    def __init__(self, options: Any = ()) -> None:
        sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.aio.server(options=[*sizes, ("grpc.so_reuseport", 0), *options])

    def add(self, service: Any, handler: object) -> None:
        handlers = {m.name: _reference_method(m, handler) for m in methods_of(service) if hasattr(handler, m.name)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def listen(self, address: str, tls: Tls | None = None) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(address))
        pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], tls.ca_file.read_bytes(), True)
        return int(self._server.add_secure_port(address, credentials))

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float = 0.5) -> None:
        await self._server.stop(grace_s)


def _reference_method(method: Any, handler: object) -> Any:
    function = getattr(handler, method.name)

    async def unary(request: Any, context: Any) -> Any:
        try:
            return await function(request, _ReferenceCall(context))
        except RpcError as error:
            await context.abort(grpc.StatusCode[error.code.name], error.message)

    async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in function(request, _ReferenceCall(context)):
                yield response
        except RpcError as error:
            await context.abort(grpc.StatusCode[error.code.name], error.message)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return make(
        streamed if method.server_streaming else unary,
        request_deserializer=method.request_type.FromString,
        response_serializer=method.response_type.SerializeToString,
    )


def new_server(kind: str) -> Any:
    """`reference` or `ours`."""
    return ReferenceServer() if kind == "reference" else Server()


@contextlib.asynccontextmanager
async def served(
    kind: str, handler: Handler, address: str = "127.0.0.1:0", tls: Tls | None = None
) -> AsyncIterator[str]:
    """The address of a running server of that kind."""
    server = new_server(kind)
    server.add(ECHO, handler)
    port = server.listen(address, tls)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(0)


def unix_address(folder: Path) -> str:
    return f"unix:{folder}/echo.sock"

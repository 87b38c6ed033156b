"""The client side: a channel to one address, and stubs with an attribute per method."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from raykube.rpc.errors import Code, RpcError
from raykube.rpc.methods import Method, methods_of
from raykube.rpc.server import MESSAGE_BYTES_MAX
from raykube.rpc.tls import Tls

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),  # a new Channel is a new connection, as callers expect
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # in truth the time that connecting and its TLS handshake may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # a peer that vanished without a FIN is found in 15 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
]


def _translate(error: grpc.aio.AioRpcError) -> RpcError:
    return RpcError(Code[error.code().name], error.details() or "")


def _closed() -> RpcError | None:
    """What a CancelledError out of grpc means here: None when this task is being cancelled, else that the channel was
    closed under the call. grpc raises the same for both, and a caller must not take the second for its own end."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    return RpcError(Code.UNAVAILABLE, "the channel was closed during the call")


class _UnaryAnswer:
    def __init__(self, multi: Any) -> None:
        self._multi = multi

    async def __call__(self, request: Any, timeout: float | None = None) -> Any:
        try:
            return await self._multi(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from None
        except asyncio.CancelledError:
            closed = _closed()
            if closed is not None:
                raise closed from None
            raise


class _StreamedAnswer:
    def __init__(self, multi: Any) -> None:
        self._multi = multi

    async def __call__(self, request: Any, timeout: float | None = None) -> AsyncIterator[Any]:
        call = self._multi(request, timeout=timeout)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from None
        except asyncio.CancelledError:
            closed = _closed()
            if closed is not None:
                raise closed from None
            raise
        finally:
            call.cancel()


class Stub:
    """One service at the other end: `await stub.Range(request, timeout=5)`, `async for r in stub.Watch(requests)`."""

    def __init__(self, channel: "Channel", service: ServiceDescriptor) -> None:
        for method in methods_of(service):
            setattr(self, method.name, channel.method(method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Channel:
    """A connection to `host:port` or `unix:/path`, made when first used and remade when lost.

    Calls fail with `RpcError`; UNAVAILABLE means that the peer is not there now.
    """

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        self.address = address
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(
                tls.ca_file.read_bytes(), tls.key_file.read_bytes(), tls.cert_file.read_bytes()
            )
            self._channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)

    def stub(self, service: ServiceDescriptor) -> Stub:
        return Stub(self, service)

    def method(self, method: Method) -> Any:
        """The callable behind one attribute of a stub."""
        make = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        multi = make(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )
        return _StreamedAnswer(multi) if method.server_streaming else _UnaryAnswer(multi)

    async def close(self) -> None:
        await self._channel.close(None)


async def once(message: Any) -> AsyncIterable[Any]:
    """A request stream of a single message."""
    yield message

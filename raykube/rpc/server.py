"""The server side: services on a TCP address (mutual TLS) or on a unix socket."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from raykube.rpc.errors import Code, RpcError
from raykube.rpc.methods import Method, methods_of
from raykube.rpc.tls import Identity, Tls, identity_of

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 512 * 1024 * 1024
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a lottery
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
]

_identity_of = lru_cache(maxsize=4096)(identity_of)


class Call:
    """What a handler learns of the call it answers."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @property
    def identity(self) -> Identity | None:
        """Whom the client's certificate names; None on a connection without one (unix socket, plain TCP)."""
        pem = self._context.auth_context().get("x509_pem_cert")
        return _identity_of(pem[0]) if pem else None

    @property
    def metadata(self) -> dict[str, str]:
        """The request's headers, lower-case names."""
        return dict(self._context.invocation_metadata() or ())

    def remaining_s(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        remaining = self._context.time_remaining()
        return None if remaining is None else float(remaining)


async def _abort(context: Any, error: Exception, path: str) -> None:
    if isinstance(error, RpcError):
        await context.abort(grpc.StatusCode[error.code.name], error.message)
    log.exception("unhandled error in %s", path)
    await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


Permit = Callable[[Call], None]


def _permit(users: frozenset[str]) -> Permit:
    """Refuses who shows no certificate of one of `users`; none given: whoever the CA signed may call."""

    def check(call: Call) -> None:
        try:
            identity = call.identity
        except ValueError:
            identity = None
        if identity is None or identity.user not in users:
            shown = "nobody" if identity is None else repr(identity.user)
            raise RpcError(Code.PERMISSION_DENIED, f"the client certificate names {shown}, which may not call this")

    return check if users else lambda _call: None


def _unary(function: Callable[[Any, Call], Awaitable[Any]], path: str, permit: Permit) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            call = Call(context)
            permit(call)
            return await function(request, call)
        except Exception as error:
            return await _abort(context, error, path)

    return answer


def _stream(function: Callable[[Any, Call], AsyncIterator[Any]], path: str, permit: Permit) -> Any:
    async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            call = Call(context)
            permit(call)
            async for response in function(request, call):
                yield response
        except Exception as error:
            await _abort(context, error, path)

    return answer


def _method_handler(method: Method, handler: object, permit: Permit) -> Any:
    function = getattr(handler, method.name, None)
    if function is None:

        async def missing(_request: Any, _call: Call) -> Any:
            raise RpcError(Code.UNIMPLEMENTED, f"{method.path} is not implemented")

        # A streamed answer that fails before its first message looks the same on the wire as a unary one.
        return grpc.unary_unary_rpc_method_handler(_unary(missing, method.path, permit))
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    wrap = _stream if method.server_streaming else _unary
    return make(
        wrap(function, method.path, permit),
        request_deserializer=method.request_type.FromString,
        response_serializer=method.response_type.SerializeToString,
    )


class Server:
    """A gRPC server. Add services, then `start`.

    A handler method is `async def Name(self, request, call) -> response` or, for a streamed answer, an async
    generator of responses; `request` is an async iterator of messages where the client streams. With `users`, only
    clients whose certificate names one of them are answered; everybody else gets PERMISSION_DENIED.
    """

    def __init__(self, users: Iterable[str] = ()) -> None:
        self._permit = _permit(frozenset(users))
        self._server = grpc.aio.server(options=OPTIONS)

    def add(self, service: ServiceDescriptor, handler: object) -> None:
        """Serves `service` by `handler`; methods it lacks answer UNIMPLEMENTED."""
        handlers = {method.name: _method_handler(method, handler, self._permit) for method in methods_of(service)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def listen(self, address: str, tls: Tls | None = None) -> int:
        """Binds `host:port` (port 0: any) or `unix:/path`; returns the port. Raises OSError when it is taken.

        With `tls`, clients must show a certificate of its CA.
        """
        try:
            if tls is None:
                return int(self._server.add_insecure_port(address))
            credentials = grpc.ssl_server_credentials(
                [(tls.key_file.read_bytes(), tls.cert_file.read_bytes())],
                root_certificates=tls.ca_file.read_bytes(),
                require_client_auth=True,
            )
            return int(self._server.add_secure_port(address, credentials))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: the address is in use or not this machine's") from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float = 0.5) -> None:
        """Stops accepting, lets running calls end for `grace_s` seconds, then cancels them."""
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        await self._server.wait_for_termination()

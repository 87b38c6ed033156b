"""One port for gRPC and plain HTTP: a connection goes to the protocol that its client speaks, seen by its first bytes.

TLS has agreed on it before (ALPN). Without, a client of HTTP/2 begins with its preface, and nobody else does.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from raykube.rpc.core.frames import PREFACE

Protocols = Callable[[], asyncio.Protocol]
PATIENCE_S = 10.0


class Entrance(asyncio.Protocol):
    """The protocol of a connection until it is known. `waiting` are all such, for a server that stops; once it
    `is_stopping`, nobody enters."""

    def __init__(
        self, grpc: Protocols, http: Protocols, waiting: set["Entrance"], is_stopping: Callable[[], bool]
    ) -> None:
        self._grpc = grpc
        self._http = http
        self._waiting = waiting
        self._is_stopping = is_stopping
        self._seen = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        agreed = tls.selected_alpn_protocol() if tls is not None else None
        if agreed is not None:
            self._enter(self._grpc if agreed == "h2" else self._http)
            return
        self._waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.startswith(PREFACE):
            self._enter(self._grpc)
        elif not PREFACE.startswith(self._seen):
            self._enter(self._http)

    def connection_lost(self, _error: Exception | None) -> None:
        self._leave()

    def abort(self) -> None:
        """Closes the connection of a client that has not said what it wants."""
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        self._waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _enter(self, protocols: Protocols) -> None:
        self._leave()
        if self._is_stopping():
            self.abort()
            return
        transport, protocol = self._transport, protocols()
        assert transport is not None
        self._transport = None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._seen:
            protocol.data_received(self._seen)

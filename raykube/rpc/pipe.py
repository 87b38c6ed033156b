"""Two connections joined into one: what a layer-4 proxy does with a client and a backend.

    client ──bytes──► Side ──write──► Side ──bytes──► backend       (and the same way back)

Rules: nothing is read from a side until it is joined; a side that cannot write pauses the reading of the other, so
memory stays bounded; an end of stream passes through as one (half-close) and ends the pair when both directions ended;
a reset passes through as a reset. There is no idle time-out: watches are silent for minutes. TCP keep-alive finds peers
that vanished.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Side(asyncio.Protocol):
    """One of the two connections. `on_made(side)` when it is there, `on_lost(side)` when it is gone."""

    def __init__(
        self, on_made: Callable[["Side"], None] | None = None, on_lost: Callable[["Side"], None] | None = None
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: Side | None = None
        self._on_made = on_made
        self._on_lost = on_lost
        self._early: list[bytes] = []  # what arrived before the pause took effect
        self._ended = False

    def join(self, peer: "Side") -> None:
        """Lets bytes flow between this side and `peer`; both must be connected."""
        self.peer, peer.peer = peer, self
        for side in (self, peer):
            side._release()

    def _release(self) -> None:
        assert self.peer is not None
        early, self._early = self._early, []
        for data in early:
            self.peer.write(data)
        if self._ended:
            self._end_peer()
        self._resume_reading()

    @property
    def alive(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            with suppress(OSError, RuntimeError):  # the other end may be gone already: connection_lost follows
                self.transport.write_eof()

    def abort(self) -> None:
        """Resets the connection: what is not yet sent is lost, and the other end sees an error."""
        transport = self.transport
        if transport is None:
            return
        found = None if transport.is_closing() else transport.get_extra_info("socket")
        if found is not None:
            # Without this a close with nothing left to send looks like a polite end to the other side.
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        transport.abort()

    def close(self) -> None:
        """Ends the connection once what was written is sent."""
        if self.transport is not None:
            self.transport.close()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        found = transport.get_extra_info("socket")
        if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    found.setsockopt(socket.IPPROTO_TCP, option, value)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
            self.pause_reading()
        else:
            self.peer.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self.peer is not None:
            self._end_peer()
        return True  # the other direction stays open

    def _end_peer(self) -> None:
        assert self.peer is not None
        self.peer.write_eof()
        if self.peer._ended:
            self.close()
            self.peer.close()

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer._resume_reading()

    def pause_reading(self) -> None:
        with suppress(RuntimeError):
            if self.alive and self.transport is not None:
                self.transport.pause_reading()

    def _resume_reading(self) -> None:
        with suppress(RuntimeError):
            if self.alive and self.transport is not None:
                self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            if error is None and self._ended:
                peer.close()
            else:
                peer.abort()
        if self._on_lost is not None:
            self._on_lost(self)

"""The sockets: UDP and TCP in front of `core.responder`, and the wait for upstream behind it.

Over UDP a burst is read and answered in one turn of the loop, without a task or a transport. Queries for upstream wait
in a task each, at most `max_concurrent`, and few of one client; more are refused at once.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from raykube.base.clock import Clock
from raykube.dns.core.cache import Entry
from raykube.dns.core.clients import Clients
from raykube.dns.core.metrics import Metrics
from raykube.dns.core.responder import Ask, Responder
from raykube.dns.core.wire import REFUSED, read_query
from raykube.dns.forward import Forwarder
from raykube.rpc.listen import bind

log = logging.getLogger(__name__)

BURST = 64  # datagrams read in one turn, then others have theirs
QUERY_BYTES_MAX = 4096
RECEIVE_BUFFER_BYTES = 1 << 20
TCP_CONNECTIONS_MAX = 1000
TCP_IDLE_S = 10.0
TCP_PIPELINE_MAX = 100  # answers that one connection may wait for

Send = Callable[[bytes], None]


class Answers:
    """Answers queries, now or when upstream has said something."""

    def __init__(
        self,
        responder: Responder,
        forwarder: Forwarder,
        metrics: Metrics,
        clock: Clock,
        clients: Clients,
        *,
        concurrent_max: int,
        client_concurrent_max: int,
    ) -> None:
        self._responder = responder
        self._forwarder = forwarder
        self._metrics = metrics
        self._clock = clock
        self._clients = clients
        self._concurrent_max = concurrent_max
        self._client_concurrent_max = client_concurrent_max
        self._waiting: set[asyncio.Task[None]] = set()
        self._waiting_of: Counter[str] = Counter()  # by client

    def handle(self, data: bytes, client: str, tcp: bool, send: Send, done: Callable[[], None] | None = None) -> bool:
        """Answers `client` through `send`; returns whether that is still to come, and then calls `done` behind it."""
        started = self._clock.monotonic()
        query = read_query(data)
        if query is None:
            return False
        if not self._clients.allows(client):
            self._metrics.requests[tcp, query.type, False] += 1
            self._finish(self._responder.refuse(query, REFUSED), started, send)
            return False
        found = self._responder.answer(query, tcp=tcp)
        metrics = self._metrics
        if isinstance(found, bytes):
            metrics.requests[tcp, query.type, True] += 1
            metrics.responses[found[3] & 15, True] += 1
            send(found)
            metrics.local_s.observe(self._clock.monotonic() - started)
            return False
        metrics.requests[tcp, query.type, False] += 1
        entry = self._forwarder.cached(found.wanted)
        if entry is not None:
            metrics.cache_hits += 1
            self._finish(self._relay(found, entry, tcp), started, send)
            return False
        metrics.cache_misses += 1
        if self._is_full(client):
            metrics.rejected += 1
            self._finish(self._responder.refuse(query, REFUSED), started, send)
            return False
        task = asyncio.get_running_loop().create_task(self._wait(found, tcp, started, send))
        self._waiting.add(task)
        self._waiting_of[client] += 1
        task.add_done_callback(partial(self._waited, client))
        if done is not None:
            task.add_done_callback(lambda _: done())
        return True

    def _is_full(self, client: str) -> bool:
        if len(self._waiting) >= self._concurrent_max:
            return True
        return self._waiting_of.get(client, 0) >= self._client_concurrent_max and not Clients.may_be_many(client)

    def _waited(self, client: str, task: "asyncio.Task[None]") -> None:
        self._waiting.discard(task)
        self._waiting_of[client] -= 1
        if not self._waiting_of[client]:
            del self._waiting_of[client]

    async def _wait(self, ask: Ask, tcp: bool, started: float, send: Send) -> None:
        entry = await self._forwarder.resolve(ask.wanted)
        self._finish(self._relay(ask, entry, tcp), started, send)

    def _relay(self, ask: Ask, entry: Entry, tcp: bool) -> bytes:
        age_s = int(self._clock.monotonic() - entry.since)
        return self._responder.relay(ask, entry.message, entry.body, age_s, tcp=tcp)

    def _finish(self, answer: bytes, started: float, send: Send) -> None:
        self._metrics.responses[answer[3] & 15, False] += 1
        send(answer)
        self._metrics.forwarded_s.observe(self._clock.monotonic() - started)

    async def stop(self) -> None:
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


class UdpServer:
    """One address over UDP."""

    def __init__(self, answers: Answers, metrics: Metrics, found: socket.socket) -> None:
        self._answers = answers
        self._metrics = metrics
        self._socket = found
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # bursts wait here
        asyncio.get_running_loop().add_reader(found, self._on_readable)

    def _on_readable(self) -> None:
        receive, handle = self._socket.recvfrom, self._answers.handle
        for _ in range(BURST):
            try:
                data, client = receive(QUERY_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # what an earlier answer met: an ICMP error
                log.debug("receiving: %s", error)
                continue
            try:
                handle(data, client[0], False, partial(self._send, client))
            except Exception:
                # One client's query must not take the others' server with it.
                log.exception("cannot answer %s from %s", data.hex(), client[0])

    def _send(self, client: Any, data: bytes) -> None:
        try:
            self._socket.sendto(data, client)
        except OSError as error:
            self._metrics.dropped += 1
            log.debug("answering %s: %s", client[0], error)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()


class TcpConnection(asyncio.Protocol):
    """One client over TCP: messages with their length in front, answered in whatever order (RFC 7766)."""

    def __init__(self, server: "TcpServer") -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._pending = 0
        self._writable = True
        self._ended = False  # the client asks nothing more
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone already
            self.close()
            return
        self._client = peer[0]
        if not self._server.admit(self):
            self.close()
            return
        self._rest()

    def _rest(self) -> None:
        """Nobody may hold a connection without asking."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE_S, self.close)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def _take(self) -> None:
        """Answers the whole messages in the buffer, while the client takes answers."""
        position = 0
        buffer = self._buffer
        while self._transport is not None and self._writable and self._pending < TCP_PIPELINE_MAX:
            end = position + 2 + int.from_bytes(buffer[position : position + 2], "big")
            if len(buffer) < position + 2 or len(buffer) < end:
                break
            message = bytes(buffer[position + 2 : end])
            position = end
            self._rest()
            try:
                self._pending += 1
                if not self._server.answers.handle(message, self._client, True, self._send, self._answered):
                    self._pending -= 1
            except Exception:
                log.exception("cannot answer %s", message.hex())
                self.close()
        del buffer[:position]
        if self._ended and self._writable and not self._pending and self._transport is not None:
            self._transport.close()
        if self._transport is not None and not self._transport.is_closing():
            # What is not taken stays in the kernel, and so with the client.
            if not self._writable or self._pending >= TCP_PIPELINE_MAX:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(data).to_bytes(2, "big") + data)

    def _answered(self) -> None:
        """A query that waited for upstream has its answer."""
        self._pending -= 1
        self._take()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._take()

    def eof_received(self) -> bool:
        self._ended = True
        self._take()
        return True  # what is asked is answered first

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        self._server.lost(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class TcpServer:
    """One address over TCP."""

    def __init__(self, answers: Answers, metrics: Metrics) -> None:
        self.answers = answers
        self._metrics = metrics
        self._connections: set[TcpConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, found: socket.socket) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: TcpConnection(self), sock=found)

    def admit(self, connection: TcpConnection) -> bool:
        """Whether there is room; else the new connection ends."""
        if len(self._connections) >= TCP_CONNECTIONS_MAX:
            return False
        self._connections.add(connection)
        self._metrics.tcp_connections += 1
        return True

    def lost(self, connection: TcpConnection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._metrics.tcp_connections -= 1

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()


class Listeners:
    """UDP and TCP on all addresses of this server, on one port."""

    def __init__(self, answers: Answers, metrics: Metrics) -> None:
        self._answers = answers
        self._metrics = metrics
        self._udp: list[UdpServer] = []
        self._tcp: list[TcpServer] = []
        self._bound: list[tuple[socket.socket, socket.socket]] = []
        self.port = 0

    def bind(self, hosts: list[str], port: int) -> None:
        """Binds, so that the port is known; with port 0, one that is free for both. Raises OSError."""
        self.port = port
        try:
            for host in hosts:
                tcp = bind(host, self.port)
                self.port = tcp.getsockname()[1]
                try:
                    self._bound.append((bind(host, self.port, socket.SOCK_DGRAM), tcp))
                except OSError:
                    tcp.close()
                    raise
        except OSError:
            self._unbind()
            raise

    async def start(self) -> None:
        """Answers from now on."""
        for udp, tcp in self._bound:
            server = TcpServer(self._answers, self._metrics)
            await server.start(tcp)
            self._tcp.append(server)
            self._udp.append(UdpServer(self._answers, self._metrics, udp))
        self._bound = []

    def _unbind(self) -> None:
        for pair in self._bound:
            for found in pair:
                found.close()
        self._bound = []

    async def stop(self) -> None:
        self._unbind()
        for udp in self._udp:
            udp.close()
        for tcp in self._tcp:
            await tcp.stop()
        self._udp, self._tcp = [], []

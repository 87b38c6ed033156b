"""The server side: services on a TCP address (mutual TLS) or on a unix socket."""

import asyncio
import errno
import socket
import ssl
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from raykube.rpc.core.limits import Limits
from raykube.rpc.entrance import Entrance
from raykube.rpc.handlers import Call, Served, served_by
from raykube.rpc.listen import BACKLOG, bind, split_address
from raykube.rpc.serving import ServedConnection
from raykube.rpc.tls import Tls, server_context
from raykube.rpc.turn import Turn

__all__ = ["Call", "Server"]

HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0  # for what was written to be sent, at the end


class Server:
    """A gRPC server. Add services, then `start`.

    A handler method is `async def Name(self, request, call) -> response` or, for a streamed answer, an async
    generator of responses; `request` is an async iterator of messages where the client streams. A plain function may
    return the response of a unary answer, or a `Pending` of it, and costs less; so does a `Receiver` for the messages
    of a client that streams. With `users`, only clients whose certificate names one of them are answered; others get
    PERMISSION_DENIED.

    A client that is silent for `keepalive_s` is asked for a sign of life, and dropped when it gives none for
    `keepalive_timeout_s`. Certificates are read anew when their files change. `http` makes the protocol for a client
    that speaks plain HTTP; without it such clients are refused.
    """

    def __init__(
        self,
        users: Iterable[str] = (),
        limits: Limits | None = None,
        keepalive_s: float = 10.0,
        keepalive_timeout_s: float = 5.0,
        http: Callable[[], asyncio.Protocol] | None = None,
    ) -> None:
        self._users = frozenset(users)
        self._limits = limits or Limits()
        self._keepalive_s = keepalive_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._methods: dict[str, Served] = {}
        self._listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._paths: dict[Path, int] = {}  # of our unix sockets, with their inodes
        self._servers: list[asyncio.Server] = []
        self._connections: set[ServedConnection] = set()
        self._is_stopping = False
        self._http = http
        self._entering: set[Entrance] = set()
        self._none_left = asyncio.Event()
        self._stopped = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._turn: Turn | None = None

    def add(self, service: ServiceDescriptor, handler: object) -> None:
        """Serves `service` by `handler`; methods it lacks answer UNIMPLEMENTED."""
        self._methods |= {served.method.path: served for served in served_by(service, handler)}

    def listen(self, address: str, tls: Tls | None = None, *, dual: bool = False) -> int:
        """Binds `host:port` (port 0: any; `dual`: see `bind`) or `unix:/path`; returns the port, 0 for a path.

        With `tls`, clients must show a certificate of its CA. Raises OSError when the address is taken or no address,
        ValueError when the certificates cannot be read; both with a line for the user.
        """
        context: ssl.SSLContext | None = None
        if tls is not None:
            context = server_context(tls)
            # Ours counts: who offers both wants a page. Clients of gRPC offer h2 alone.
            context.set_alpn_protocols(["h2"] if self._http is None else ["http/1.1", "h2"])
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            self._listeners.append((_bind_path(path), context))
            self._paths[path] = path.lstat().st_ino
            return 0
        listener = _bind(address, dual)
        self._listeners.append((listener, context))
        return int(listener.getsockname()[1])

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._turn = Turn()
        for listener, context in self._listeners:
            timeout_s = HANDSHAKE_TIMEOUT_S if context is not None else None
            make = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            server = await make(
                self._entrance, sock=listener, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=timeout_s
            )
            self._servers.append(server)
        self._watcher = asyncio.create_task(self._watch())

    def _entrance(self) -> asyncio.Protocol:
        if self._http is None:
            return self._connection()
        return Entrance(self._connection, self._http, self._entering, lambda: self._is_stopping)

    def _connection(self) -> ServedConnection:
        assert self._turn is not None
        # Nobody's yet: the event loop says nothing to a protocol whose TLS handshake fails, not even that it is over.
        return ServedConnection(self._methods, self._users, self._limits, self._made, self._lost, self._turn)

    def flush(self) -> None:
        """Writes what answers there are now, not at the end of this turn: who answers many knows when that was all."""
        if self._turn is not None:
            self._turn.flush()

    def _made(self, connection: ServedConnection) -> None:
        self._connections.add(connection)
        if self._is_stopping:  # its handshake was under way
            connection.abort()

    def _lost(self, connection: ServedConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    async def _watch(self) -> None:
        """Finds clients that vanished without a word."""
        loop = asyncio.get_running_loop()
        pause_s = min(self._keepalive_s, self._keepalive_timeout_s) / 4
        now_s = loop.time()
        while True:
            due_s = now_s + pause_s
            await asyncio.sleep(pause_s)
            now_s = loop.time()
            if now_s - due_s > self._keepalive_timeout_s / 2:
                continue  # this process stood still: clients may not have been asked yet, or their answers lie unread
            self._check(now_s)

    def _check(self, now_s: float) -> None:
        for connection in list(self._connections):
            connection.check(now_s, self._keepalive_s, self._keepalive_timeout_s)

    async def stop(self, grace_s: float = 0.5) -> None:
        """Stops accepting, lets running calls end for `grace_s` seconds, then cancels them."""
        self._is_stopping = True
        for path, inode in self._paths.items():
            with suppress(OSError):
                if path.lstat().st_ino == inode:  # else another server's by now
                    path.unlink()
        for server in self._servers:
            server.close()
        for listener, _ in self._listeners:
            listener.close()
        for kept in (self._paths, self._servers, self._listeners):
            kept.clear()
        for entering in list(self._entering):
            entering.abort()
        for connection in list(self._connections):
            connection.go_away()
        if grace_s:
            await self._all_gone(grace_s)
        tasks = [task for connection in list(self._connections) for task in connection.end_calls()]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        await self._all_gone(CLOSE_TIMEOUT_S)
        for connection in list(self._connections):
            connection.abort()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        self._stopped.set()

    async def _all_gone(self, timeout_s: float) -> None:
        """Waits until no connection is left, or so long."""
        self._none_left.clear()
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._none_left.wait()

    async def wait(self) -> None:
        """Returns when the server was stopped."""
        await self._stopped.wait()


def _bind(address: str, dual: bool) -> socket.socket:
    try:
        host, port = split_address(address)
        return bind("127.0.0.1" if host == "localhost" else host, port, dual=dual)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"cannot listen on {address}: {error}") from None


def _bind_path(path: Path) -> socket.socket:
    """A listening unix socket; one that a dead server left at `path` is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                if _answers(path):
                    raise OSError(errno.EADDRINUSE, "another process serves it")
                path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on unix:{path}: {error.strerror or error}") from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0

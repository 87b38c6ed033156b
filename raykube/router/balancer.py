"""One balanced port: its listeners, its backends and their checks, and the connections between the two."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

from raykube.base.backoff import Backoff
from raykube.router.check import ConnectCheck, ReadyCheck
from raykube.router.core.pool import Backend, Health, Pool
from raykube.rpc.listen import bind, join_address, split_address
from raykube.rpc.pipe import Side

log = logging.getLogger(__name__)

Check = ReadyCheck | ConnectCheck
RECHECK = Backoff(initial_s=0.1, max_s=2.0)
STALLED_CHECKS = 2  # time-outs in a row after which a backend's connections are reset: its host is gone


class Balancer:
    """Listens on `hosts` x `port` and pipes each connection to the backend that the pool picks."""

    def __init__(
        self,
        name: str,
        make_check: Callable[[str], Check],
        *,
        interval_s: float,
        connect_timeout_s: float,
    ) -> None:
        self.name = name
        self.pool = Pool()
        self.addresses: list[str] = []
        self._make_check = make_check
        self._interval_s = interval_s
        self._connect_timeout_s = connect_timeout_s
        self._servers: list[asyncio.Server] = []
        self._clients: dict[Side, str] = {}  # inbound side → backend address, "" while connecting
        self._tasks: set[asyncio.Task[None]] = set()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._suspected: dict[str, asyncio.Event] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    # Members

    def set_members(self, addresses: Iterable[str]) -> None:
        """The backends from now on."""
        added, removed = self.pool.set_members(addresses)
        for address in removed:
            self._checks.pop(address).cancel()
            self._suspected.pop(address, None)
        for address in added:
            self._suspected[address] = asyncio.Event()
            self._checks[address] = asyncio.get_running_loop().create_task(self._watch(address))
        if added or removed:
            log.info("%s backends: %s", self.name, ", ".join(self.pool.addresses) or "none")

    async def _watch(self, address: str) -> None:
        """Checks one backend until it is no member any more."""
        check = self._make_check(address)
        suspected = self._suspected[address]
        failures = stalled = 0
        try:
            while True:
                suspected.clear()
                health, detail = await check()
                if self.pool.on_check(address, health, detail):
                    log.info("%s backend %s is %s %s", self.name, address, health.name.lower(), detail)
                failures = failures + 1 if health is Health.DOWN else 0
                stalled = stalled + 1 if health is Health.DOWN and detail == "no answer in time" else 0
                if stalled == STALLED_CHECKS:
                    self._reset(address)
                pause_s = RECHECK.delay_s(failures) if failures else self._interval_s
                await self._pause(check, suspected, pause_s)
        finally:
            check.close()

    @staticmethod
    async def _pause(check: Check, suspected: asyncio.Event, pause_s: float) -> None:
        """Waits, but not longer than nothing happens: a kept connection that breaks is news."""
        waits = {asyncio.ensure_future(check.broken()), asyncio.ensure_future(suspected.wait())}
        try:
            await asyncio.wait(waits, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _reset(self, address: str) -> None:
        sides = [side for side, backend in self._clients.items() if backend == address]
        if sides:
            log.warning("%s: %d connections to %s reset: it is gone", self.name, len(sides), address)
        for side in sides:
            if side.peer is not None:
                side.peer.abort()
            side.abort()

    # Connections

    async def listen(self, hosts: list[str], port: int, *, shared: bool) -> None:
        """Starts to accept. Raises OSError with a line for the user; then nothing is left listening."""
        sockets: list[socket.socket] = []
        try:
            for host in hosts:
                sockets.append(bind(host, port, shared=shared))  # noqa: PERF401  # those made must be closed on error
        except OSError:
            for found in sockets:
                found.close()
            raise
        loop = asyncio.get_running_loop()
        for found in sockets:
            self._servers.append(await loop.create_server(lambda: Side(self._accept, self._lost), sock=found))
            self.addresses.append(join_address(*found.getsockname()[:2]))

    def _accept(self, client: Side) -> None:
        self._clients[client] = ""
        self._empty.clear()
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, client: Side) -> None:
        self._clients.pop(client, None)
        if not self._clients:
            self._empty.set()

    async def _serve(self, client: Side) -> None:
        """Finds a backend for a client; nothing of the client's has been sent, so any may be tried."""
        tried: list[str] = []
        while client.alive and (backend := self.pool.pick(tried)) is not None:
            tried.append(backend.address)
            server = await self._connect(backend)
            if server is None:
                self.pool.on_check(backend.address, Health.DOWN, "connection refused")
                if backend.address in self._suspected:
                    self._suspected[backend.address].set()
                continue
            if not client.alive or not server.alive:
                server.abort()
                continue
            self._clients[client] = backend.address
            client.join(server)
            return
        if client.alive:
            log.warning("%s: no apiserver for a connection; tried %s", self.name, ", ".join(tried) or "none")
        client.abort()

    async def _connect(self, backend: Backend) -> Side | None:
        """A connection to a backend, counted as one of its from the attempt on; None when it does not come about."""
        counted = True
        backend.connections += 1

        def release(_side: Side | None = None) -> None:
            nonlocal counted
            if counted:
                counted = False
                backend.connections -= 1

        host, port = split_address(backend.address)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, side = await asyncio.get_running_loop().create_connection(lambda: Side(None, release), host, port)
        except OSError:  # TimeoutError is one
            release()
            return None
        except asyncio.CancelledError:
            release()
            raise
        return side

    # The end

    async def stop(self, drain_s: float) -> None:
        """Stops accepting, lets connections end for `drain_s` seconds, resets the rest."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._clients and drain_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._empty.wait()
        for task in [*self._tasks, *self._checks.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._checks.values(), return_exceptions=True)
        self._checks.clear()
        for side in list(self._clients):
            if side.peer is not None:
                side.peer.abort()
            side.abort()
        await asyncio.sleep(0)  # the loop closes aborted connections in its next turn

    def view(self) -> list[dict[str, object]]:
        """The backends as this router sees them."""
        return [
            {
                "address": backend.address,
                "health": backend.health.name.lower(),
                "connections": backend.connections,
                "detail": backend.detail,
            }
            for backend in self.pool
        ]

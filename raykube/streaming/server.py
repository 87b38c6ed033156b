"""A runtime's streaming server: exec, attach and port-forward over SPDY/3.1, for whoever holds a ticket.

It listens on loopback, in clear text: the kubelet beside it is its only client, and the tokens in its addresses are
secret, good once and for a minute.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from aiohttp import web

from raykube.streaming import wire
from raykube.streaming.core import channels, pairs
from raykube.streaming.core.tickets import Tickets
from raykube.streaming.link import Link

log = logging.getLogger(__name__)

T = TypeVar("T")


class StreamingServer(Generic[T]):
    """`serve(request, link)` is a session, for the request that its ticket was given out for."""

    def __init__(self, serve: Callable[[T, Link], Awaitable[None]]) -> None:
        self._serve_session = serve
        self._tickets: Tickets[T] = Tickets()
        self._runner: web.ServerRunner | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self, address: str) -> None:
        """Raises OSError when the address is taken, ValueError for one that is none."""
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"--streaming-bind-addr must be HOST:PORT, not {address!r}")
        host = host.strip("[]")
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, int(port)).start()
        bound = self._runner.addresses[0]
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Ends all sessions, and the commands that they run."""
        for session in list(self._sessions):
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, kind: str, request: T) -> str:
        """Where a client finds the stream that it asked for; `kind`: exec, attach, portforward. Raises TooMany."""
        token = secrets.token_urlsafe(16)
        self._tickets.issue(token, request, time.monotonic())
        return f"http://{self.address}/{kind}/{token}"

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "spdy/3.1":
            return web.Response(status=400, text="unable to upgrade: missing upgrade headers in request")
        _, _, rest = request.path.partition("/")
        kind, _, token = rest.partition("/")
        found = self._tickets.redeem(token, time.monotonic())
        if found is None:
            return web.Response(status=404, text="404 page not found")
        served = [pairs.PROTOCOL] if kind == "portforward" else [channels.V4]
        offers = request.headers.getall("X-Stream-Protocol-Version", [])
        offered = [name.strip() for text in offers for name in text.split(",")]
        protocol = channels.negotiate(offered, served)
        if not protocol:
            message = f"unable to negotiate protocol: client supports {offered}, server accepts {served}"
            return web.Response(status=403, text=message)
        link = Link(wire.take_over(request, wire.switching(protocol)), server=True)
        session = asyncio.ensure_future(self._session(link, found))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        try:
            await asyncio.shield(session)
        except asyncio.CancelledError:
            session.cancel()
            raise
        return wire.Takeover()

    async def _session(self, link: Link, request: T) -> None:
        reading = asyncio.ensure_future(link.run())
        try:
            await self._serve_session(request, link)
            await link.finish()
        except OSError as error:
            log.debug("a stream ended: %s", error)
        finally:
            link.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

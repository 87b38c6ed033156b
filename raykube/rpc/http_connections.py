"""The connections of an aiohttp server: few, and none that is idle for ever.

Anybody may connect, and to aiohttp a connection that says nothing may stay. They would use up the files of a process
that needs them to store what it is told.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

IDLE_S = 60.0  # without a request under way
BUSY_S = 120.0  # with one
CONNECTIONS_MAX = 1000
CHECK_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage)))


def runner(app: web.Application, *, cancels: bool = False) -> web.AppRunner:
    """A runner that closes idle connections, and does not let strangers write its log. `cancels`: handlers whose client
    is gone."""
    return web.AppRunner(
        app,
        access_log=None,
        logger=log,
        shutdown_timeout=0.5,
        keepalive_timeout=IDLE_S,
        handler_cancellation=cancels,
    )


class Connections:
    """`mark` goes into the application's middlewares, `keep_few` runs beside it.

    `busy_s`: how long a request may take; None where an answer may be a stream without an end.
    """

    def __init__(self, busy_s: float | None = BUSY_S) -> None:
        self._busy_s = busy_s
        self._busy: set[object] = set()
        self._used: dict[object, float] = {}  # since the last look: when a request ended

    @web.middleware
    async def mark(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(request.protocol)
            self._used[request.protocol] = asyncio.get_running_loop().time()

    async def keep_few(self, server: web.Server) -> None:
        """Closes connections that are idle or busy for too long, and those that are too many: the idle ones first."""
        loop = asyncio.get_running_loop()
        since: dict[web.RequestHandler, tuple[bool, float]] = {}  # whether it is busy, and since when
        while True:
            await asyncio.sleep(CHECK_S)
            now_s = loop.time()
            seen, since = since, {}
            used, self._used = self._used, {}
            for each in server.connections:
                state = each in self._busy, used.get(each, now_s)
                known = seen.get(each)
                since[each] = state if known is None or known[0] is not state[0] or each in used else known
            excess = len(since) - CONNECTIONS_MAX
            for number, (each, (is_busy, since_s)) in enumerate(sorted(since.items(), key=lambda item: item[1])):
                allowed_s = self._busy_s if is_busy else IDLE_S
                if number < excess or (allowed_s is not None and now_s - since_s > allowed_s):
                    each.force_close()

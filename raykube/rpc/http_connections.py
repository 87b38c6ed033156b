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
BUSY_S = 600.0  # with one, unless its answer is a stream: that its client does not read what it asked for
CONNECTIONS_MAX = 1000
CHECK_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)
_OF_STRANGERS = (BadHttpMessage, web.RequestPayloadError)
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], _OF_STRANGERS)))


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
    """`mark` goes into the application's middlewares, as the first one; `keep_few` runs beside it."""

    def __init__(self) -> None:
        self._busy: set[object] = set()
        self._lasting: set[object] = set()  # those of `lasts`
        self._used: dict[object, float] = {}  # since the last look: when a request ended

    @web.middleware
    async def mark(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            response = await handler(request)
            if isinstance(response, web.Response):
                # Here, not behind this: it is under way until its client has it.
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self._busy.discard(request.protocol)
            self._lasting.discard(request.protocol)
            self._used[request.protocol] = asyncio.get_running_loop().time()

    def lasts(self, request: web.Request) -> None:
        """The answer to this request, which is under way, may be without an end."""
        self._lasting.add(request.protocol)

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
                if number < excess or (each not in self._lasting and now_s - since_s > (BUSY_S if is_busy else IDLE_S)):
                    each.force_close()

"""Two upgraded connections, each copied into the other, until one ends or both are idle for too long."""

import asyncio

from raykube.streaming.wire import Wire

IDLE_S = 4 * 60 * 60.0  # upstream's --streaming-connection-idle-timeout


class Idle:
    """Knows when something last went through."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._last = asyncio.get_running_loop().time()

    def touch(self) -> None:
        self._last = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Returns after `limit_s` seconds without a touch; never when there is no limit."""
        if not self._limit_s:
            await asyncio.Event().wait()
            return
        while True:
            left = self._last + self._limit_s - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(left)


async def first(*works: "asyncio.Task[None]") -> None:
    """Waits for the first of them, cancels the rest; a lost connection is an end like another."""
    try:
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for work in works:
            work.cancel()
        for result in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result


async def splice(client: Wire, server: Wire, idle_s: float | None = None) -> None:
    """Returns when it is over; both are closed then.

    What the server said last reaches the client; who has left needs nothing more, and the server hears of it at once.
    """
    idle = Idle(idle_s)

    async def copy(source: Wire, sink: Wire) -> None:
        while data := await source.read():
            idle.touch()
            await sink.write(data, source.hung_up)

    spawn = asyncio.get_running_loop().create_task
    answers = spawn(copy(server, client))
    try:
        await first(answers, spawn(copy(client, server)), spawn(idle.watch()))
        if not answers.cancelled() and answers.exception() is None:
            await client.finish()
    finally:
        client.close()
        server.close()

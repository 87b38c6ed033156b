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

    async def down() -> None:
        while data := await server.read():
            idle.touch()
            await client.write(data, server.hung_up)

    async def up() -> None:
        listens = True
        while data := await client.read():
            idle.touch()
            if listens:
                try:
                    await server.write(data, client.hung_up)
                except ConnectionError:
                    if client.hung_up():
                        return
                    listens = False  # what it said before that is still on its way down

    spawn = asyncio.get_running_loop().create_task
    answers = spawn(down())
    try:
        await first(answers, spawn(up()), spawn(idle.watch()))
        if not answers.cancelled() and answers.exception() is None:
            await client.finish()
    finally:
        client.close()
        server.close()

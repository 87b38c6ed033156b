"""Long work in pieces, of which one runs in a turn of the event loop, whoever's it is.

With `asyncio.sleep(0)` between its pieces, each piece of long work would wait for the next turn alone: of twenty bulk
writes all would run a piece in it, and a short request behind them wait for twenty pieces each time that it waits for
anything.
"""

import asyncio
from collections import deque


class Turns:
    """The line of pieces; first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._gives = False  # a call of `_give` is on its way

    async def next(self) -> None:
        """Returns when a piece may run, in a later turn of the loop."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._gives:
            self._gives = True
            loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # whoever waited may have been cancelled
                turn.set_result(None)
                break
        self._gives = bool(self._waiting)
        if self._gives:
            asyncio.get_running_loop().call_soon(self._give)

"""Looks at places of the machine that may not answer, as a network's file system whose server is gone.

A system call on such a place cannot be interrupted. Each look has a thread of its own, so that one that hangs takes no
thread from anybody, and while it hangs no other look at the same place is begun.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from raykube.kubelet.volumes.failure import VolumeFailed

TIMEOUT_S = 10.0

T = TypeVar("T")


class Places:
    def __init__(self) -> None:
        self._hanging: dict[str, int] = {}  # looks that did not end in time

    async def look(self, place: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises VolumeFailed when it does not end in time, or an earlier one hangs."""
        refused = VolumeFailed(f"{place} does not answer")
        if place in self._hanging:
            raise refused
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        late = False

        def end(result: T | None, error: Exception | None) -> None:
            if late:
                self._hanging[place] -= 1
                if not self._hanging[place]:
                    del self._hanging[place]
            elif done.done():
                pass
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(end, result, error)

        threading.Thread(target=run, name=f"look at {place}", daemon=True).start()
        try:
            return await asyncio.wait_for(done, TIMEOUT_S)
        except TimeoutError:
            if not done.cancelled():
                raise  # the work's own
            late = True
            self._hanging[place] = self._hanging.get(place, 0) + 1
            raise refused from None

"""The thread that waits for the disk, so that the event loop does not: one job after the other.

Bare on purpose: a pool's futures and conditions cost a dozen system calls a job, which a lone writer waits for.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
Then = Callable[[Any, BaseException | None], None]


class DiskThread:
    """Belongs to the running event loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Then] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Result], then: Callable[[Result, BaseException | None], None]) -> None:
        """Runs `job` in the thread, then `then(result, error)` in the event loop; without a result it gets None."""
        self._jobs.put((job, then))

    async def run(self, job: Callable[[], Result]) -> Result:
        """Runs `job` in the thread; returns what it returns, raises what it raises."""
        done: asyncio.Future[Result] = self._loop.create_future()

        def then(result: Result, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        self.submit(job, then)
        return await done

    async def close(self) -> None:
        """Returns when all jobs are done and the event loop knows of it."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, then = job
            result, error = None, None
            try:
                result = work()
            except BaseException as caught:
                error = caught
            self._loop.call_soon_threadsafe(then, result, error)
            del work, then, result, error, job  # nothing is held while the thread waits

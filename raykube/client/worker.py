"""The shell around a work queue: N workers that call a reconcile function, one key at a time each.

`reconcile(key)` returns None, or seconds after which the key is wanted again. An exception is contained: it is logged
and the key comes back after its back-off; success forgets the back-off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from raykube.api.errors import ApiError
from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.client.core.workqueue import WorkQueue
from raykube.rpc.clock import SystemClock

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
Reconcile = Callable[[K], Awaitable[float | None]]


class Worker(Generic[K]):
    """Runs `reconcile` for every key added, with at most `workers` at a time and never two for one key."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile[K],
        queue: WorkQueue[K] | None = None,
        workers: int = 5,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.queue: WorkQueue[K] = queue if queue is not None else WorkQueue(backoff)
        self.retries = 0
        self._reconcile = reconcile
        self._workers = workers
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()

    def add(self, key: K) -> None:
        self.queue.add(key)
        self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        self.queue.add_after(key, delay_s, self._clock.monotonic())
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Nothing ready and nothing in work; delayed keys may wait."""
        return not len(self.queue) and not self.queue.processing

    async def run(self) -> None:
        """Works until cancelled; reconciles in flight are cancelled with it."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._wake.clear()
                while len(running) < self._workers:
                    key = self.queue.get(self._clock.monotonic())
                    if key is None:
                        break
                    task = asyncio.create_task(self._work(key), name=f"{self.name} {key}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                    task.add_done_callback(lambda _task: self._wake.set())  # after the slot is free
                await self._sleep(full=len(running) >= self._workers)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _sleep(self, full: bool) -> None:
        """Until a key is added or a worker ends, or the next delayed key is due (unless all workers are busy)."""
        due = None if full else self.queue.next_ready_at()
        if due is None:
            await self._wake.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                await self._wake.wait()

    async def _work(self, key: K) -> None:
        try:
            again_s = await self._reconcile(key)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.retries += 1
            delay_s = self.queue.add_rate_limited(key, self._clock.monotonic())
            # Conflicts are the normal outcome of two writers and say nothing about the code.
            expected = isinstance(error, ApiError) and error.code in (404, 409, 429, 503, 504)
            log.log(
                logging.DEBUG if expected else logging.WARNING,
                "%s: %s failed, again in %.3f s: %s",
                self.name,
                key,
                delay_s,
                error,
                exc_info=not isinstance(error, ApiError),
            )
        else:
            self.queue.forget(key)
            if again_s is not None:
                self.queue.add_after(key, again_s, self._clock.monotonic())
        finally:
            self.queue.done(key)

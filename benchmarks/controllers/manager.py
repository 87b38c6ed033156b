"""All controllers on a `World`, timed: CPU seconds by name."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.controllers.world import World
from raykube.base.clock import FakeClock
from raykube.client.events import EventRecorder
from raykube.controllers import runner as runners
from raykube.controllers.caches import Caches
from raykube.controllers.catalog import assemble
from raykube.controllers.config import Config

IDLE_TURNS = 30  # of the event loop without any write: the controllers have nothing left to do
STEP_S = 0.05  # of the cluster's time for each step


class Meter:
    """CPU seconds by name, of code that runs on the one thread; what runs inside another name is not that one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.process_time()

    def _mark(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1] if self._open else "event loop, queues"] += now - self._since
        self._since = now

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._mark()
            self._open.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._mark()
                self._open.pop()

        return timed

    def reset(self) -> None:
        self._mark()
        self.seconds.clear()

    def read(self) -> dict[str, float]:
        self._mark()
        return dict(self.seconds)


class Manager:
    """All controllers on a World, timed."""

    def __init__(self, world: World, clock: FakeClock, meter: Meter) -> None:
        self.world, self.clock, self.meter = world, clock, meter
        self.runners: list[runners.Runner] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._is_busy = meter.wrap("(idle)", self._is_busy)  # type: ignore[method-assign]

    async def start(self) -> None:
        client: Any = self.world
        caches = Caches(client)
        for part in assemble(Config(api_servers=["127.0.0.1:1"], node_monitor_grace_period=1e6), caches.resources):
            caches.require(part.controller.resources)
            recorder = EventRecorder(client, part.component)
            recorder.record = self.meter.wrap("events", recorder.record)  # type: ignore[method-assign]
            each = runners.Runner(part.controller, caches, client, recorder, self.clock, batch=part.batch)
            name = part.controller.name.removesuffix("-controller")
            part.controller.reconcile = self.meter.wrap(name, part.controller.reconcile)  # type: ignore[method-assign]
            caches.add_listener(self.meter.wrap(name, each.on_changes), part.controller.resources, each.looks_at)
            self.runners.append(each)
            self.tasks += [asyncio.create_task(each.run()), asyncio.create_task(recorder.run())]
        self.tasks += [asyncio.create_task(each) for each in caches.runs()]
        await self.idle()

    async def idle(self) -> None:
        """Returns when the controllers have done what there is to do at this time of the clock."""
        quiet, seen = 0, -1
        for each in self.runners:
            each._wake.set()  # the clock has moved: what is due now is looked for
        while quiet < IDLE_TURNS:
            await asyncio.sleep(0)
            quiet = 0 if self._is_busy(seen) else quiet + 1
            seen = self.world.revision

    def _is_busy(self, seen: int) -> bool:
        return self.world.revision != seen or any(each.depth for each in self.runners)

    async def step(self, *moves: Callable[[], Any]) -> None:
        for move in moves:
            move()
            self.world.flush()
        self.clock.advance(STEP_S)
        await self.idle()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

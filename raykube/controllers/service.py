"""The controller-manager as a service: shared caches, a runner for each controller, one leader.

Only the leader's controllers act. A standby keeps its caches, and what controllers learn from them, current: when it
takes the lease it queues everything once and goes on from what is stored. Who lost the lease for a moment, to nobody,
goes on where it was: it was too busy to renew it, and to look at everything is the last thing that it needs.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from raykube.base.clock import Clock
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.client.leader import LeaderElector
from raykube.controllers.caches import Caches
from raykube.controllers.catalog import assemble
from raykube.controllers.config import Config
from raykube.controllers.metrics import render
from raykube.controllers.runner import Runner
from raykube.rpc.clock import SystemClock
from raykube.rpc.health import HealthServer
from raykube.rpc.listen import join_address

log = logging.getLogger(__name__)


class Service:
    """One controller-manager."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._client: ApiClient | None = None
        self._caches: Caches | None = None
        self._elector: LeaderElector | None = None
        self._health: HealthServer | None = None
        self._runners: list[Runner] = []
        self._tasks: list[asyncio.Task[None]] = []  # as long as the service lives
        self._working: list[asyncio.Task[None]] = []  # as long as it leads
        self._leading = False
        self._term = ""  # of the lease, when this one led last
        self._fatal: asyncio.Event = asyncio.Event()
        self._port = 0

    async def start(self) -> None:
        """Serves health, follows the apiservers and campaigns; they need not be up yet."""
        config = self._config
        self._health = HealthServer(self._problem, self._metrics, config.tls)
        self._port = await self._health.start(config.bind_address, config.secure_port)
        try:
            client = self._client = ApiClient(config.api_servers, config.tls)
            caches = self._caches = Caches(client)
            assembled = assemble(config, caches.resources)
        except (OSError, ValueError):
            await self.stop()
            raise
        recorders = {part.controller.name: EventRecorder(client, part.component) for part in assembled}
        for part in assembled:
            caches.require(part.controller.resources)
            runner = Runner(
                part.controller, caches, client, recorders[part.controller.name], self._clock, batch=part.batch
            )
            caches.add_listener(runner.on_changes, part.controller.resources, runner.looks_at)
            self._runners.append(runner)
        work = [*caches.runs(), *(each.run() for each in recorders.values())]
        if config.leader_elect:
            self._elector = LeaderElector.of(config, client, self._lead, self._stand_by)
            work.append(self._elector.run())
        self._tasks = [self._spawn(each) for each in work]
        if not config.leader_elect:
            self._lead()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._fatal.set()

    async def wait(self) -> None:
        """Raises what ended one of the tasks, which is a fault in the program."""
        await self._fatal.wait()
        for task in [*self._tasks, *self._working]:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        """Gives the lease up, so that a standby takes over at once."""
        self._stand_by()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._working, return_exceptions=True)
        self._tasks = []
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._health is not None:
            await self._health.stop()
            self._health = None

    def _lead(self) -> None:
        if self._leading:
            return
        self._leading = True
        log.info("leading: %s", ", ".join(runner.name for runner in self._runners))
        term = self._elector.term if self._elector is not None else ""
        is_new = not term or term != self._term
        self._term = term
        self._working = [self._spawn(runner.run(anew=is_new)) for runner in self._runners]

    def _stand_by(self) -> None:
        if self._leading:
            log.info("standing by")
        self._leading = False
        for task in self._working:
            task.cancel()

    def status(self) -> dict[str, object]:
        """What `raykube status` shows."""
        problem = self._problem()
        role = "active" if self._elector is None else "leader" if self._leading else "standby"
        holder = "" if self._elector is None or self._leading else f"; the leader is {self._elector.holder or 'nobody'}"
        waiting = sum(runner.depth for runner in self._runners) if self._leading else 0
        return {
            "role": role,
            "healthy": problem is None,
            "detail": problem or f"{len(self._runners)} controllers, {waiting} keys waiting{holder}",
            "addresses": {"health": join_address(self._config.bind_address, self._port)},
        }

    def _problem(self) -> str | None:
        if self._fatal.is_set():
            return "a task of the controller-manager ended"
        if self._caches is None:
            return "not started"
        unsynced = self._caches.unsynced
        return f"waiting for the apiservers: {', '.join(unsynced[:3])} not read yet" if unsynced else None

    def _metrics(self) -> str:
        return render(self._runners, self._leading, self._config.leader_elect_resource_name)

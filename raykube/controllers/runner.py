"""Runs one controller: its queue, its rounds of reconciles and bulk writes, its retries.

    change ──observe──► queue ──up to `batch` keys──► reconcile each ──► all their writes in one bulk request
                          ▲                                                │
                          └── failed: back-off ── landed: when the caches have seen the revisions written

A key whose writes have landed is held until the caches show them. So no decision is made on a state that lacks one's
own writes, and nothing is created twice, also not by who stops leading and leads again. A key whose reconcile was long
for what it had to write **rests** before the next one, REST times as long: what changes meanwhile is taken in together,
and no object takes all of the process. An exception in `observe` or `reconcile` costs that key its turn and nothing
else.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from raykube.api.errors import ApiError
from raykube.base.backoff import Backoff
from raykube.base.clock import Clock
from raykube.client.api import ApiClient
from raykube.client.core import listwatch
from raykube.client.core.listwatch import Change
from raykube.client.core.workqueue import WorkQueue
from raykube.client.events import EventRecorder
from raykube.client.failures import error_of_body
from raykube.controllers.caches import Caches, RunView
from raykube.controllers.core.aspects import ALL
from raykube.controllers.core.plan import Controller, Event, Obj, Plan, Read, Selective, Write
from raykube.controllers.writes import operation_of
from raykube.pb import api_pb2

log = logging.getLogger(__name__)

RETRY = Backoff(initial_s=0.005, max_s=120.0)
OPERATIONS_MAX = 1000  # of one bulk request
SLICE_S = 0.010  # reconciling without giving the event loop a turn
STANDBY_MAX = 100_000  # keys that wait while it does not run: with more it forgets them, and has to look at everything
OBSERVED_AT_ONCE = 500  # objects, by a new leader: a millisecond or two
HELD_MAX_S = (
    15.0  # a cache that has not shown a write by then is asked no longer; the decision is made on what it shows
)
# The same of who has created something, which he would take for missing: names follow from what he sees, and from his
# own object, which his own writes have changed.
CREATED_HELD_MAX_S = 300.0
READ_ROUNDS_MAX = 4
REST = 10  # times the CPU time of a reconcile, less WRITE_S for each write
WRITE_S = 0.0001
REST_MIN_S, REST_MAX_S = 0.01, 1.0  # shorter ones are none
GOING = "NamespaceTerminating"
CONFLICTS = (404, 409)  # two writers met: nothing that a person needs to know


@dataclass(slots=True)
class Counters:
    """What /metrics tells about one controller."""

    reconciles: int = 0
    writes: int = 0
    failures: int = 0
    retries: int = 0


@dataclass(slots=True)
class _Held:
    """A key that waits for its own writes: the revision wanted of each resource."""

    wanted: dict[str, int]
    until: float


@dataclass(slots=True)
class _Turn:
    """One key in one round."""

    key: str
    plan: Plan
    wanted: dict[str, int] = field(default_factory=dict)
    error: str = ""
    failed: bool = False
    created: bool = False
    told: set[str] = field(default_factory=set)  # reasons of refusals that are an Event already


class Runner:
    """One controller at work. `on_changes` always listens; `run` works until cancelled."""

    def __init__(
        self,
        controller: Controller,
        caches: Caches,
        client: ApiClient,
        recorder: EventRecorder,
        clock: Clock,
        batch: int = 64,
    ) -> None:
        self.controller, self.counters = controller, Counters()
        self._caches, self._client, self._recorder, self._clock = caches, client, recorder, clock
        self._batch = batch
        self._queue: WorkQueue[str] = WorkQueue(RETRY)
        self._resources = frozenset(controller.resources)
        self.looks_at = controller.looks_at if isinstance(controller, Selective) else ALL
        self._held: dict[str, _Held] = {}
        self._holding: dict[str, set[str]] = {}  # resource → the held keys that wait for it
        self._errors: dict[str, str] = {}
        self._resting: dict[str, float] = {}  # key → until when
        self._runs = False
        self._left = 0  # keys that waited when it last ran
        self._is_behind = False  # not all that it should look at is queued
        self._wake = asyncio.Event()

    @property
    def name(self) -> str:
        return self.controller.name

    @property
    def depth(self) -> int:
        """Keys that wait for their turn."""
        return len(self._queue)

    def on_changes(self, resource: str, changes: Sequence[Change]) -> None:
        """Queues the keys that changes concern."""
        if resource not in self._resources:
            return
        now = self._clock.now()
        for change in changes:
            self._observe(resource, change.old, change.new, now)
        self._release(resource)
        if len(self._queue):
            self._wake.set()
        if len(self._queue) > self._left + STANDBY_MAX and not self._runs:
            self._forget()

    def _forget(self) -> None:
        """What waits, and what is held: everything is to be looked at."""
        self._queue, self._left, self._is_behind = WorkQueue(RETRY), 0, True
        self._held.clear()
        self._holding.clear()

    async def _resync(self) -> None:
        """Queues everything."""
        self._forget()
        now = self._clock.now()
        for resource in self.controller.resources:
            for number, known in enumerate(self._caches.list(resource), 1):
                # As it is by now: what was listed may have changed meanwhile, and have been told of.
                obj = self._caches.get(resource, *listwatch.key_of(known))
                if obj is not None:
                    self._observe(resource, None, obj, now)
                if number % OBSERVED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                    now = self._clock.now()
        self._is_behind = False

    def _observe(self, resource: str, old: Obj | None, new: Obj | None, now: float) -> None:
        try:
            for key in self.controller.observe(self._caches, resource, old, new, now):
                self._queue.add(key)
        except Exception:
            name = ((new or old) or {}).get("metadata", {}).get("name")
            log.exception("%s: cannot take in a change of %s %s", self.name, resource, name)

    async def run(self, *, anew: bool = False) -> None:
        """Reconciles until cancelled. What it was working on then is queued again, for the next time.

        `anew`: everything is looked at first. A new leader does not know what the last one had done."""
        self._runs = True
        try:
            if anew or self._is_behind:
                await self._resync()
            await self._caches.synced(self.controller.resources)
            while True:
                self._wake.clear()
                turns = await self._decide()
                if turns:
                    await self._carry_out(turns)
                elif not len(self._queue):
                    await self._sleep()
        finally:
            self._runs = False
            self._queue.give_back(self._held)
            self._left = len(self._queue)
            self._resting.clear()

    # -- deciding

    async def _decide(self) -> list[_Turn]:
        turns = []
        started = time.monotonic()
        for _ in range(self._batch):
            key = self._queue.get(self._clock.monotonic())
            if key is None:
                break
            if self._rests(key):
                continue
            turn = await self._reconcile(key)
            if turn is not None:
                turns.append(turn)
            if time.monotonic() - started > SLICE_S:
                await asyncio.sleep(0)
                started = time.monotonic()
        return turns

    def _rests(self, key: str) -> bool:
        """Whether it is too early for the key; it comes back by itself then."""
        now = self._clock.monotonic()
        left_s = self._resting.get(key, now) - now
        if left_s <= 0:
            self._resting.pop(key, None)
            return False
        self._queue.done(key)
        self._queue.add_after(key, left_s, now)
        return True

    async def _reconcile(self, key: str) -> _Turn | None:
        """The key's plan; None when there is nothing to write."""
        self.counters.reconciles += 1
        try:
            plan = await self._plan(key)
        except Exception as error:
            expected = isinstance(error, ApiError)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "%s: %s failed: %s",
                self.name,
                key,
                error,
                exc_info=not expected,
            )
            self.counters.failures += 1
            self._retry(key)
            return None
        for event in plan.events:
            self._record(event)
        if plan.requeue_after is not None:
            self._queue.add_after(key, max(plan.requeue_after, 0.001), self._clock.monotonic())
        if plan.writes:
            return _Turn(key, plan)
        self._errors.pop(key, None)
        self._queue.forget(key)
        self._queue.done(key)
        return None

    async def _plan(self, key: str) -> Plan:
        answers: dict[Read, list[Obj]] = {}
        for _ in range(READ_ROUNDS_MAX):
            view = RunView(self._caches, self._errors.get(key, ""), answers)
            started = time.thread_time()
            plan = self.controller.reconcile(view, key, self._clock.now())
            rest_s = REST * (time.thread_time() - started - WRITE_S * len(plan.writes))
            if rest_s > REST_MIN_S:
                self._resting[key] = self._clock.monotonic() + min(rest_s, REST_MAX_S)
            missing = [read for read in plan.reads if read not in answers]
            if not missing:
                return plan
            found = await asyncio.gather(*map(self._read, missing))
            answers.update(zip(missing, found, strict=True))
        raise RuntimeError(f"still asks for reads after {READ_ROUNDS_MAX} rounds: {missing[:3]}")

    async def _read(self, read: Read) -> list[Obj]:
        resource = self._caches.resources[read.resource]
        if not read.name:
            return (await self._client.list(resource, read.namespace))[0]
        try:
            return [await self._client.get(resource, read.namespace, read.name)]
        except ApiError as error:
            if error.code == 404:
                return []
            raise

    # -- writing

    async def _carry_out(self, turns: list[_Turn]) -> None:
        pairs = [(turn, write) for turn in turns for write in turn.plan.writes]
        for start in range(0, len(pairs), OPERATIONS_MAX):
            await self._write(pairs[start : start + OPERATIONS_MAX])
        for turn in turns:
            if turn.error:
                self._errors[turn.key] = turn.error
            else:
                self._errors.pop(turn.key, None)
            if turn.failed:
                self._retry(turn.key)
                continue
            self._queue.forget(turn.key)
            self._hold(turn)

    async def _write(self, pairs: list[tuple[_Turn, Write]]) -> None:
        operations = [operation_of(self._caches.resources[write.resource], write) for _, write in pairs]
        try:
            results = await self._client.write(operations)
        except ApiError as error:
            log.warning("%s: %d writes failed: %s", self.name, len(pairs), error)
            for turn, _ in pairs:
                turn.failed = True
            return
        for (turn, write), result in zip(pairs, results, strict=True):
            self._settle(turn, write, result)

    def _settle(self, turn: _Turn, write: Write, result: api_pb2.Result) -> None:
        self.counters.writes += 1
        if result.code < 400:
            if write.done is not None:
                self._record(write.done)
            turn.created |= write.verb == "create"
            wanted = turn.wanted.get(write.resource, 0)
            turn.wanted[write.resource] = max(wanted, result.resource_version)
            return
        if result.code == 404 and write.verb in ("delete", "patch"):
            return  # it is gone: the caches will say so
        error = error_of_body(result.body, result.code)
        if any(cause.reason == GOING for cause in error.causes):
            return  # whoever wants it there goes too: nothing is to be tried again, or told
        turn.failed = True
        quiet = result.code in CONFLICTS and not (result.code == 404 and write.verb == "create")
        log.log(
            # One line for a plan, and one in ten retries: a thousand pods over quota are one problem.
            logging.DEBUG if quiet or turn.error or self._queue.failures(turn.key) % 10 else logging.WARNING,
            "%s: %s: %s of %s %s/%s refused: %s",
            self.name,
            turn.key,
            write.verb,
            write.resource,
            write.namespace,
            write.name,
            error,
        )
        if quiet:
            return
        self.counters.failures += 1
        turn.error = str(error)
        if write.failed is not None and write.failed.reason not in turn.told:
            turn.told.add(write.failed.reason)  # five hundred pods over quota are one thing to tell
            self._record(write.failed, str(error))

    def _record(self, event: Event, error: str = "") -> None:
        message = event.message.replace("{error}", error) if error else event.message
        self._recorder.record(event.about, event.type, event.reason, message)

    def _retry(self, key: str) -> None:
        self.counters.retries += 1
        self._queue.add_rate_limited(key, self._clock.monotonic())
        self._queue.done(key)

    # -- holding keys until the caches have seen their writes

    def _hold(self, turn: _Turn) -> None:
        wanted = {name: revision for name, revision in turn.wanted.items() if self._lags(name, revision)}
        if wanted:
            most_s = CREATED_HELD_MAX_S if turn.created else HELD_MAX_S
            self._held[turn.key] = _Held(wanted, self._clock.monotonic() + most_s)
            for name in wanted:
                self._holding.setdefault(name, set()).add(turn.key)
        else:
            self._done(turn.key)

    def _lags(self, resource: str, revision: int) -> bool:
        seen = self._caches.revision_of(resource) if resource in self._resources else None
        return seen is not None and seen < revision

    def _release(self, resource: str) -> None:
        for key in [*self._holding.get(resource, ())]:
            held = self._held[key]
            if not self._lags(resource, held.wanted[resource]):
                del held.wanted[resource]
                self._holding[resource].discard(key)
                if not held.wanted:
                    self._done(key)

    def _done(self, key: str) -> None:
        held = self._held.pop(key, None)
        for name in held.wanted if held else ():
            self._holding[name].discard(key)
        self._queue.done(key)
        self._wake.set()

    async def _sleep(self) -> None:
        """Until a key is queued or due, or a held key has waited too long."""
        now = self._clock.monotonic()
        for key, held in [*self._held.items()]:
            if held.until <= now:
                log.debug("%s: %s: the caches did not show its writes in time: %s", self.name, key, held.wanted)
                self._done(key)
        due = [held.until for held in self._held.values()]
        ready_at = self._queue.next_ready_at()
        if ready_at is not None:
            due.append(ready_at)
        if not due:
            await self._wake.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(due) - now)):
                await self._wake.wait()

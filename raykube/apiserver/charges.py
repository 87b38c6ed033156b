"""Writes that ResourceQuotas are charged for: objects and quotas in one transaction of the store.

    requests of a namespace ──► one line ──► charge all that wait (pure) ──► one batch: objects and quotas, joined
                                   ▲                                             │
                                   └── some comparison failed: none was written ─┘

Whoever creates something in a namespace with quotas stands in line; while one batch is written, those that come
together are the next one: a hundred creations at once cost a few transactions, not a hundred that fail each other.
Between apiservers the store's comparison of the quotas decides. A quota is never exceeded, and nothing is charged that
was not written. A namespace without quotas costs one look at a cache.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from raykube.api import meta, quotas
from raykube.api.errors import ApiError
from raykube.api.meta import with_resource_version
from raykube.api.resources import builtin
from raykube.apiserver.core.planning import Current, Operation, Plan
from raykube.apiserver.core.quota_charges import Tally, charge, may_grow
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.services import Held, late
from raykube.apiserver.store import Store
from raykube.apiserver.turns import Turns
from raykube.pb import batch_pb2

log = logging.getLogger(__name__)

CONFLICTS_MAX = 100  # with other apiservers in a row, before clients are told to come again
CHARGES_AT_ONCE = 100  # then others get their turn
TURN_BYTES_MAX = 2 << 20  # of objects in one transaction
CONFLICT_WAIT_S = 0.005  # times the number of conflicts, at most


class Attempt(Protocol):
    """One operation on its way, planned."""

    @property
    def op(self) -> Operation: ...

    @property
    def current(self) -> Current | None: ...

    @property
    def plan(self) -> Plan | None: ...

    @property
    def held(self) -> Held: ...


@dataclass(slots=True, eq=False)
class Charged:
    """An attempt in line, and what became of it: an error, or the store's result. Nothing yet: it is open."""

    attempt: Attempt
    error: ApiError | None = None
    result: batch_pb2.WriteResult | None = None
    write: batch_pb2.Write = field(default_factory=batch_pb2.Write)
    costs: bool = False  # a quota is written with it
    is_unknown: bool = False  # the error does not say whether it was written

    @property
    def is_open(self) -> bool:
        return self.error is None and self.result is None


@dataclass(slots=True)
class _Line:
    """Those that wait for their turn in one namespace."""

    waiting: list[tuple[list[Charged], asyncio.Future[None]]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Charges:
    """See the module's docstring. `prepare(attempt)` makes the store's write of an attempt; it may raise ApiError."""

    def __init__(self, store: Store, turns: Turns, prepare: Callable[..., Awaitable[batch_pb2.Write]]) -> None:
        self._store = store
        self._turns = turns
        self._prepare = prepare
        self._resource = builtin("v1", "ResourceQuota")
        self._lines: dict[str, _Line] = {}
        # namespace → quota → what the store said of it last, which the cache may not show yet; None: it is gone.
        self._ahead: dict[str, dict[str, tuple[int, Object | None]]] = {}

    def concern(self, attempt: Attempt) -> bool:
        """Whether this write may have to be charged to a quota."""
        cache = self._store.feed.caches["", "resourcequotas"]
        if not cache:
            return False
        op, plan = attempt.op, attempt.plan
        if not op.namespace or plan is None or plan.value is None:
            return False
        if not (plan.created or may_grow(op.resource, op.subresource)):
            return False
        if (op.resource.group, op.resource.plural) in quotas.IGNORED:
            return False
        return next(cache.keys(op.namespace), None) is not None

    def check(self, attempt: Attempt) -> None:
        """For a dry run: raises ApiError if the write does not fit into the quotas, as they are known here."""
        _charge(self._tallies(attempt.op.namespace), attempt)

    async def write(self, namespace: str, attempts: list[Attempt]) -> list[Charged]:
        """Carries each attempt out, or not: every one has an error or a result afterwards."""
        line = self._lines.setdefault(namespace, _Line())
        mine = [Charged(attempt) for attempt in attempts]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append((mine, done))
        if line.task is None:
            line.task = asyncio.create_task(self._serve(namespace, line))
        await done
        return mine

    async def _serve(self, namespace: str, line: _Line) -> None:
        """Works the line off. Whoever left it is served too."""
        while line.waiting:
            entries, line.waiting = line.waiting, []
            batch = [charged for mine, _ in entries for charged in mine]
            failure = ApiError.internal("the server could not charge this write to the quotas")
            try:
                await self._carry_out(namespace, batch)
            except ApiError as unavailable:
                failure = unavailable
            except Exception:
                log.exception("charging %d writes in namespace %s failed", len(batch), namespace)
            for charged in batch:
                if charged.is_open:
                    charged.error, charged.is_unknown = failure, True
            for _, done in entries:
                if not done.done():
                    done.set_result(None)
        del self._lines[namespace]

    # -- one batch

    async def _carry_out(self, namespace: str, batch: list[Charged]) -> None:
        """Every one gets an error or a result. Raises ApiError, with those open, when the store is away."""
        for charged in batch:
            try:
                charged.write = await self._prepare(charged.attempt)
            except ApiError as error:
                charged.error = error
        is_fresh, conflicts = False, 0
        while turn := _turn(batch):
            tallies = self._tallies(namespace)
            refused = await _charge_all(tallies, turn, self._turns)
            if refused and not is_fresh:
                await self._store.fresh()  # what was released meanwhile counts: a refusal holds for what is there
                is_fresh = True
                continue
            for charged, reason in refused:
                charged.error = reason
            if _has_late(turn):
                continue  # without them, and without what was charged for them
            await self._store_turn(namespace, [each for each in turn if each.is_open], tallies)
            is_fresh = True  # the store has just said what is there
            if all(charged.is_open for charged in turn):
                conflicts += 1
                if conflicts == CONFLICTS_MAX:
                    raise ApiError.server_timeout(turn[0].attempt.op.resource, turn[0].attempt.op.verb)
                await asyncio.sleep(random.random() * CONFLICT_WAIT_S * min(conflicts, 10))

    async def _store_turn(self, namespace: str, turn: list[Charged], tallies: list[Tally]) -> None:
        """Writes what was charged, joined with its quotas, and the rest beside it."""
        apart = [charged for charged in turn if not charged.costs]
        together = [charged for charged in turn if charged.costs]
        touched = [tally for tally in tallies if tally.is_touched] if together else []
        objects = [tally.charged() for tally in touched]
        writes = [charged.write for charged in apart + together]
        writes += [self._write_of(namespace, tally, obj) for tally, obj in zip(touched, objects, strict=True)]
        for number, write in enumerate(writes):
            write.joined = number > len(apart)
        if not writes:
            return
        results = await self._store.write(writes)
        for charged, result in zip(apart, results[: len(apart)], strict=True):
            charged.result = result
        results = results[len(apart) :]
        known = self._ahead.setdefault(namespace, {})
        for tally, obj, result in zip(touched, objects, results[len(together) :], strict=True):
            known[tally.name] = _seen(tally, obj, result)
        for charged, result in zip(together, results[: len(together)], strict=True):
            if result.applied or failed_itself(charged.write, result):
                charged.result = result

    def _write_of(self, namespace: str, tally: Tally, obj: Object) -> batch_pb2.Write:
        metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
        key = self._resource.key(namespace, tally.name).encode()
        value = meta.encode({**obj, "metadata": metadata})
        return batch_pb2.Write(key=key, value=value, expected_revision=tally.revision)

    def _tallies(self, namespace: str) -> list[Tally]:
        """The namespace's quotas, by name, each as it was seen last."""
        known, still = self._ahead.pop(namespace, {}), {}
        found = []
        for item in self._store.cache(self._resource).items(namespace):
            name = item.key.rpartition("/")[2]
            revision, obj = known.get(name, (0, None))
            if revision < item.revision:
                revision, obj = item.revision, item.parsed()
            else:
                still[name] = (revision, obj)
            if obj is not None:
                found.append(Tally(obj, revision))
        if still:
            self._ahead[namespace] = still
        return found


def _turn(batch: list[Charged]) -> list[Charged]:
    """Those that go into the next transaction. One that has the name of another waits for what becomes of that."""
    turn: dict[bytes, Charged] = {}
    size = 0
    for charged in batch:
        if charged.is_open and charged.write.key not in turn:
            size += len(charged.write.value)
            if turn and size > TURN_BYTES_MAX:
                break
            turn[charged.write.key] = charged
    return list(turn.values())


def _has_late(turn: list[Charged]) -> bool:
    """Whether some are Services that may not be written any more, as their addresses may soon be another's."""
    now = time.time()
    found = [charged for charged in turn if charged.is_open and charged.attempt.held.is_old(now)]
    for charged in found:
        charged.error = late()
    return bool(found)


async def _charge_all(tallies: list[Tally], turn: list[Charged], turns: Turns) -> list[tuple[Charged, ApiError]]:
    """Charges one after the other. Those that do not fit."""
    refused = []
    for number, charged in enumerate(turn, 1):
        if number % CHARGES_AT_ONCE == 0:
            await turns.next()
        try:
            charged.costs = _charge(tallies, charged.attempt)
        except ApiError as error:
            refused.append((charged, error))
    return refused


def _charge(tallies: list[Tally], attempt: Attempt) -> bool:
    plan, current = attempt.plan, attempt.current
    assert plan is not None and plan.value is not None
    old = None if plan.created or current is None else orjson.loads(current.data)
    return charge(tallies, attempt.op.resource, orjson.loads(plan.value), old)


def _seen(tally: Tally, obj: Object, result: batch_pb2.WriteResult) -> tuple[int, Object | None]:
    """What the answer to a quota's write says of it."""
    if result.applied:
        return result.revision, obj
    if not result.HasField("current"):
        return tally.revision, None
    there = result.current
    return there.mod_revision, orjson.loads(with_resource_version(there.value, there.mod_revision))


def failed_itself(write: batch_pb2.Write, result: batch_pb2.WriteResult) -> bool:
    """Whether a joined write was refused for its own comparison, and not for another's."""
    there = result.current.mod_revision if result.HasField("current") else 0
    return bool(there != write.expected_revision)

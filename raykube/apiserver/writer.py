"""Carries out operations: plan, write in one store batch, and again with the object as it really is where a comparison
failed and the client did not insist on a revision.

    operations ─► plan each (pure) ─► one kv batch ─► answers
                     ▲                      │
                     └── lost the race ◄────┘

What admission misses (a namespace made through another apiserver a moment ago) is looked for once more with fresh
caches before the client gets the error.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator

import orjson

from raykube.api.errors import ApiError
from raykube.api.meta import with_resource_version
from raykube.apiserver.attempt import Attempt
from raykube.apiserver.cache_view import CacheView
from raykube.apiserver.charges import Charges, failed_itself
from raykube.apiserver.core import conversion, planning, scaling
from raykube.apiserver.core.admission import DefaultTolerations, Missing
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.planning import Current, Networks, Operation, Planner
from raykube.apiserver.core.strategy import Draw
from raykube.apiserver.outcome import Outcome, broken, failed, not_alone
from raykube.apiserver.services import Held, ServiceAddresses, late
from raykube.apiserver.store import Store
from raykube.apiserver.turns import Turns
from raykube.pb import batch_pb2

ATTEMPTS_MAX = 30  # lost races in a row before a client is told to come again …
CONTENTION_S = 10.0  # … but not so soon: upstream tries as long as the request lasts
CONTENTION_WAIT_S = 0.01  # at most, after each of the races that follow
PLANS_AT_ONCE = 100  # in a turn of the loop: a bulk of thousands must not stop watches and leases
PIECE_BYTES_MAX = 16 << 20  # of objects that are written at once, half of what the store takes
SHORT = 10  # so many operations of one request wait for no turn
_WRITTEN_WITH_MORE = frozenset({"services", "events"})  # their addresses, their leases
NAMES_MAX = 8  # names drawn for one generateName


class Writer:
    """Writes objects."""

    def __init__(
        self,
        store: Store,
        turns: Turns,
        addresses: ServiceAddresses,
        event_ttl_s: float,
        tolerations: DefaultTolerations,
        networks: Networks,
    ) -> None:
        self.store = store
        self.turns = turns
        self.draw = Draw(os.urandom, random.Random(os.urandom(16)).randrange)
        self.planner = Planner(CacheView(store), self.draw, tolerations, networks)
        self._addresses = addresses
        self._event_ttl_s = int(event_ttl_s)
        self._charges = Charges(store, turns, lambda attempt: self._write_of(attempt, time.time()))

    async def one(self, op: Operation) -> Outcome:
        """One operation. Raises ApiError."""
        outcome = (await self.run([op]))[0]
        if outcome.code >= 400:
            raise ApiError.from_status(orjson.loads(outcome.body))
        return outcome

    async def run(self, ops: list[Operation]) -> list[Outcome]:
        """All operations; the answers in their order. One that fails does not stop the others."""
        attempts = [Attempt(op) for op in ops]
        for attempt in attempts:
            self._look(attempt)
        if await self._wait_for_seen(attempts) and len(attempts) == 1:
            # Of several, one may be refused for want of what another one makes: that is for `_doubt`.
            attempts[0].confirmed = True
        waiting = attempts
        while waiting:
            waiting = await self._round(waiting)
            if any(attempt.tries >= ATTEMPTS_MAX for attempt in waiting):
                await asyncio.sleep(random.random() * CONTENTION_WAIT_S)
        for attempt in attempts:
            if attempt.held.keys:
                await self._addresses.abandon(attempt.held)
        return [attempt.outcome for attempt in attempts if attempt.outcome is not None]

    async def together(self, ops: list[Operation]) -> list[Outcome]:
        """All operations in one step of the store, or none: what was refused says why, the others that it was not they.

        The store can't compare what is not written: what is left as it is was so right before the step. Not for
        Services, whose addresses are taken before they are written, nor for what quotas are charged for.
        """
        attempts = [Attempt(op) for op in ops]
        for attempt in attempts:
            self._look(attempt)
        if await self._wait_for_seen(attempts):
            for attempt in attempts:
                attempt.confirmed = attempt.op.verb != planning.CREATE
        races = 0
        while races < ATTEMPTS_MAX:
            now = time.time()
            for number, attempt in enumerate(attempts):
                if number % PLANS_AT_ONCE == PLANS_AT_ONCE - 1:
                    await self.turns.next()
                if attempt.outcome is None:
                    self._plan_one(attempt, now)
            if any(attempt.is_doubtful for attempt in attempts) and await self._confirm(attempts):
                continue
            if any(attempt.outcome is not None for attempt in attempts):
                break
            if await self._write_together(attempts, now):
                break
            races += 1
        for attempt in attempts:
            attempt.outcome = attempt.outcome or not_alone(attempt.op)
        return [attempt.outcome for attempt in attempts if attempt.outcome is not None]

    def _plan_one(self, attempt: Attempt, now: float) -> None:
        op = attempt.op
        try:
            attempt.plan = self.planner.plan(op, attempt.current, now)
            if _is_service(op) or self._charges.concern(attempt):
                raise ApiError.bad_request("Services and what quotas count cannot be written together with others")
        except Missing as error:
            attempt.outcome = failed(error.error, op)
        except ApiError as error:
            attempt.outcome = failed(error, op)
        except Exception:
            attempt.outcome = broken(op)

    async def _confirm(self, attempts: list[Attempt]) -> bool:
        """Whether what was refused, or left as it is, may have been so for an old state: then all is planned again."""
        if all(attempt.confirmed for attempt in attempts if attempt.is_doubtful):
            return False
        try:
            await self.store.fresh()
        except ApiError as error:
            for attempt in attempts:
                attempt.outcome = failed(error, attempt.op)
            return False
        for attempt in attempts:
            attempt.outcome, attempt.confirmed = None, True
            self._look(attempt)
        return True

    async def _write_together(self, attempts: list[Attempt], now: float) -> bool:
        """False: some were lost, and all are to be planned again. Else all have their outcome, or some were refused."""
        sent = [attempt for attempt in attempts if attempt.plan is not None and attempt.plan.write]
        try:
            writes = [await self._write_of(attempt, now) for attempt in sent]
            for write in writes[1:]:
                write.joined = True
            results = await self.store.write(writes) if writes else []
        except ApiError as error:
            for attempt in attempts:
                attempt.outcome = failed(error, attempt.op)
            return True
        if all(result.applied for result in results):
            revisions = {id(attempt): result.revision for attempt, result in zip(sent, results, strict=True)}
            for attempt in attempts:
                known = attempt.current.revision if attempt.current is not None else 0
                self._finish(attempt, revisions.get(id(attempt), known))
            return True
        lost = [each for each in zip(sent, writes, results, strict=True) if failed_itself(each[1], each[2])]
        for attempt, _, result in lost:
            self._lost(attempt, result)
        if not lost:
            self._part(sent)
        for attempt in attempts:
            if attempt.plan is not None and not attempt.plan.write:
                attempt.confirmed = False  # the store said nothing of it, and it may be another since
        return any(attempt.outcome is not None for attempt in attempts)

    def _part(self, sent: list[Attempt]) -> None:
        """Of those that the store did not write though all comparisons held, the ones that meet others at a key."""
        keys = set()
        for attempt in sent:
            op, plan = attempt.op, attempt.plan
            assert plan is not None
            if plan.key not in keys:
                keys.add(plan.key)
            elif op.verb == planning.CREATE:
                self._is_taken(attempt)
            else:
                error = ApiError.conflict(op.resource, op.name, "another operation of the same request changes it too")
                attempt.outcome = failed(error, op)

    # -- what is known at the start

    def _look(self, attempt: Attempt) -> None:
        if attempt.op.verb != planning.CREATE:
            attempt.current = _current(self._item(attempt.op))

    def _item(self, op: Operation) -> Item | None:
        """The operation's object, as it is cached."""
        stored = conversion.stored(op.resource)
        return self.store.cache(stored).get(f"{op.namespace}/{op.name}" if stored.namespaced else op.name)

    async def _wait_for_seen(self, attempts: list[Attempt]) -> bool:
        """Clients may have read (or written) through another apiserver what has not arrived here yet: whether the store
        was asked, so that each is known as it is there."""
        seen = self.store.feed.revision
        if not any(
            attempt.op.verb != planning.CREATE and (attempt.current is None or attempt.wanted_version > seen)
            for attempt in attempts
        ):
            return False
        try:
            # Not until it has that version: one of a store before it was restored never comes, and is a conflict.
            await self.store.fresh()
        except ApiError as error:
            for attempt in attempts:
                if attempt.op.verb != planning.CREATE:
                    attempt.outcome = failed(error, attempt.op)
            return False
        for attempt in attempts:
            self._look(attempt)
        return True

    # -- rounds

    async def _round(self, attempts: list[Attempt]) -> list[Attempt]:
        now = time.time()
        missing: list[tuple[Attempt, Missing]] = []
        doubtful: list[tuple[Attempt, ApiError]] = []
        planned: list[Attempt] = []
        unchanged: list[Attempt] = []
        first: dict[str, Attempt] = {}
        behind: list[Attempt] = []
        for number, attempt in enumerate(attempts):
            if len(attempts) > SHORT and number % PLANS_AT_ONCE == 0:
                await self.turns.next()
            if attempt.outcome is not None:
                continue
            if attempt.tries and attempt.is_behind(first):
                behind.append(attempt)
                continue
            try:
                attempt.plan = self.planner.plan(attempt.op, attempt.current, now)
            except Missing as error:
                missing.append((attempt, error))
            except ApiError as error:
                doubtful.append((attempt, error))
            except Exception:
                attempt.outcome = broken(attempt.op)
            else:
                (planned if attempt.plan.write else unchanged).append(attempt)
        again = await self._write(planned, now) if planned else []
        again += await self._leave(unchanged, doubtful) if unchanged else []
        again += await self._look_again(missing) if missing else []
        again += await self._doubt(doubtful) if doubtful else []
        left: dict[str, Current | None] = {}
        for attempt in behind:
            assert attempt.plan is not None
            key = attempt.plan.key
            if key not in left:
                left[key] = first[key].left()
            attempt.current = left[key]
        return again + behind

    async def _leave(self, unchanged: list[Attempt], refused: list[tuple[Attempt, ApiError]]) -> list[Attempt]:
        """Nothing is to be written, as far as what was cached goes. The store compares nothing then: that it is what is
        there has to be asked. Those to be planned again, as it was not; those that were only tried may be `refused`."""
        doubted = {id(attempt) for attempt in unchanged if not attempt.confirmed}
        if doubted:
            try:
                await self.store.fresh()
            except ApiError as unavailable:
                for attempt in unchanged:
                    if id(attempt) in doubted:
                        attempt.outcome = failed(unavailable, attempt.op)
        again = []
        for attempt in unchanged:
            if attempt.outcome is not None:
                continue
            if id(attempt) in doubted:
                before, attempt.confirmed = attempt.current, True
                self._look(attempt)
                if attempt.current != before:
                    again.append(attempt)
                    continue
            if attempt.op.verb == planning.CREATE and self._item(attempt.op) is not None:
                if self._is_taken(attempt):
                    again.append(attempt)
            elif not (attempt.op.dry_run and self._is_refused(attempt, refused)):
                self._finish(attempt, attempt.current.revision if attempt.current is not None else 0)
        return again

    async def _doubt(self, refused: list[tuple[Attempt, ApiError]]) -> list[Attempt]:
        """Refusals because of what was cached hold only if that is what is there: those are planned again that were
        refused for an older state."""
        suspects = [each for each, _ in refused if each.op.verb != planning.CREATE and not each.confirmed]
        if suspects:
            try:
                await self.store.fresh()
            except ApiError as unavailable:
                for attempt in suspects:
                    attempt.outcome = failed(unavailable, attempt.op)
        doubted = set(map(id, suspects))
        again = []
        for attempt, error in refused:
            if id(attempt) in doubted and attempt.outcome is None:
                before, attempt.confirmed = attempt.current, True
                self._look(attempt)
                if attempt.current != before:
                    again.append(attempt)
                    continue
            attempt.outcome = attempt.outcome or failed(error, attempt.op)
        return again

    def _is_refused(self, attempt: Attempt, refused: list[tuple[Attempt, ApiError]]) -> bool:
        """Whether what is only tried would not fit into a quota."""
        try:
            if self._charges.concern(attempt):
                self._charges.check(attempt)
        except ApiError as error:
            refused.append((attempt, error))
            return True
        return False

    async def _write(self, attempts: list[Attempt], now: float) -> list[Attempt]:
        """Writes what was planned: what quotas are charged for in its namespace's line. Those to be planned again."""
        lines: dict[str, list[Attempt]] = {}
        free: list[Attempt] = []
        for attempt in attempts:
            if self._charges.concern(attempt):
                lines.setdefault(attempt.op.namespace, []).append(attempt)
            else:
                free.append(attempt)
        if not lines:
            return await self._write_free(free, now)
        parts = [self._write_charged(namespace, line) for namespace, line in lines.items()]
        found = await asyncio.gather(self._write_free(free, now), *parts)
        return [attempt for again in found for attempt in again]

    async def _write_charged(self, namespace: str, attempts: list[Attempt]) -> list[Attempt]:
        again = []
        for attempt, charged in zip(attempts, await self._charges.write(namespace, [*attempts]), strict=True):
            if charged.error is not None:
                attempt.outcome = failed(charged.error, attempt.op)
                if charged.is_unknown:
                    attempt.held = Held()
            elif charged.result is not None and await self._take(attempt, charged.result):
                again.append(attempt)
        return again

    async def _write_free(self, attempts: list[Attempt], now: float) -> list[Attempt]:
        drafts: list[tuple[Attempt, batch_pb2.Write]] = []
        for attempt in attempts:
            if attempt.op.resource.plural not in _WRITTEN_WITH_MORE:
                drafts.append((attempt, attempt.write()))
                continue
            try:
                drafts.append((attempt, await self._write_of(attempt, now)))
            except ApiError as error:
                attempt.outcome = failed(error, attempt.op)
        again = []
        for start, end in _pieces(drafts):
            again += await self._write_piece(drafts[start:end])
        return again

    async def _write_piece(self, drafts: list[tuple[Attempt, batch_pb2.Write]]) -> list[Attempt]:
        writes: list[batch_pb2.Write] = []
        sent: list[Attempt] = []
        sending = time.time()  # of this piece: those before it may have been waited for
        for attempt, write in drafts:
            if attempt.held.is_old(sending):
                attempt.outcome = failed(late(), attempt.op)
            else:
                writes.append(write)
                sent.append(attempt)
        if not writes:
            return []
        try:
            results = await self.store.write(writes)
        except ApiError as error:
            for attempt in sent:
                attempt.outcome = failed(error, attempt.op)
                attempt.held = Held()  # nobody knows whether it happened: `repair` will
            return []
        return [attempt for attempt, result in zip(sent, results, strict=True) if await self._take(attempt, result)]

    async def _take(self, attempt: Attempt, result: batch_pb2.WriteResult) -> bool:
        """The store's answer to one write. Whether to plan it again."""
        if result.applied:
            if attempt.op.resource.plural in _WRITTEN_WITH_MORE:
                await self._settle(attempt)
            self._finish(attempt, result.revision)
            return False
        return self._lost(attempt, result)

    async def _write_of(self, attempt: Attempt, now: float) -> batch_pb2.Write:
        plan, op = attempt.plan, attempt.op
        assert plan is not None
        if _is_service(op) and plan.value is not None:
            allocated = await self._addresses.allocate(op, plan.value, attempt.current, attempt.held)
            plan.value = plan.reply = allocated
        lease = 0
        if op.resource.plural == "events" and plan.value is not None:
            lease = await self.store.lease(self._event_ttl_s, now)
        return attempt.write(lease)

    async def _settle(self, attempt: Attempt) -> None:
        """After the write: addresses that the Service gave up are free again."""
        attempt.held = Held()
        if _is_service(attempt.op):
            assert attempt.plan is not None
            await self._addresses.settle(attempt.op, attempt.plan.value, attempt.current)

    def _lost(self, attempt: Attempt, result: batch_pb2.WriteResult) -> bool:
        """After a failed comparison: whether to plan again, with what is there now."""
        op, plan = attempt.op, attempt.plan
        assert plan is not None
        attempt.tries += 1
        there = result.current if result.HasField("current") else None
        if plan.created and op.verb == planning.CREATE:
            return self._is_taken(attempt)
        now = time.monotonic()
        attempt.lost_at = attempt.lost_at or now
        if attempt.tries < ATTEMPTS_MAX or now < attempt.lost_at + CONTENTION_S:
            attempt.confirmed = True
            data = with_resource_version(there.value, there.mod_revision) if there is not None else b""
            attempt.current = Current(data, there.mod_revision) if there is not None else None
            return True
        attempt.outcome = failed(planning.stale(op.resource, op.name), op)
        return False

    def _is_taken(self, attempt: Attempt) -> bool:
        """After a create that found its name in use: whether to draw another."""
        assert attempt.plan is not None
        attempt.names += 1
        if attempt.plan.retry_name and attempt.names < NAMES_MAX:
            return True
        attempt.outcome = failed(ApiError.already_exists(attempt.op.resource, attempt.op.name), attempt.op)
        return False

    async def _look_again(self, missing: list[tuple[Attempt, Missing]]) -> list[Attempt]:
        """Refreshes the caches once for all; gives up on what was missed before and is not worth more patience."""
        again: list[Attempt] = []
        now = time.monotonic()
        for attempt, error in missing:
            if not attempt.refreshed:
                attempt.refreshed, attempt.deadline = True, now + error.patience_s
                again.append(attempt)
            elif error.patience_s and now < attempt.deadline:
                again.append(attempt)
            else:
                attempt.outcome = failed(error.error, attempt.op)
        if again:
            if all(attempt.refreshed and attempt.deadline > now for attempt in again):
                await asyncio.sleep(0.02)
            try:
                await self.store.fresh()
            except ApiError as error:
                for attempt in again:
                    attempt.outcome = failed(error, attempt.op)
                return []
        return again

    def _finish(self, attempt: Attempt, revision: int) -> None:
        plan, op = attempt.plan, attempt.op
        assert plan is not None
        body = b""
        if not op.is_quiet:
            body = plan.reply if plan.complete else self._reply(op, plan.reply, revision)
        attempt.outcome = Outcome(plan.code, body, revision, tuple(op.warnings))

    def _reply(self, op: Operation, data: bytes, revision: int) -> bytes:
        stored = conversion.stored(op.resource)
        if op.subresource == "scale":
            return orjson.dumps(scaling.scale_of(op.resource, orjson.loads(data), revision))
        if stored is not op.resource:
            data = orjson.dumps(conversion.convert(orjson.loads(data), stored, op.resource))
        return with_resource_version(data, revision) if revision else data


def _pieces(drafts: list[tuple[Attempt, batch_pb2.Write]]) -> Iterator[tuple[int, int]]:
    """Writes, from and to, that go to the store at once: it takes no more in a message."""
    start = size = 0
    for number, (_, write) in enumerate(drafts):
        size += len(write.value)
        if size > PIECE_BYTES_MAX and number > start:
            yield start, number
            start, size = number, len(write.value)
    if drafts:
        yield start, len(drafts)


def _is_service(op: Operation) -> bool:
    return op.resource.plural == "services" and not op.resource.group and op.subresource != "status"


def _current(item: Item | None) -> Current | None:
    return Current(item.data, item.revision) if item is not None else None

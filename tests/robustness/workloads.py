"""What clients do to the store while it is harmed: registers, sets, lists, and pairs of keys written at once.

Each worker speaks at random through the batch stream, as apiservers do, and through etcd's API, at a member that it
picks or at whichever answers. Values are unique, so that every answer says which write it saw.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from raykube.client.kv import KvClient
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write as BatchWrite
from raykube.rpc import Code
from tests.kit.linearizability_models import Add, GrowingList, GrowingSet, Read, Register, Swap, Write
from tests.robustness.history import History, Outcome
from tests.robustness.members import Members

CALL_TIMEOUT_S = 2.0
PACE_S = 0.02  # a worker's mean pause between two operations: histories that can be checked, on machines with few cores
ANY = "any"


class Access:
    """How workers reach the store, and what they share."""

    def __init__(self, members: Members, everywhere: KvClient, history: History, rng: random.Random) -> None:
        self.members = members
        self.everywhere = everywhere
        self.history = history
        self.rng = rng
        self._numbers = itertools.count(1)

    def fresh(self) -> bytes:
        """A value that nobody else writes."""
        return b"%d" % next(self._numbers)

    def pick(self) -> tuple[str, KvClient]:
        """A member and its client, or the client of all."""
        if self.rng.random() < 0.3:
            return ANY, self.everywhere
        name = self.rng.choice(self.members.names)
        return name, self.members.client(name)

    # ---- single requests, written down as sightings

    async def get(self, key: bytes, end: bytes = b"", *, is_linearizable: bool = True) -> Outcome:
        """A range; the answer is the response."""
        name, client = self.pick()
        started = self.history.now()
        outcome = await self.history.call(
            lambda: client.range(key, end, serializable=not is_linearizable, timeout_s=CALL_TIMEOUT_S), is_write=False
        )
        if outcome.is_known:
            self.history.saw(started, outcome.answer, name, key, end, is_linearizable=is_linearizable)
        return outcome

    async def batch(self, key: bytes, value: bytes | None, expected_revision: int) -> Outcome:
        """One write through the batch stream; the answer is a WriteResult."""
        name, client = self.pick()
        write = BatchWrite(key=key, value=value, expected_revision=expected_revision)
        started = self.history.now()
        # The batch stream promises that what it calls UNAVAILABLE was not done.
        outcome = await self.history.call(
            lambda: client.write([write], CALL_TIMEOUT_S), is_write=True, surely_not=(Code.UNAVAILABLE,)
        )
        if outcome.is_known:
            (outcome.answer,) = outcome.answer
            if outcome.answer.applied and value is not None:
                self.history.wrote(started, outcome.answer.revision, name, (key, value))
        return outcome

    async def txn(self, compare: etcd_pb2.Compare | None, key: bytes, puts: dict[bytes, bytes]) -> Outcome:
        """Puts all or nothing, reads `key` otherwise; the answer is a TxnResponse."""
        name, client = self.pick()
        request = etcd_pb2.TxnRequest(
            compare=[] if compare is None else [compare],
            success=[
                etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=each, value=value))
                for each, value in puts.items()
            ],
            failure=[etcd_pb2.RequestOp(request_range=etcd_pb2.RangeRequest(key=key))],
        )
        started = self.history.now()
        outcome = await self.history.call(lambda: client.txn(request, CALL_TIMEOUT_S), is_write=True)
        if outcome.is_known:
            response = outcome.answer
            if response.succeeded:
                self.history.wrote(started, response.header.revision, name, *puts.items())
            else:
                self.history.saw(started, _in_failure(response), name, key)
        return outcome


def _in_failure(response: Any) -> Any:
    """The answer of the range in a transaction that did not succeed, with the transaction's revision."""
    found = response.responses[0].response_range
    found.header.CopyFrom(response.header)
    return found


def equals(key: bytes, **target: Any) -> etcd_pb2.Compare:
    """A comparison with one target: value=b"1", or mod_revision=7."""
    (name,) = target
    kind = {"value": "VALUE", "mod_revision": "MOD", "version": "VERSION", "create_revision": "CREATE"}[name]
    fields: dict[str, Any] = {"target": etcd_pb2.Compare.CompareTarget.Value(kind), **target}
    return etcd_pb2.Compare(key=key, **fields)


class RegisterWork:
    """Reads, writes, deletes and swaps one key."""

    def __init__(self, access: Access, client: str, key: bytes) -> None:
        self._access = access
        self._client = client
        self._key = key
        self._seen: tuple[bytes | None, int] = (None, 0)  # value, revision

    async def act(self) -> None:
        rng = self._access.rng
        kinds: list[tuple[Callable[[], Any], int]] = [
            (self.read, 4), (self._put, 2), (self._delete, 1), (self._swap_by_batch, 3), (self._swap_by_txn, 3),
        ]  # fmt: skip
        (run,) = rng.choices([run for run, _ in kinds], [weight for _, weight in kinds])
        await run()

    def _record(self, started: float, request: Any, outcome: Outcome, answer: Any = None) -> None:
        name = self._key.decode()
        self._access.history.record(Register, name, self._client, started, request, outcome, answer)

    async def read(self) -> None:
        started = self._access.history.now()
        outcome = await self._access.get(self._key)
        if outcome.is_known:
            self._seen = _state(outcome.answer.kvs)
        self._record(started, Read(), outcome, self._seen[0])

    async def _put(self) -> None:
        value = self._access.fresh()
        started = self._access.history.now()
        if self._access.rng.random() < 0.5:
            outcome = await self._access.batch(self._key, value, -1)
        else:
            outcome = await self._access.txn(None, self._key, {self._key: value})
        self._record(started, Write(value), outcome)

    async def _delete(self) -> None:
        started = self._access.history.now()
        outcome = await self._access.batch(self._key, None, -1)
        self._record(started, Write(None), outcome)

    async def _swap_by_batch(self) -> None:
        value = self._access.fresh()
        expected, revision = self._seen
        started = self._access.history.now()
        outcome = await self._access.batch(self._key, value, revision)
        answer = None
        if outcome.is_known:
            result = outcome.answer
            was = expected if result.applied else _state([result.current] if result.HasField("current") else [])[0]
            answer = (result.applied, was)
            self._seen = (value, result.revision) if result.applied else _state([result.current])
        self._record(started, Swap(expected, value), outcome, answer)

    async def _swap_by_txn(self) -> None:
        value = self._access.fresh()
        expected, _ = self._seen
        compare = equals(self._key, version=0) if expected is None else equals(self._key, value=expected)
        started = self._access.history.now()
        outcome = await self._access.txn(compare, self._key, {self._key: value})
        answer = None
        if outcome.is_known:
            response = outcome.answer
            if response.succeeded:
                self._seen, answer = (value, response.header.revision), (True, expected)
            else:
                self._seen = _state(response.responses[0].response_range.kvs)
                answer = (False, self._seen[0])
        self._record(started, Swap(expected, value), outcome, answer)


def _state(kvs: Any) -> tuple[bytes | None, int]:
    """Value and revision of the one key that was read."""
    kvs = [kv for kv in kvs if kv.mod_revision]
    return (kvs[0].value, kvs[0].mod_revision) if kvs else (None, 0)


class SetWork:
    """Adds keys below a prefix, and reads all of them."""

    def __init__(self, access: Access, client: str, prefix: bytes) -> None:
        self._access = access
        self._client = client
        self._prefix = prefix

    async def act(self) -> None:
        if self._access.rng.random() < 0.25:
            await self.read()
            return
        value = self._access.fresh()
        started = self._access.history.now()
        outcome = await self._access.batch(self._prefix + b"/" + value, value, 0)
        assert not outcome.is_known or outcome.answer.applied, f"{value!r} was there before it was added"
        self._record(started, Add(value), outcome)

    async def read(self) -> None:
        started = self._access.history.now()
        outcome = await self._access.get(self._prefix + b"/", self._prefix + b"0")
        found = frozenset(kv.value for kv in outcome.answer.kvs) if outcome.is_known else None
        self._record(started, Read(), outcome, found)

    def _record(self, started: float, request: Any, outcome: Outcome, answer: Any = None) -> None:
        name = self._prefix.decode()
        self._access.history.record(GrowingSet, name, self._client, started, request, outcome, answer)


class ListWork:
    """Appends to a list in one key: reads it, and writes it if it is still as it was read."""

    def __init__(self, access: Access, client: str, key: bytes) -> None:
        self._access = access
        self._client = client
        self._key = key
        self._seen: tuple[bytes | None, int] = (None, 0)

    async def act(self) -> None:
        if self._access.rng.random() < 0.3:
            await self.read()
            return
        started = self._access.history.now()
        value = self._access.fresh()
        text, revision = self._seen
        text = value if text is None else text + b" " + value
        outcome = await self._access.txn(equals(self._key, mod_revision=revision), self._key, {self._key: text})
        if outcome.is_known:
            response = outcome.answer
            if not response.succeeded:
                # Somebody was faster; nothing was appended.
                self._seen = _state(response.responses[0].response_range.kvs)
                return
            self._seen = (text, response.header.revision)
        self._record(started, Add(value), outcome)

    async def read(self) -> None:
        started = self._access.history.now()
        outcome = await self._access.get(self._key)
        if outcome.is_known:
            self._seen = _state(outcome.answer.kvs)
        self._record(started, Read(), outcome, tuple((self._seen[0] or b"").split()))

    def _record(self, started: float, request: Any, outcome: Outcome, answer: Any = None) -> None:
        name = self._key.decode()
        self._access.history.record(GrowingList, name, self._client, started, request, outcome, answer)


class PairWork:
    """Writes two keys in one transaction; they are never seen to differ."""

    def __init__(self, access: Access, client: str, prefix: bytes) -> None:
        self._access = access
        self._client = client
        self._keys = (prefix + b"/a", prefix + b"/b")
        self._range = (prefix + b"/", prefix + b"0")
        self._name = prefix.decode()

    async def act(self) -> None:
        if self._access.rng.random() < 0.5:
            await self.read(is_linearizable=self._access.rng.random() < 0.7)
            return
        value = self._access.fresh()
        started = self._access.history.now()
        outcome = await self._access.txn(None, self._keys[0], dict.fromkeys(self._keys, value))
        self._record(started, Write(value), outcome)

    async def read(self, *, is_linearizable: bool = True) -> None:
        started = self._access.history.now()
        outcome = await self._access.get(*self._range, is_linearizable=is_linearizable)
        answer = None
        if outcome.is_known:
            values = {kv.value for kv in outcome.answer.kvs}
            assert len(values) <= 1 and len(outcome.answer.kvs) in (0, 2), f"half a transaction: {outcome.answer}"
            answer = next(iter(values), None)
        if is_linearizable:
            self._record(started, Read(), outcome, answer)

    def _record(self, started: float, request: Any, outcome: Outcome, answer: Any = None) -> None:
        self._access.history.record(Register, self._name, self._client, started, request, outcome, answer)


class Work(Protocol):
    """What a worker does again and again."""

    async def act(self) -> None: ...


class Crew:
    """Workers at their work, until `end`."""

    def __init__(self, access: Access, works: Iterable[Work]) -> None:
        self._access = access
        self._is_done = False
        self._tasks = [asyncio.create_task(self._run(work)) for work in works]

    async def _run(self, work: Work) -> None:
        history, rng = self._access.history, self._access.rng
        while not self._is_done:
            failed = history.failed
            await work.act()
            # Who was refused by somebody who is not there would be so a thousand times a second.
            await asyncio.sleep(rng.uniform(0, 2 * PACE_S if failed == history.failed else 10 * PACE_S))

    def check(self) -> None:
        """Raises what a worker raised."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Ends the workers after what they are at; raises what one raised."""
        self._is_done = True
        await asyncio.gather(*self._tasks)


ObjectWork = RegisterWork | SetWork | ListWork | PairWork


def works_on_objects(access: Access, prefix: bytes) -> list[ObjectWork]:
    """Work on fresh objects below a prefix, several workers on each."""
    return [
        *(RegisterWork(access, f"register{number}", prefix + b"/register%d" % (number % 2)) for number in range(4)),
        *(SetWork(access, f"set{number}", prefix + b"/set") for number in range(3)),
        *(ListWork(access, f"list{number}", prefix + b"/list") for number in range(3)),
        *(PairWork(access, f"pair{number}", prefix + b"/pair") for number in range(2)),
    ]

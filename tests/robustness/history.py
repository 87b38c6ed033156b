"""What clients did and were told, as it is written down while it happens.

Three notebooks: operations on objects, for the search of an order (`tests/kit/linearizability.py`); sightings, which is
everything that carried a revision, for the comparison with the store's own history; writes, for the count of the lost.
"""

import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from raykube.client.kv import UnknownOutcome
from raykube.pb import mvcc_pb2
from raykube.rpc import Code, RpcError
from tests.kit.linearizability import Model, Operation, check

# After these nothing was written; after any other error of a write, nobody knows.
REFUSED = frozenset(
    {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.OUT_OF_RANGE}
)
NEVER = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.UNIMPLEMENTED, Code.DATA_LOSS})


class Sighting(NamedTuple):
    """An answer with a revision: the state of a range then, or (found is None) a write that made the revision."""

    started: float
    ended: float
    revision: int
    is_linearizable: bool
    member: str
    first: bytes = b""
    end: bytes = b""
    found: tuple[tuple[bytes, int, bytes], ...] | None = None  # key, mod revision, value


class Written(NamedTuple):
    """An acknowledged write of one key."""

    revision: int
    key: bytes
    value: bytes | None


@dataclass(slots=True)
class Outcome:
    """What became of a call: an answer, surely nothing, or nobody knows."""

    answer: Any = None
    is_unknown: bool = False
    error: Exception | None = None

    @property
    def is_known(self) -> bool:
        return self.error is None


class History:
    """The notebooks. Times are of one monotonic clock, in seconds from its start."""

    def __init__(self) -> None:
        self.operations: dict[tuple[type[Model[Any]], str], list[Operation]] = defaultdict(list)
        self.sightings: list[Sighting] = []
        self.written: list[Written] = []
        self.count = 0
        self.unknown = 0
        self.refused = 0
        self.acknowledged_at: list[tuple[float, float]] = []  # asked, answered: of acknowledged writes
        self._zero = time.monotonic()

    @property
    def failed(self) -> int:
        """Calls without an answer."""
        return self.unknown + self.refused

    def now(self) -> float:
        return time.monotonic() - self._zero

    async def call(self, run: Callable[[], Awaitable[Any]], is_write: bool, surely_not: Iterable[Code] = ()) -> Outcome:
        """Awaits a call; its errors become outcomes. `surely_not` are further codes after which nothing was written."""
        self.count += 1
        try:
            return Outcome(await run())
        except UnknownOutcome as error:
            self.unknown += 1
            return Outcome(is_unknown=True, error=error)
        except RpcError as error:
            assert error.code not in NEVER, f"no answer to anything: {error}"
            is_unknown = is_write and error.code not in REFUSED and error.code not in surely_not
            self.unknown += is_unknown
            self.refused += not is_unknown
            return Outcome(is_unknown=is_unknown, error=error)

    def record(
        self,
        model: type[Model[Any]],
        name: str,
        client: str,
        started: float,
        request: Any,
        outcome: Outcome,
        answer: Any,
    ) -> None:
        """Writes down an operation on the object `name`, unless it surely did not happen."""
        if outcome.is_known:
            self.operations[model, name].append(Operation(started, self.now(), request, answer, client))
        elif outcome.is_unknown:
            self.operations[model, name].append(Operation(started, math.inf, request, None, client))

    def saw(
        self,
        started: float,
        response: Any,
        member: str,
        first: bytes,
        end: bytes = b"",
        *,
        is_linearizable: bool = True,
    ) -> None:
        """Writes down a RangeResponse of all of [first, end), or of the key `first`."""
        found = tuple((kv.key, kv.mod_revision, kv.value) for kv in response.kvs)
        sighting = Sighting(started, self.now(), response.header.revision, is_linearizable, member, first, end, found)
        self.sightings.append(sighting)

    def wrote(self, started: float, revision: int, member: str, *written: tuple[bytes, bytes | None]) -> None:
        """Writes down an acknowledged write of some keys at one revision."""
        ended = self.now()
        self.sightings.append(Sighting(started, ended, revision, True, member))
        self.written += [Written(revision, key, value) for key, value in written]
        self.acknowledged_at.append((started, ended))

    def first_acknowledged(self, after: float) -> float | None:
        """When the first write was acknowledged that was asked for after this moment."""
        return min((ended for started, ended in self.acknowledged_at if started >= after), default=None)

    def forget(self) -> None:
        """Starts new notebooks, but for objects that are in use."""
        self.sightings, self.written, self.acknowledged_at = [], [], []
        self.count = self.unknown = self.refused = 0

    def check_objects(self) -> int:
        """Every object's operations are linearizable; forgets them. Returns how many there were."""
        count = 0
        for (model, name), operations in self.operations.items():
            verdict = check(model(operations), operations)
            assert verdict.is_linearizable, f"{model.__name__} {name}: {verdict}"
            count += len(operations)
        self.operations.clear()
        return count


def event_place(event: mvcc_pb2.Event) -> tuple[int, bytes]:
    """What tells an event from all others."""
    return event.kv.mod_revision, event.kv.key

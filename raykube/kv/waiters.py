"""Who waits at a member: for the outcome of a request, or for leave to read. Each until an answer, or until time is up.

One queue of deadlines for all: what a request costs here bounds what the store serves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from raykube.kv.core.mvcc.errors import StoreError
from raykube.rpc import Code, RpcError
from raykube.rpc.pending import Pending

REQUEST_TIMEOUT_S = 7.0

Finish = Callable[[Any], Any]
"""Makes the response out of what was waited for. May raise StoreError or RpcError."""

Waiter = asyncio.Future[Any] | Pending


class Waiters:
    """Who waits, by request or reader id. `forget(id)` of a request says whether it surely has no effect."""

    def __init__(self, forget: Callable[[int], bool], forget_reader: Callable[[int], None]) -> None:
        self._forget = forget
        self._forget_reader = forget_reader
        self._requests: dict[int, tuple[Waiter, Finish | None]] = {}
        self._readers: dict[int, list[tuple[Waiter, Finish | None]]] = {}
        self.timed_out = 0  # requests, so far
        self._deadlines: deque[tuple[float, int]] = deque()  # in order of time, as all wait equally long

    def add(self, request: int, waiter: Waiter, finish: Finish | None = None) -> None:
        """`waiter` waits for the outcome of a request. It gets an RpcError: UNAVAILABLE when it surely did not and will
        not happen, DEADLINE_EXCEEDED when that is unknown, or the state machine's own refusal."""
        self._requests[request] = waiter, finish
        self._deadlines.append((time.monotonic() + REQUEST_TIMEOUT_S, request))

    def add_reader(self, reader: int, waiter: Waiter, finish: Finish | None = None) -> None:
        """`waiter` waits for leave to read, and `finish` then reads; or gets an RpcError. Several may wait as one
        reader."""
        together = self._readers.get(reader)
        if together is None:
            self._readers[reader] = [(waiter, finish)]
            self._deadlines.append((time.monotonic() + REQUEST_TIMEOUT_S, reader))
        else:
            together.append((waiter, finish))

    @property
    def pending(self) -> int:
        """How many requests have no outcome yet."""
        return len(self._requests)

    def answer(self, request: int, outcome: Any) -> None:
        """The outcome of a request, a StoreError if it was refused."""
        waiting = self._requests.pop(request, None)
        if waiting is not None:
            _settle(*waiting, outcome)

    def release(self, reader: int) -> None:
        """The reader may read now."""
        for waiter, finish in self._readers.pop(reader, ()):
            _settle(waiter, finish, None)

    def give_up(self, now: float) -> None:
        """Tells those who waited too long, and forgets those who have gone."""
        deadlines = self._deadlines
        while deadlines:
            deadline, number = deadlines[0]
            if number in self._requests:
                waiter, _ = self._requests[number]
                if deadline > now and not waiter.done():
                    return
                del self._requests[number]
                self.timed_out += not waiter.done()
                # What no leader has seen is forgotten, and certainly will not happen.
                if self._forget(number):
                    _refuse(waiter, RpcError(Code.UNAVAILABLE, "etcdserver: no leader"))
                else:
                    _refuse(waiter, RpcError(Code.DEADLINE_EXCEEDED, "etcdserver: request timed out"))
            elif number in self._readers:
                if deadline > now and not all(waiter.done() for waiter, _ in self._readers[number]):
                    return
                self._forget_reader(number)
                for waiter, _ in self._readers.pop(number):
                    _refuse(waiter, RpcError(Code.UNAVAILABLE, "etcdserver: request timed out"))
            deadlines.popleft()

    def close(self) -> None:
        """The member stops: tells all."""
        stopped = RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")
        for request, (waiter, _) in self._requests.items():
            # Only what no leader has seen is certain: the rest may be in the others' logs.
            is_certain = self._forget(request)
            _refuse(waiter, stopped if is_certain else RpcError(Code.DEADLINE_EXCEEDED, stopped.message))
        for together in self._readers.values():
            for waiter, _ in together:
                _refuse(waiter, stopped)
        self._requests.clear()
        self._readers.clear()
        self._deadlines.clear()


def _settle(waiter: Waiter, finish: Finish | None, outcome: Any) -> None:
    if waiter.done():
        return
    if isinstance(outcome, StoreError):
        _refuse(waiter, outcome)
        return
    try:
        result = outcome if finish is None else finish(outcome)
    except (StoreError, RpcError) as error:
        _refuse(waiter, error)
    except Exception as error:
        waiter.set_exception(error)
    else:
        waiter.set_result(result)


def _refuse(waiter: Waiter, error: StoreError | RpcError) -> None:
    if not waiter.done():
        waiter.set_exception(RpcError(Code[error.code], error.message) if isinstance(error, StoreError) else error)
        waiter.exception()  # whoever asked may have gone

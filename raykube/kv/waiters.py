"""Who waits at a member: for the outcome of a request, or for leave to read. Each until an answer, or until time is up.

A future for each and one queue of deadlines for all: what a request costs here bounds what the store serves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from raykube.kv.core.mvcc.errors import StoreError
from raykube.rpc import Code, RpcError

REQUEST_TIMEOUT_S = 7.0

Finish = Callable[[Any], Any]
"""Makes the response out of what was waited for. May raise StoreError or RpcError."""


class Waiters:
    """The futures by request or reader id. `forget(id)` of a request says whether it surely has no effect."""

    def __init__(self, forget: Callable[[int], bool], forget_reader: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._forget = forget
        self._forget_reader = forget_reader
        self._requests: dict[int, tuple[asyncio.Future[Any], Finish | None]] = {}
        self._readers: dict[int, list[tuple[asyncio.Future[Any], Finish | None]]] = {}
        self._deadlines: deque[tuple[float, int]] = deque()  # in order of time, as all wait equally long

    def add(self, request: int, finish: Finish | None = None) -> asyncio.Future[Any]:
        """Waits for the outcome of a request. The future raises RpcError: UNAVAILABLE when it surely did not and will
        not happen, DEADLINE_EXCEEDED when that is unknown, or the state machine's own refusal."""
        future = self._loop.create_future()
        self._requests[request] = future, finish
        self._deadlines.append((time.monotonic() + REQUEST_TIMEOUT_S, request))
        return future

    def add_reader(self, reader: int, finish: Finish | None = None) -> asyncio.Future[Any]:
        """Waits for leave to read; `finish` then reads. Several may wait as one reader. The future raises RpcError."""
        future = self._loop.create_future()
        together = self._readers.get(reader)
        if together is None:
            self._readers[reader] = [(future, finish)]
            self._deadlines.append((time.monotonic() + REQUEST_TIMEOUT_S, reader))
        else:
            together.append((future, finish))
        return future

    def answer(self, request: int, outcome: Any) -> None:
        """The outcome of a request, a StoreError if it was refused."""
        waiting = self._requests.pop(request, None)
        if waiting is not None:
            _settle(*waiting, outcome)

    def release(self, reader: int) -> None:
        """The reader may read now."""
        for future, finish in self._readers.pop(reader, ()):
            _settle(future, finish, None)

    def give_up(self, now: float) -> None:
        """Tells those who waited too long, and forgets those who have gone."""
        deadlines = self._deadlines
        while deadlines:
            deadline, number = deadlines[0]
            if number in self._requests:
                future, _ = self._requests[number]
                if deadline > now and not future.done():
                    return
                del self._requests[number]
                # What no leader has seen is forgotten, and certainly will not happen.
                if self._forget(number):
                    _refuse(future, RpcError(Code.UNAVAILABLE, "etcdserver: no leader"))
                else:
                    _refuse(future, RpcError(Code.DEADLINE_EXCEEDED, "etcdserver: request timed out"))
            elif number in self._readers:
                if deadline > now and not all(future.done() for future, _ in self._readers[number]):
                    return
                self._forget_reader(number)
                for future, _ in self._readers.pop(number):
                    _refuse(future, RpcError(Code.UNAVAILABLE, "etcdserver: request timed out"))
            deadlines.popleft()

    def close(self) -> None:
        """The member stops: tells all."""
        stopped = RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")
        for request, (future, _) in self._requests.items():
            # Only what no leader has seen is certain: the rest may be in the others' logs.
            is_certain = self._forget(request)
            _refuse(future, stopped if is_certain else RpcError(Code.DEADLINE_EXCEEDED, stopped.message))
        for together in self._readers.values():
            for future, _ in together:
                _refuse(future, stopped)
        self._requests.clear()
        self._readers.clear()
        self._deadlines.clear()


def _settle(future: asyncio.Future[Any], finish: Finish | None, outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, StoreError):
        _refuse(future, outcome)
        return
    try:
        result = outcome if finish is None else finish(outcome)
    except (StoreError, RpcError) as error:
        _refuse(future, error)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _refuse(future: asyncio.Future[Any], error: StoreError | RpcError) -> None:
    if not future.done():
        future.set_exception(RpcError(Code[error.code], error.message) if isinstance(error, StoreError) else error)
        future.exception()  # whoever asked may have gone

"""Coalesces concurrent writers into bulk requests: all that waits goes out when a request slot is free.

No timers: a lone writer is sent at once, and while requests are in flight the next one grows. Bounds: operations and
bytes per request, requests in flight, and operations waiting: writers beyond that wait for room.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from raykube.pb import api_pb2

Send = Callable[[list[api_pb2.Operation]], Awaitable[list[api_pb2.Result]]]


@dataclass(slots=True)
class _Piece:
    """Consecutive operations of one writer."""

    operations: list[api_pb2.Operation]
    bytes: int
    future: "asyncio.Future[list[api_pb2.Result]]"


class Batcher:
    """`write` returns the results of its own operations, in order; raises what `send` raised for their request."""

    def __init__(
        self,
        send: Send,
        operations_max: int = 1000,
        bytes_max: int = 4 << 20,
        in_flight_max: int = 4,
        waiting_max: int = 20_000,
    ) -> None:
        self._send = send
        self._operations_max = operations_max
        self._bytes_max = bytes_max
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._waiting: deque[_Piece] = deque()
        self._waiting_count = 0
        self._room = asyncio.Condition()
        self._requests: set[asyncio.Task[None]] = set()
        self._closed = False

    async def write(self, operations: list[api_pb2.Operation]) -> list[api_pb2.Result]:
        futures = []
        for piece in self._cut(operations):
            if self._waiting_count >= self._waiting_max:
                async with self._room:
                    await self._room.wait_for(lambda: self._closed or self._waiting_count < self._waiting_max)
                    if self._closed:
                        raise asyncio.CancelledError  # as for those whose operations were waiting
            self._waiting.append(piece)
            self._waiting_count += len(piece.operations)
            futures.append(piece.future)
            if len(self._requests) < self._in_flight_max:
                # The turn of the loop that this takes lets writers woken together share the request.
                self._launch()
        answers = await asyncio.gather(*futures)
        return answers[0] if len(answers) == 1 else [result for answer in answers for result in answer]

    async def close(self) -> None:
        self._closed = True
        for task in list(self._requests):
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        for piece in self._waiting:
            piece.future.cancel()
        self._waiting.clear()
        async with self._room:
            self._room.notify_all()

    def _cut(self, operations: list[api_pb2.Operation]) -> list[_Piece]:
        loop = asyncio.get_running_loop()
        pieces: list[_Piece] = []
        for operation in operations:
            size = len(operation.body) + 128
            last = pieces[-1] if pieces else None
            if last is None or len(last.operations) >= self._operations_max or last.bytes + size > self._bytes_max:
                last = _Piece([], 0, loop.create_future())
                pieces.append(last)
            last.operations.append(operation)
            last.bytes += size
        return pieces

    def _launch(self) -> None:
        task = asyncio.get_running_loop().create_task(self._drain())
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _drain(self) -> None:
        while self._waiting:
            await self._request(self._take())
            if self._room.locked() or self._waiting_count < self._waiting_max:
                async with self._room:
                    self._room.notify_all()

    def _take(self) -> list[_Piece]:
        taken, count, size = [self._waiting.popleft()], 0, 0
        count, size = len(taken[0].operations), taken[0].bytes
        while self._waiting:
            head = self._waiting[0]
            if count + len(head.operations) > self._operations_max or size + head.bytes > self._bytes_max:
                break
            taken.append(self._waiting.popleft())
            count += len(head.operations)
            size += head.bytes
        self._waiting_count -= count
        return taken

    async def _request(self, pieces: list[_Piece]) -> None:
        operations = pieces[0].operations if len(pieces) == 1 else [o for piece in pieces for o in piece.operations]
        try:
            results = await self._send(operations)
        except asyncio.CancelledError:
            for piece in pieces:
                piece.future.cancel()
            raise
        except Exception as error:
            for piece in pieces:
                if not piece.future.done():
                    piece.future.set_exception(error)
            return
        start = 0
        for piece in pieces:
            end = start + len(piece.operations)
            if not piece.future.done():  # its writer may have been cancelled
                piece.future.set_result(results[start:end])
            start = end

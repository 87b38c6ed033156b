"""A call that is being answered: its request, then its handler, in a task or without."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import TYPE_CHECKING, Any

from raykube.rpc.core.messages import Compressed
from raykube.rpc.errors import Code, RpcError
from raykube.rpc.handlers import Call, Receiver, Served
from raykube.rpc.pending import Pending
from raykube.rpc.steps import start

if TYPE_CHECKING:
    from raykube.rpc.serving import ServedConnection

log = logging.getLogger(__name__)

TRY_EVERY = 64  # streams


class ServedCall:
    """A call under way: its request, then its handler."""

    __slots__ = (
        "_connection",
        "_ended",
        "_handler",
        "_messages",
        "_more",
        "_pending",
        "_receiver",
        "call",
        "over",
        "room",
        "served",
        "stream",
        "task",
        "timer",
    )

    def __init__(self, connection: "ServedConnection", stream: int, served: Served, call: Call) -> None:
        self._connection = connection
        self.stream = stream
        self.served = served
        self.call = call
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.room: asyncio.Future[None] | None = None  # awaited while enough waits to be sent
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._handler: Any = None  # what answers, once it has begun or is about to
        self._more: asyncio.Future[None] | None = None  # awaited while no message is there
        self._receiver: Receiver | None = None
        self._pending: Pending | None = None

    def on_message(self, message: bytes) -> None:
        if self._receiver is not None:
            self._receive(self._receiver, message)
            return
        self._messages.append(message)
        if self._more is not None:
            self._wake()

    def on_end(self) -> None:
        self._ended = True
        if self._receiver is not None:
            self.end()
        elif self.served.method.client_streaming:
            self._wake()
        else:
            self.begin()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def begin(self) -> None:
        """Runs the handler: when the whole request is there, or at once when the client streams."""
        method = self.served.method
        assert self.served.function is not None
        try:
            request = Requests(self) if method.client_streaming else self._request()
            answer = self.served.function(request, self.call)
        except Exception as error:
            self._fail(error)
            return
        if isinstance(answer, Receiver):
            assert method.client_streaming, f"{method.path} takes one request"
            self._receiver = answer
            if self.over:  # it ended the call as soon as it was made
                self.close()
        elif isinstance(answer, Pending):
            self._pending = answer
            answer.then(self._on_answer)
        elif method.server_streaming or isinstance(answer, Coroutine):
            self._handler = answer
            self._start(self._run(answer))
        else:
            self._answer(answer)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        loop, served = self._connection.loop, self.served
        # A task from the start is cheaper for who waits than one that takes over; now and then it is tried anew.
        if served.waits and self.stream % TRY_EVERY != 1:
            self.task = loop.create_task(coroutine)
            return
        task = start(loop, coroutine)
        served.waits = task is not None
        if task is not None:
            self.task = task
            if self.over:
                task.cancel()

    async def _run(self, answer: Any) -> None:
        try:
            if not self.served.method.server_streaming:
                self._answer(await answer)
                return
            await self._send_all(answer)
        except asyncio.CancelledError:
            self._finish(Code.CANCELLED, "the call was cancelled at the server")
            raise
        except Exception as error:
            self._fail(error)
        else:
            self._finish(Code.OK, "")

    def _on_answer(self, answer: Pending) -> None:
        error = answer.exception()
        if error is not None:
            self._fail(error)
        else:
            self._answer(answer.result())

    def _answer(self, response: Any) -> None:
        """The one response of a call."""
        if self.over:
            return
        try:
            message = response.SerializeToString()
        except Exception as error:
            self._fail(error)
            return
        self._connection.respond(self, message)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, RpcError):
            self._finish(error.code, error.message)
            return
        log.error("unhandled error in %s", self.served.method.path, exc_info=error)
        self._finish(Code.INTERNAL, f"{type(error).__name__}: {error}")

    def _finish(self, code: Code, message: str) -> None:
        if not self.over:
            self._connection.finish(self, code, message)

    async def _send_all(self, answers: AsyncIterator[Any]) -> None:
        connection = self._connection
        try:
            async for answer in answers:
                room = connection.core.send_message(self.stream, answer.SerializeToString())
                connection.write_soon()
                if not room:
                    self.room = connection.loop.create_future()
                    await self.room
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                await close()

    def _receive(self, receiver: Receiver, message: bytes) -> None:
        try:
            self._connection.taken(self.stream, message)
            receiver.on_message(self.served.parse(self._plain(message)))
        except Exception as error:
            self._fail(error)

    def send(self, answer: Any) -> None:
        """Sends one of the answers of a streamed call."""
        if not self.over:
            self._connection.core.send_message(self.stream, answer.SerializeToString())
            self._connection.write_soon()

    def end(self) -> None:
        """Ends the call with OK."""
        self._finish(Code.OK, "")

    def _request(self) -> Any:
        if len(self._messages) != 1:
            raise RpcError(Code.INTERNAL, f"{len(self._messages)} messages in a call that takes one")
        return self.served.parse(self._plain(self._messages[0]))

    def _plain(self, message: bytes) -> bytes:
        """Raises RpcError when it was not compressed as it should be, or is too long."""
        return message.inflated(self._connection.inflated_bytes_max) if type(message) is Compressed else message

    async def next_message(self) -> bytes:
        """The next message of a client that streams. Raises StopAsyncIteration behind the last."""
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            if self.over:
                raise RpcError(Code.CANCELLED, "the call is over")
            self._more = self._connection.loop.create_future()
            await self._more
        message = self._messages.popleft()
        self._connection.taken(self.stream, message)
        return message

    def parsed(self, message: bytes) -> tuple[Any, bytes]:
        """A message and its bytes. Ends the call where it is none, also when the handler makes nothing of that, and
        raises RpcError."""
        try:
            plain = self._plain(message)
            return self.served.parse(plain), plain
        except RpcError as error:
            self._fail(error)
            raise

    def close(self) -> None:
        """Nothing can be sent in the call any more."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_end()
        if self._more is not None:
            self._wake()

    def cancel(self) -> None:
        """Ends the handler."""
        self.close()
        if self._pending is not None:
            self._pending.cancel()
        if self.task is not None:
            self.task.cancel()
            # A task that is cancelled before its first step never gets to what it was to await.
            if iscoroutine(self._handler) and getcoroutinestate(self._handler) == CORO_CREATED:
                self._handler.close()


class Requests:
    """The messages of a client that streams, as its handler reads them; a `Receiver` answers with `send`."""

    def __init__(self, call: ServedCall) -> None:
        self._call = call

    def end(self) -> None:
        """Ends the call with OK: nothing more is taken, nothing more is sent."""
        self._call.end()

    def send(self, answer: Any) -> None:
        """One more answer. It is not held back by a client that does not read: for few and small ones."""
        self._call.send(answer)

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        return (await self.next())[0]

    async def next(self) -> tuple[Any, bytes]:
        """The next message, and its bytes. Raises StopAsyncIteration behind the last, RpcError where it is none."""
        return self._call.parsed(await self._call.next_message())

"""Calls of a client that are under way, as their connection sees them: it hands over messages and the end.

`on_message` returns why the call must not go on, or None. `on_finished` gets the error that the call became, or None.
"""

import asyncio
from collections import deque
from typing import Protocol

from raykube.rpc.errors import Code, RpcError


class UnaryAnswer:
    """A call under way whose answer is one message: `future` becomes its bytes."""

    __slots__ = ("_message", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[bytes] = loop.create_future()
        self._message: bytes | None = None

    def on_message(self, message: bytes) -> RpcError | None:
        if self._message is not None:
            return RpcError(Code.INTERNAL, "the server sent more than one answer")
        self._message = message
        return None

    def on_finished(self, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self._message is None:
            self.future.set_exception(RpcError(Code.INTERNAL, "the server sent status OK and no answer"))
        else:
            self.future.set_result(self._message)


class StreamedAnswer:
    """A call under way whose answer is any number of messages: they wait in `messages`, bounded by the window."""

    __slots__ = ("_loop", "_woken", "error", "is_finished", "messages")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken: asyncio.Future[None] | None = None
        self.messages: deque[bytes] = deque()
        self.is_finished = False
        self.error: BaseException | None = None

    def on_message(self, message: bytes) -> RpcError | None:
        self.messages.append(message)
        self._wake()
        return None

    def on_finished(self, error: BaseException | None) -> None:
        self.is_finished = True
        self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Until there is a message or the end."""
        if not self.messages and not self.is_finished:
            self._woken = self._loop.create_future()
            await self._woken


class Answer(Protocol):
    """What a link tells of a call."""

    def on_message(self, message: bytes) -> RpcError | None: ...

    def on_finished(self, error: BaseException | None) -> None: ...

"""Running a coroutine at once, with a task only when it suspends.

In its first step `asyncio.current_task()` is a `Starting`, which becomes that task: thus time-outs and task groups that
were begun in the first step find their task later.
"""

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task  # for makers of tasks, as the manual has it
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any


class Starting:
    """Stands for the task of a coroutine in its first step, and passes on to the task from then on."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = 0

    def cancel(self, msg: Any = None) -> bool:
        if self._task is not None:
            return self._task.cancel(msg)
        self._cancelled += 1
        return True

    def cancelling(self) -> int:
        return self._cancelled if self._task is None else self._task.cancelling()

    def uncancel(self) -> int:
        if self._task is not None:
            return self._task.uncancel()
        self._cancelled = max(0, self._cancelled - 1)
        return self._cancelled

    def become(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        for _ in range(self._cancelled):
            task.cancel()

    def __getattr__(self, name: str) -> Any:
        if self._task is None:
            raise AttributeError(f"{name}: the task has not begun")
        return getattr(self._task, name)


def start(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Runs `coroutine` until it suspends; the task that goes on with it, None when it ended.

    Called outside of any task. What the coroutine raises in its first step is raised here,
    but for a CancelledError: that ends it, as it ends a task.
    """
    starting: Any = Starting()
    context = copy_context()
    _enter_task(loop, starting)
    try:
        awaited = context.run(coroutine.send, None)
    except (StopIteration, asyncio.CancelledError):
        return None
    finally:
        _leave_task(loop, starting)
    rest = _rest(coroutine, awaited)
    rest.send(None)  # up to its pause: a task that is cancelled before its first step never enters a new coroutine
    task = loop.create_task(rest, context=context)
    starting.become(task)
    return task


async def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _resume(coroutine, awaited)


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Goes on with a coroutine that was stepped once and waits for `awaited`, after a pause."""
    try:
        yield
    except asyncio.CancelledError as error:
        # As a task does: what it waits for is cancelled, and then says so to who waits.
        if awaited is None or not awaited.cancel():
            try:
                awaited = coroutine.throw(error)
            except StopIteration:
                return
    while True:
        step: Callable[[Any], Any] = coroutine.send
        try:
            sent = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step, sent = coroutine.throw, error
        try:
            awaited = step(sent)
        except StopIteration:
            return

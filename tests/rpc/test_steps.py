"""A coroutine run at once and then as a task behaves like one that was a task from the start."""

import asyncio
import contextvars
from typing import Any

import pytest

from raykube.rpc.steps import start


async def begun(coroutine: Any) -> asyncio.Task[None] | None:
    """Starts it outside of any task, as a protocol does."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[asyncio.Task[None] | None] = loop.create_future()

    def run() -> None:
        try:
            result.set_result(start(loop, coroutine))
        except BaseException as error:
            result.set_exception(error)

    loop.call_soon(run)
    return await result


async def test_one_that_does_not_suspend_has_ended_without_a_task() -> None:
    seen = []

    async def work() -> None:
        seen.append(asyncio.current_task())

    assert await begun(work()) is None
    assert len(seen) == 1 and seen[0] is not None


async def test_what_it_raises_at_once_is_raised() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await begun(work())


async def test_it_goes_on_as_a_task_and_waits_for_anything() -> None:
    seen: list[Any] = []

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        seen.append(await future)
        await asyncio.sleep(0)
        seen.append(await asyncio.gather(asyncio.sleep(0, 2), asyncio.sleep(0, 3)))
        with pytest.raises(ZeroDivisionError):
            await asyncio.create_task(divide())
        seen.append("end")

    async def divide() -> None:
        raise ZeroDivisionError

    task = await begun(work())
    assert task is not None
    await task
    assert seen == [1, [2, 3], "end"]


async def test_one_that_first_only_yields() -> None:
    seen: list[int] = []

    async def work() -> None:
        for number in range(3):
            await asyncio.sleep(0)
            seen.append(number)

    task = await begun(work())
    assert task is not None
    await task
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("waits_for", ["future", "task", "yield"])
@pytest.mark.parametrize("when", ["before the task's first step", "later"])
async def test_cancelling_reaches_it_and_what_it_waits_for(waits_for: str, when: str) -> None:
    seen: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("inner")
            raise

    async def spin() -> None:
        while not seen:  # noqa: ASYNC110  yields to the loop without a future, which is what is tested
            await asyncio.sleep(0)

    async def work() -> None:
        try:
            if waits_for == "future":
                await asyncio.get_running_loop().create_future()
            elif waits_for == "task":
                await asyncio.create_task(inner())
            else:
                await spin()
        except asyncio.CancelledError:
            seen.append("work")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        task = start(loop, work())
        assert task is not None
        done.set_result(task)
        if when != "later":
            task.cancel()

    loop.call_soon(run)
    task = await done
    if when == "later":
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await task
    assert seen == [*(["inner"] if waits_for == "task" else []), "work", "cleaned up"]


async def test_one_that_cancels_itself_in_its_first_step() -> None:
    seen: list[str] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        assert task.cancelling() == 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            assert asyncio.current_task() is not task
            assert task.uncancel() == 0

    task = await begun(work())
    assert task is not None
    await task
    assert seen == ["cancelled"]


async def test_its_context_is_its_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="before")

    async def work() -> None:
        variable.set("within")
        await asyncio.sleep(0)
        assert variable.get() == "within"

    task = await begun(work())
    assert task is not None
    await task
    assert variable.get() == "before"

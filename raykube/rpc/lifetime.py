"""How long a service made of tasks lives."""

import asyncio
from collections.abc import Iterable


async def until_stopped(stopped: asyncio.Event, tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Returns once `stopped` is set; before that, raises what ended one of `tasks`, or returns where one just ended."""
    stop = asyncio.ensure_future(stopped.wait())
    try:
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            for task in done:
                task.result()
    finally:
        stop.cancel()


async def until_ended(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Returns once one of `tasks` returned or was cancelled; raises what one of them raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if not task.cancelled():
            task.result()

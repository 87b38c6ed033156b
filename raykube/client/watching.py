"""A watch as `Client` offers it: what is there, then every change, through the loss of an apiserver."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from raykube.api.resources import Resource
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.client.objects import Change, Object
from raykube.client.places import typed

CHANGES_MAX = 100_000  # that wait for the reader, beyond what was there at the start
REFUSALS = frozenset({400, 401, 403, 404, 405})  # asking again would not help


async def changes(
    api: ApiClient, resource: Resource, scope: str, label_selector: str, field_selector: str, timeout: float | None
) -> AsyncIterator[Change]:
    """Ends after `timeout` seconds, if given. Raises ApiError when the apiserver refuses, BufferError at the bound."""
    queue: asyncio.Queue[Change | None] = asyncio.Queue()
    waiting_max = CHANGES_MAX
    informer = Informer(api, resource, scope, label_selector, field_selector)

    def put(event: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        nonlocal waiting_max
        if not informer.has_synced:
            waiting_max += 1
        elif queue.qsize() >= waiting_max:
            task.cancel()
            return
        found = new if new is not None else old
        assert found is not None
        queue.put_nowait(Change(event, Object(typed(found, resource))))

    informer.add_handler(put)
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    task = loop.create_task(informer.run(refusals=REFUSALS))
    task.add_done_callback(lambda _task: queue.put_nowait(None))
    try:
        while True:
            try:
                # Around this wait only: every item is asked for by a task of its own.
                async with asyncio.timeout_at(deadline):
                    change = await queue.get()
            except TimeoutError:
                return
            if change is not None:
                yield change
            elif task.cancelled():
                raise BufferError(f"{CHANGES_MAX} changes of {resource.plural} wait to be read: watch again")
            else:
                task.result()
    finally:
        task.cancel()

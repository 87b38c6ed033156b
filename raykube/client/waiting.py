"""Waits, as `Client` offers it, until objects have reached a goal (see goals.py), through the loss of an apiserver."""

import asyncio
from typing import Any

from raykube.api.resources import Resource
from raykube.client.api import ApiClient
from raykube.client.goals import Goal, reached
from raykube.client.informer import Informer
from raykube.client.objects import Object
from raykube.client.places import Place, named, typed
from raykube.client.progress import Progress
from raykube.client.watching import REFUSALS

NAMED_MAX = 3  # of what is missing, in the message of a WaitTimeout


BEFORE_AND_AFTER = ("exists", "deleted")  # goals of objects that need not be there


class WaitTimeout(TimeoutError):
    """What was waited for did not happen in time; the message names what is missing."""


async def wait_for(api: ApiClient, places: list[Place], goal: Goal, timeout: float, bar: Progress) -> list[Object]:
    """The objects as they are once all have reached the goal. Raises WaitTimeout, goals.Unreachable, ApiError.

    An object that does not exist at the beginning is an ApiError 404, as for kubectl, unless the goal is about that.
    """
    current: dict[Place, Object | None] = dict.fromkeys(places)
    done: set[Place] = set()
    wake = asyncio.Event()
    informers: dict[tuple[Resource, str], Informer] = {}

    def judge(place: Place) -> None:
        found = informers[place[0], place[1]].get(place[1], place[2])
        shown = Object(typed(found, place[0])) if found is not None else None
        if shown is not None:
            current[place] = shown
        done.discard(place)
        if reached(goal, shown):
            done.add(place)

    for resource, scope, name in places:
        if (resource, scope) not in informers:
            alone = sum(place[:2] == (resource, scope) for place in places) == 1
            selector = f"metadata.name={name}" if alone else ""
            informer = informers[resource, scope] = Informer(api, resource, scope, field_selector=selector)
            informer.add_batch_handler(lambda _changes: wake.set())
    tasks = [asyncio.create_task(informer.run(refusals=REFUSALS)) for informer in informers.values()]
    synced = asyncio.gather(*(informer.synced() for informer in informers.values()))
    under_way: list[asyncio.Future[Any]] = [synced, *tasks]
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            if goal not in BEFORE_AND_AFTER:
                await _check_presence(api, [place for place in places if not informers[place[:2]].get(*place[1:])])
            while True:
                wake.clear()
                for place in places:
                    judge(place)
                bar.update(len(done))
                if len(done) == len(places):
                    return [found for found in current.values() if found is not None]
                await wake.wait()
    except TimeoutError:
        missing = [named(place) for place in places if place not in done]
        more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
        raise WaitTimeout(f"not within {timeout:g} s: {', '.join(missing[:NAMED_MAX])}{more}") from None
    finally:
        synced.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(synced, *tasks, return_exceptions=True)


async def _check_presence(api: ApiClient, absent: list[Place]) -> None:
    """Raises ApiError 404 for the first that is not there. An informer's apiserver may only be late in knowing it."""
    for resource, scope, name in absent:
        await api.get(resource, scope, name)

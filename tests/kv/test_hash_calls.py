"""A hash of all there is takes a while, in a thread: nothing may depend on its caller's waiting for it."""

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raykube.kv.core.mvcc.store import Store
from raykube.kv.maintenance_service import MaintenanceService


@pytest.fixture
def no_collector() -> Iterator[None]:
    """A busy member's is kept from what was there when it froze."""
    gc.disable()
    yield
    gc.enable()


def compacted() -> Store:
    store = Store()
    for _ in range(10):
        store.put_alone(b"a", b"1", 0)
    store.compact(store.revision)
    return store


@pytest.mark.usefixtures("no_collector")
async def test_a_call_that_is_given_up_before_its_turn_holds_no_memory() -> None:
    store = compacted()
    service = MaintenanceService(cast(Any, SimpleNamespace(id=1, cluster_id=1, store=store)), cast(Any, None))
    busy = Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(busy.wait)
        try:
            calls = [asyncio.create_task(service.Hash(None, None)) for _ in range(3)]
            await asyncio.sleep(0)
            assert store.sweep(100), "one of them wants to know what is there"
            for call in calls:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            assert not store.sweep(100)
        finally:
            busy.set()

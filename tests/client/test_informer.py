"""The informer on real streams that break, lag and forget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.core.listwatch import Change
from raykube.client.informer import FIRST_AT_ONCE, Informer
from tests.client.test_api import MAPS, config_map
from tests.kit.memory_api import MemoryApi, MemoryStore
from tests.kit.waiting import until


@asynccontextmanager
async def cluster(count: int = 1) -> AsyncIterator[tuple[MemoryStore, list[MemoryApi], ApiClient]]:
    store = MemoryStore()
    apis = [MemoryApi(store) for _ in range(count)]
    addresses = [await api.start() for api in apis]
    for api in apis:
        api.peers = addresses
    async with ApiClient(addresses) as client:
        yield store, apis, client
    for api in apis:
        await api.stop()


@asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[list[tuple[str, str]]]:
    """Runs it; yields what its handler saw."""
    seen: list[tuple[str, str]] = []

    def handler(kind: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        found = new if new is not None else old
        assert found is not None
        seen.append((kind, found["metadata"]["name"]))

    informer.add_handler(handler)
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(10):
            await informer.synced()
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def data(informer: Informer, name: str) -> Callable[[], Any]:
    return lambda: (informer.get("d", name) or {}).get("data")


async def test_state_then_events_then_selections() -> None:
    async with cluster() as (_, _, client):
        await client.create(config_map("a", x="1"))
        labelled = config_map("l")
        labelled["metadata"]["labels"] = {"team": "x"}
        informer, selected = Informer(client, MAPS), Informer(client, MAPS, label_selector="team=x")
        informer.add_index("x", lambda obj: [obj["data"]["x"]] if obj.get("data") else [])
        async with running(informer) as seen, running(selected) as seen_selected:
            assert seen == [("ADDED", "a")]
            await client.create(labelled)
            await client.patch(MAPS, "d", "a", {"data": {"x": "2"}})
            await client.patch(MAPS, "d", "l", {"metadata": {"labels": {"team": "y"}}})
            await client.delete(MAPS, "d", "a")
            await until(lambda: len(seen) == 5)
            assert seen[1:] == [("ADDED", "l"), ("MODIFIED", "a"), ("MODIFIED", "l"), ("DELETED", "a")]
            await until(lambda: len(seen_selected) == 2)
            assert seen_selected == [("ADDED", "l"), ("DELETED", "l")]
            assert informer.by_index("x", "1") == informer.by_index("x", "2") == []


async def test_a_broken_watch_resumes_without_loss_or_repetition() -> None:
    async with cluster(2) as (_, apis, client):
        informer = Informer(client, MAPS)
        async with running(informer) as seen:
            for api in apis:
                api.watch_break_after = 3
            for number in range(20):
                await client.create(config_map(f"m{number}"))
            await until(lambda: len(informer) == 20)
            assert seen == [("ADDED", f"m{number}") for number in range(20)]


async def test_a_dead_apiserver_is_replaced_by_the_other() -> None:
    async with cluster(2) as (_, apis, client):
        informer = Informer(client, MAPS)
        async with running(informer) as seen:
            await apis[0].stop()
            await client.create(config_map("a"))
            await until(lambda: seen == [("ADDED", "a")])


async def test_a_forgotten_revision_is_relisted_with_the_differences_only() -> None:
    async with cluster() as (store, apis, client):
        await client.create(config_map("stays"))
        await client.create(config_map("goes"))
        informer = Informer(client, MAPS)
        async with running(informer) as seen:
            port = int(apis[0].address.rpartition(":")[2])
            await apis[0].stop()
            store.put(("configmaps", "d", "new"), config_map("new"))
            store.put(("configmaps", "d", "goes"), None)
            store.compact()
            del seen[:]
            await apis[0].start(port)
            await until(lambda: len(seen) >= 2)
            assert sorted(seen) == [("ADDED", "new"), ("DELETED", "goes")]


async def test_an_apiserver_that_lags_is_not_believed() -> None:
    async with cluster() as (store, apis, client):
        await client.create(config_map("a", x="1"))
        informer = Informer(client, MAPS)
        async with running(informer):
            revision = informer.resource_version
            port = int(apis[0].address.rpartition(":")[2])
            await apis[0].stop()
            store.put(("configmaps", "d", "a"), config_map("a", x="2"))
            store.compact()
            apis[0].lag = 2
            asked = apis[0].requests
            await apis[0].start(port)
            await until(lambda: apis[0].requests > asked + 2, what="the watch is opened again and again")
            assert informer.resource_version == revision
            assert data(informer, "a")() == {"x": "1"}
            apis[0].lag = 0
            await until(lambda: data(informer, "a")() == {"x": "2"})


async def test_a_failing_handler_does_not_stop_the_others() -> None:
    async with cluster() as (_, _, client):
        informer = Informer(client, MAPS)

        def fails(*_: object) -> None:
            raise RuntimeError("a bug")

        informer.add_handler(fails)
        async with running(informer) as seen:
            await client.create(config_map("a"))
            await until(lambda: seen == [("ADDED", "a")])


async def test_the_first_state_is_told_in_pieces_between_which_others_have_their_turns() -> None:
    count = 2 * FIRST_AT_ONCE + 1
    async with cluster() as (_, _, client):
        results = await client.write([operations.create(config_map(f"m{number}")) for number in range(count)])
        assert all(result.code < 400 for result in results)
        informer = Informer(client, MAPS)
        pieces: list[int] = []
        late: list[str] = []
        turns: list[int] = []  # of another task: how many pieces it found told
        informer.add_batch_handler(lambda changes: pieces.append(len(changes)))

        async def another() -> None:
            while sum(pieces) < count:
                turns.append(len(pieces))
                if len(pieces) == 1 and not late:
                    # Who comes between two pieces is told of each object once too.
                    informer.add_handler(lambda kind, _, new: late.append(f"{kind} {(new or {})['metadata']['name']}"))
                    assert len(late) == FIRST_AT_ONCE
                assert not informer.has_synced
                await asyncio.sleep(0)

        task = asyncio.create_task(another())
        async with asyncio.timeout(10), running(informer) as seen:
            await task
            assert pieces == [FIRST_AT_ONCE, FIRST_AT_ONCE, 1]
            assert {1, 2} <= set(turns)
            assert len(seen) == count and sorted(late) == sorted(f"ADDED m{number}" for number in range(count))


@pytest.mark.parametrize("count", [FIRST_AT_ONCE + 1, FIRST_AT_ONCE, 1])
async def test_a_first_state_that_was_half_told_is_told_on(count: int) -> None:
    async with cluster() as (_, _, client):
        results = await client.write([operations.create(config_map(f"m{number}")) for number in range(count)])
        assert all(result.code < 400 for result in results)
        informer = Informer(client, MAPS)
        told: list[str] = []

        def stop_after_the_first_piece(changes: list[Change]) -> None:
            told.extend(change.object["metadata"]["name"] for change in changes)
            first.cancel()

        informer.add_batch_handler(stop_after_the_first_piece)
        first = asyncio.create_task(informer.run())
        await asyncio.gather(first, return_exceptions=True)
        assert (len(told), informer.has_synced) == (min(FIRST_AT_ONCE, count), count <= FIRST_AT_ONCE)
        async with running(informer):
            assert sorted(told) == sorted(f"m{number}" for number in range(count))

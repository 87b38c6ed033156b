"""The asynchronous client against one or two apiservers on real sockets, and what goes wrong on them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import by_path
from raykube.base.backoff import Backoff
from raykube.client import operations
from raykube.client.api import ApiClient
from tests.kit.memory_api import MemoryApi, MemoryStore
from tests.kit.waiting import until

MAPS = by_path("", "v1", "configmaps")
assert MAPS is not None


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "d"}, "data": data}


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def api(store: MemoryStore) -> AsyncIterator[MemoryApi]:
    api = MemoryApi(store)
    await api.start()
    yield api
    await api.stop()


@pytest.fixture
async def client(api: MemoryApi) -> AsyncIterator[ApiClient]:
    async with ApiClient([api.address]) as client:
        yield client


async def test_one_object_through_its_life(client: ApiClient) -> None:
    made = await client.create(config_map("a", x="1"))
    assert made["metadata"]["uid"]
    made["data"]["x"] = "2"
    changed = await client.update(made)
    assert changed["data"] == {"x": "2"}
    with pytest.raises(ApiError) as conflict:
        await client.update(made)
    assert conflict.value.code == 409
    patched = await client.patch(MAPS, "d", "a", {"data": {"y": "3"}})
    assert patched["data"] == {"x": "2", "y": "3"}
    assert await client.get(MAPS, "d", "a") == patched
    objects, revision = await client.list(MAPS)
    assert objects == [patched]
    assert revision == int(patched["metadata"]["resourceVersion"])
    await client.delete(MAPS, "d", "a")
    with pytest.raises(ApiError) as missing:
        await client.get(MAPS, "d", "a")
    assert missing.value.code == 404
    assert 'configmaps "a" not found' in str(missing.value)


async def test_concurrent_writers_share_requests(client: ApiClient, api: MemoryApi) -> None:
    results = await asyncio.gather(*(client.write([operations.create(config_map(f"m{i}"))]) for i in range(500)))
    assert [result.code for (result,) in results] == [201] * 500
    assert api.requests < 50


async def test_one_failed_operation_does_not_stop_the_others(client: ApiClient) -> None:
    await client.create(config_map("b"))
    results = await client.write([operations.create(config_map(name)) for name in "abc"])
    assert [result.code for result in results] == [201, 409, 201]


async def test_a_batch_larger_than_a_request_is_cut_and_answered_in_order(client: ApiClient, api: MemoryApi) -> None:
    batch = [operations.create(config_map(f"m{i}")) for i in range(2500)]
    await client.create(config_map("m1234"))
    results = await client.write(batch)
    assert [result.code for result in results] == [201] * 1234 + [409] + [201] * 1265
    assert api.requests >= 4


async def test_a_create_whose_answer_was_lost_succeeds_once(
    client: ApiClient, api: MemoryApi, store: MemoryStore
) -> None:
    api.lose_answers = 1
    made = await client.create(config_map("a", x="1"))
    assert made["data"] == {"x": "1"}
    assert len(store.log) == 1


async def test_a_create_repeated_onto_something_else_says_so(
    client: ApiClient, api: MemoryApi, store: MemoryStore
) -> None:
    await client.create(config_map("a", x="other"))
    api.lose_answers = 1
    with pytest.raises(ApiError) as exists:
        await client.create(config_map("a", x="1"))
    assert exists.value.status()["reason"] == "AlreadyExists"


async def test_a_generated_name_is_never_made_twice(client: ApiClient, api: MemoryApi, store: MemoryStore) -> None:
    obj = config_map("a")
    del obj["metadata"]["name"]
    obj["metadata"]["generateName"] = "a-"
    api.lose_answers = 1
    with pytest.raises(ApiError) as unknown:
        await client.create(obj)
    assert unknown.value.code == 504
    assert len(store.objects) == 1


async def test_calls_go_on_when_one_of_two_dies_and_use_both_while_they_live(store: MemoryStore) -> None:
    first, second = MemoryApi(store), MemoryApi(store)
    addresses = [await first.start(), await second.start()]
    first.peers = second.peers = addresses
    async with ApiClient(addresses[:1]) as client:
        await client.create(config_map("a"))
        await until(lambda: len(client.addresses) == 2, what="the published list is followed")
        for _ in range(20):
            await client.get(MAPS, "d", "a")
        assert first.requests > 5
        assert second.requests > 5
        await first.stop()
        for number in range(20):
            await client.get(MAPS, "d", "a")
            obj = config_map("x")
            del obj["metadata"]["name"]
            obj["metadata"]["generateName"] = f"g{number}-"
            await client.create(obj)
        assert len(store.objects) == 21
    await second.stop()


async def test_a_generated_name_goes_to_another_apiserver_when_one_cannot_be_reached(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykube.client.endpoints.REST", Backoff(initial_s=0.0, max_s=0.0))  # it is asked every time
    gone, live = MemoryApi(store), MemoryApi(store)
    addresses = [await gone.start(), await live.start()]
    gone.peers = live.peers = addresses
    await gone.stop()
    async with ApiClient(addresses) as client:
        obj = config_map("x")
        del obj["metadata"]["name"]
        obj["metadata"]["generateName"] = "g-"
        for _ in range(10):
            await client.create(obj)
    assert len(store.objects) == 10
    await live.stop()


async def test_nobody_there_is_an_error_after_the_timeout() -> None:
    async with ApiClient(["127.0.0.1:1"]) as client:
        with pytest.raises(ApiError) as nobody:
            await client.get(MAPS, "d", "a", timeout=0.5)
    assert nobody.value.code == 503
    assert "127.0.0.1:1" in str(nobody.value)

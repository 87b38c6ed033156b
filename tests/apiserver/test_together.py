"""Operations that go together: in one step of the store, or none of them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from raykube.api.resources import builtin
from raykube.apiserver.store import Store
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.operations import Result
from raykube.pb import batch_pb2
from tests.kit.apiservers import Apiservers

MAPS = builtin("v1", "ConfigMap")


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "data": data}


def generated(prefix: str) -> dict[str, Any]:
    metadata = {"generateName": prefix, "namespace": "default"}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}


def messages(results: list[Result]) -> list[tuple[int, str]]:
    return [(each.code, orjson.loads(each.body).get("message", "") if each.code >= 400 else "") for each in results]


async def touch(store: Store, name: str, **data: str) -> None:
    """Somebody else changes the object (to `data`, or only its version), and no cache has heard of it."""
    (found,) = (await store.kv.range(f"/registry/configmaps/default/{name}".encode())).kvs
    value = orjson.dumps(orjson.loads(found.value) | {"data": data}) if data else found.value
    await store.kv.write([batch_pb2.Write(key=found.key, value=value, expected_revision=found.mod_revision)])


@contextmanager
def before_joined(store: Store, races: int, change: Callable[[], Awaitable[None]]) -> Iterator[list[int]]:
    """What others do just before each of the first `races` joined writes; how many joined writes there were."""
    own, count = store.write, [0]

    async def write(writes: list[batch_pb2.Write]) -> list[batch_pb2.WriteResult]:
        if len(writes) > 1:
            count[0] += 1
            if count[0] <= races:
                await change()
        return await own(writes)

    store.write = write  # type: ignore[method-assign]
    try:
        yield count
    finally:
        store.write = own  # type: ignore[method-assign]


@pytest.mark.parametrize("made", [config_map("a"), generated("a-")], ids=["name", "generateName"])
async def test_a_creation_has_not_lost_when_another_operation_has(servers: Apiservers, api: ApiClient, made) -> None:
    """More races than names are drawn for one creation: no name was taken."""
    await api.create(config_map("b"))
    store = servers.instances[0]._store
    with before_joined(store, 12, lambda: touch(store, "b")) as count:
        batch = [operations.create(made), operations.patch(MAPS, "default", "b", {"data": {"y": "2"}})]
        results = await api.write_together(batch)
    assert (messages(results), count) == ([(201, ""), (200, "")], [13])
    assert (await api.get(MAPS, "default", "b"))["data"] == {"y": "2"}


async def test_a_name_that_is_taken_refuses_all_at_once(servers: Apiservers, api: ApiClient) -> None:
    """The store has said so: there is nothing to be asked again."""
    await api.create(config_map("a"))
    await api.create(config_map("b"))
    with before_joined(servers.instances[0]._store, 0, lambda: touch(servers.instances[0]._store, "b")) as count:
        batch = [operations.patch(MAPS, "default", "b", {"data": {"y": "2"}}), operations.create(config_map("a"))]
        results = await api.write_together(batch)
    refused = 'Operation cannot be fulfilled on configmaps "b": another operation of the same request was refused'
    assert messages(results) == [(409, refused), (409, 'configmaps "a" already exists')]
    assert count == [1]


async def test_two_that_meet_at_one_object_cannot_go_together(servers: Apiservers, api: ApiClient) -> None:
    await api.create(config_map("b"))
    patches = [operations.patch(MAPS, "default", "b", {"data": {key: "2"}}) for key in "xy"]
    with before_joined(servers.instances[0]._store, 0, lambda: touch(servers.instances[0]._store, "b")) as count:
        assert [message.rpartition(": ")[2] for _, message in messages(await api.write_together(patches))] == [
            "another operation of the same request was refused",
            "another operation of the same request changes it too",
        ]
        creations = [operations.create(config_map("a"))] * 2
        assert messages(await api.write_together(creations))[1] == (409, 'configmaps "a" already exists')
    assert count == [2]


async def test_what_is_left_as_it_is_is_looked_at_again_before_each_step(servers: Apiservers, api: ApiClient) -> None:
    """An update at a version changes nothing, so that the store compares nothing; while the other loses a race, the
    object changes."""
    made = await api.create(config_map("a", x="1"))
    await api.create(config_map("b"))
    store = servers.instances[0]._store

    async def change() -> None:
        await touch(store, "a", x="2")
        await touch(store, "b")

    patches = [operations.patch(MAPS, "default", "b", {"data": {key: "2"}}) for key in "yz"]
    creations = [operations.create(config_map(name)) for name in "cd"]
    with before_joined(store, 1, change) as count:
        results = await api.write_together([operations.update(made), patches[0], creations[0]])
    changed = 'Operation cannot be fulfilled on configmaps "a": the object has been modified'
    assert messages(results)[0][1].startswith(changed)
    assert ([result.code for result in results], count) == ([409, 409, 409], [1])
    # Those looks are none of the thirty tries.
    unchanged = operations.patch(MAPS, "default", "a", {"data": {"x": "2"}})
    with before_joined(store, 29, lambda: touch(store, "b")) as count:
        results = await api.write_together([unchanged, patches[1], creations[1]])
    assert ([result.code for result in results], count) == ([200, 200, 201], [30])
    assert [each["metadata"]["name"] for each in (await api.list(MAPS, "default"))[0]] == ["a", "b", "d"]
    assert (await api.get(MAPS, "default", "b"))["data"] == {"z": "2"}

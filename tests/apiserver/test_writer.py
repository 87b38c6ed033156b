"""What writes ask the store for."""

from typing import Any

import orjson
import pytest

from raykube.api.resources import builtin
from raykube.apiserver import services, writer
from raykube.apiserver.core.planning import Planner
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.pb import batch_pb2
from tests.apiserver.test_rest import call
from tests.apiserver.test_together import touch
from tests.kit.apiservers import Apiservers

MAPS = builtin("v1", "ConfigMap")
SERVICES = builtin("v1", "Service")
PATH = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "data": data}


class Counted:
    """The store, as the writer sees it; how often it waited for fresh caches."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def fresh(self) -> int:
        self.asked += 1
        return int(await self._store.fresh())

    def taken(self) -> int:
        """The number, and from the start again."""
        asked, self.asked = self.asked, 0
        return asked


@pytest.fixture
def counted(servers: Apiservers) -> Counted:
    own = servers.instances[0]._membership._writer
    own.store = Counted(own.store)
    return own.store


async def test_the_store_is_asked_once_for_what_is_refused(counted: Counted, admin, api: ApiClient) -> None:
    _, made = await call(admin, "POST", PATH, config_map("a"))
    assert counted.taken() == 0
    assert (await call(admin, "DELETE", f"{PATH}/none"))[0] == 404
    assert counted.taken() == 1
    made["metadata"]["resourceVersion"] = "999999"
    assert (await call(admin, "PUT", f"{PATH}/a", made))[0] == 409
    assert counted.taken() == 1
    made["metadata"]["resourceVersion"] = "1"
    assert (await call(admin, "PUT", f"{PATH}/a", made))[0] == 409
    assert counted.taken() == 1
    merge = {"Content_Type": "application/merge-patch+json"}
    assert (await call(admin, "PATCH", f"{PATH}/none", {"data": {"x": "1"}}, **merge))[0] == 404
    assert counted.taken() == 1
    together = [operations.create(config_map("b")), operations.delete(MAPS, "default", "none")]
    assert [result.code for result in await api.write_together(together)] == [409, 404]
    assert counted.taken() == 1


async def test_what_one_request_makes_it_can_change(counted: Counted, api: ApiClient) -> None:
    """What was refused at first is looked at again when the others have been written."""
    results = await api.write([operations.create(config_map("a")), operations.delete(MAPS, "default", "a")])
    assert [result.code for result in results] == [201, 200]
    assert (await api.list(MAPS, "default"))[0] == []


async def test_addresses_that_took_too_long_while_others_were_written_are_not_used(
    counted: Counted, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to the store in pieces is late, or not, when its piece goes."""
    monkeypatch.setattr(writer, "PIECE_BYTES_MAX", 1)
    own = counted.write

    async def write(writes: list[batch_pb2.Write]) -> list[batch_pb2.WriteResult]:
        monkeypatch.setattr(services, "ORPHAN_AGE_S", 0.0)
        return await own(writes)

    monkeypatch.setattr(counted, "write", write)  # addresses are taken past it
    ports = {"spec": {"ports": [{"port": 80}]}}
    made = [{"apiVersion": "v1", "kind": "Service", **ports, "metadata": config_map(name)["metadata"]} for name in "ab"]
    first, second = await api.write([operations.create(each) for each in made])
    assert (first.code, second.code, b"took too long" in second.body) == (201, 503, True)
    monkeypatch.undo()
    assert [each["metadata"]["name"] for each in (await api.list(SERVICES, "default"))[0]] == ["a", "kubernetes"]


async def test_many_of_one_request_that_change_one_object_are_planned_in_turn(
    counted: Counted, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on what the one before it left, not all again for each: the last one's change is what stays."""
    plan, count = Planner.plan, [0]

    def plans(self: Planner, *arguments: Any) -> Any:
        count[0] += 1
        return plan(self, *arguments)

    await api.create(config_map("a"))
    monkeypatch.setattr(Planner, "plan", plans)
    patches = [operations.patch(MAPS, "default", "a", {"data": {"x": str(number)}}) for number in range(30)]
    last = [operations.delete(MAPS, "default", "a"), operations.patch(MAPS, "default", "a", {"data": {"x": "no"}})]
    results = await api.write(patches + last, return_objects=True)
    assert [result.code for result in results] == [200] * 31 + [404]
    assert [orjson.loads(result.body)["data"]["x"] for result in results[:30]] == [str(number) for number in range(30)]
    assert count[0] < 3 * len(results)


async def test_who_loses_very_often_pauses(
    servers: Apiservers, counted: Counted, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For somebody else to be done; a second of races without a pause were dozens."""
    monkeypatch.setattr(writer, "ATTEMPTS_MAX", 5)
    monkeypatch.setattr(writer, "CONTENTION_S", 1.0)
    monkeypatch.setattr(writer, "CONTENTION_WAIT_S", 1.0, raising=False)
    await api.create(config_map("a"))
    own, races = counted.write, [0]

    async def write(writes: list[batch_pb2.Write]) -> list[batch_pb2.WriteResult]:
        if any(each.key.endswith(b"/default/a") for each in writes):
            races[0] += 1
            await touch(servers.instances[0]._store, "a")
        return await own(writes)

    monkeypatch.setattr(counted, "write", write)
    (result,) = await api.write([operations.patch(MAPS, "default", "a", {"data": {"x": "1"}})])
    assert (result.code, races[0] < 20) == (409, True), races

"""Clients of several apiservers: what one wrote holds for the other, also before it has heard of it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.apiserver.store import Store
from raykube.pb import api_pb2
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until

MAPS = "/api/v1/namespaces/default/configmaps"
MERGE = "application/merge-patch+json"


class Deaf:
    """Holds back what one apiserver's watch on the store brings."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: list[tuple[Any, int]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Meanwhile it hears nothing; what came in the meantime is heard at the end."""
        apply = self._store._apply
        self._store._apply = lambda events, revision: self._held.append((events, revision))  # type: ignore[method-assign]
        try:
            yield
        finally:
            self._store._apply = apply  # type: ignore[method-assign]
            for events, revision in self._held:
                apply(events, revision)

    async def asked(self) -> None:
        """Returns once somebody waits for what it has not heard."""
        await until(lambda: self._store.feed._waiting)


class Two:
    """Sessions with two apiservers, of which the second can be deaf."""

    def __init__(self, servers: Apiservers, first: Any, second: Any) -> None:
        store = servers.instances[1]._store
        assert store is not None
        self.servers = servers
        self.deaf = Deaf(store)
        self._sessions = (first, second)

    async def __call__(self, index: int, method: str, path: str, body: Any = None, media: str = "") -> tuple[int, Any]:
        headers = {"Content-Type": media or "application/json"}
        data = None if body is None else orjson.dumps(body)
        async with self._sessions[index].request(method, path, data=data, headers=headers) as response:
            return response.status, await response.json()


@pytest.fixture
async def two(tmp_path: Path):
    async with Apiservers(tmp_path, 2) as servers, servers.session() as first, servers.session(index=1) as second:
        yield Two(servers, first, second)


def config_map(value: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", **metadata}, "data": {"x": value}}


async def test_a_change_that_looks_like_none_is_made(two) -> None:
    """The first changes 1 into 2, and then the second 2 into 1, which is what it still sees."""
    await two(0, "POST", MAPS, config_map("1"))
    await two(1, "GET", f"{MAPS}/a")
    with two.deaf():
        assert (await two(0, "PATCH", f"{MAPS}/a", {"data": {"x": "2"}}, MERGE))[0] == 200
        changing = asyncio.create_task(two(1, "PATCH", f"{MAPS}/a", {"data": {"x": "1"}}, MERGE))
        await asyncio.wait({changing, asyncio.ensure_future(two.deaf.asked())}, return_when="FIRST_COMPLETED")
    assert (await changing)[0] == 200
    assert (await two(0, "GET", f"{MAPS}/a"))[1]["data"] == {"x": "1"}


async def test_a_change_that_looks_like_none_is_made_together_with_others(two) -> None:
    await two(0, "POST", MAPS, config_map("1"))
    await two(1, "GET", f"{MAPS}/a")
    async with two.servers.client(index=1) as api:
        operation = api_pb2.Operation(
            verb=api_pb2.PATCH, patch_type=api_pb2.MERGE, name="a", namespace="default", body=b'{"data":{"x":"1"}}'
        )
        operation.resource.MergeFrom(api_pb2.Resource(version="v1", plural="configmaps"))
        with two.deaf():
            assert (await two(0, "PATCH", f"{MAPS}/a", {"data": {"x": "2"}}, MERGE))[0] == 200
            changing = asyncio.create_task(api.write_together([operation]))
            await asyncio.wait({changing, asyncio.ensure_future(two.deaf.asked())}, return_when="FIRST_COMPLETED")
        assert [result.code for result in await changing] == [200]
    assert (await two(0, "GET", f"{MAPS}/a"))[1]["data"] == {"x": "1"}


async def test_a_second_deletion_is_of_what_is_there(two) -> None:
    """An object that waits for its finalizer is deleted again, through one that does not know that it is gone, and that
    another one has its name."""
    await two(0, "POST", MAPS, config_map("1", finalizers=["example.com/wait"]))
    await two(0, "DELETE", f"{MAPS}/a")
    await two(1, "GET", f"{MAPS}/a")
    with two.deaf():
        await two(0, "PATCH", f"{MAPS}/a", {"metadata": {"finalizers": None}}, MERGE)
        assert (await two(0, "POST", MAPS, config_map("2")))[0] == 201
        deleting = asyncio.create_task(two(1, "DELETE", f"{MAPS}/a"))
        await asyncio.wait({deleting, asyncio.ensure_future(two.deaf.asked())}, return_when="FIRST_COMPLETED")
    assert (await deleting)[0] == 200
    assert (await two(0, "GET", f"{MAPS}/a"))[0] == 404


async def test_what_is_only_tried_is_tried_on_what_is_there(two) -> None:
    """A name that is taken is no name for another, also in a dry run."""
    with two.deaf():
        await two(0, "POST", MAPS, config_map("1"))
        trying = asyncio.create_task(two(1, "POST", f"{MAPS}?dryRun=All", config_map("1")))
        await asyncio.wait({trying, asyncio.ensure_future(two.deaf.asked())}, return_when="FIRST_COMPLETED")
    code, status = await trying
    assert (code, status["reason"], status["message"]) == (409, "AlreadyExists", 'configmaps "a" already exists')
    with two.deaf():
        await two(0, "PATCH", f"{MAPS}/a", {"data": {"y": "2"}}, MERGE)
        trying = asyncio.create_task(two(1, "PATCH", f"{MAPS}/a?dryRun=All", {"data": {"x": "3"}}, MERGE))
        await asyncio.wait({trying, asyncio.ensure_future(two.deaf.asked())}, return_when="FIRST_COMPLETED")
    assert (await trying)[1]["data"] == {"x": "3", "y": "2"}


async def test_many_who_change_an_object_at_the_same_time_all_do(two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names no version means the newest, whichever that is: nobody is told to come again for having lost often."""
    monkeypatch.setattr("raykube.apiserver.writer.ATTEMPTS_MAX", 2)
    monkeypatch.setattr("raykube.apiserver.writer.CONTENTION_S", 60.0, raising=False)  # on a busy machine as well
    await two(0, "POST", MAPS, config_map("1"))
    patches = [two(number % 2, "PATCH", f"{MAPS}/a", {"data": {f"k{number}": "1"}}, MERGE) for number in range(20)]
    assert {code for code, _ in await asyncio.gather(*patches)} == {200}
    assert len((await two(0, "GET", f"{MAPS}/a"))[1]["data"]) == 21


async def test_events_of_a_lease_that_the_store_has_lost_get_another(two) -> None:
    """All that were on their way with it, also those that come when the first has found out."""
    store = two.servers.instances[0]._store
    lease = await store.lease(3600, 0.0)
    store._leases[3600] = (lease, time.time() + 60)
    await store.kv.revoke(lease)
    events = "/api/v1/namespaces/default/events"
    bodies = [{"metadata": {"name": f"e{number}"}, "involvedObject": {"namespace": "default"}} for number in range(12)]
    answers = await asyncio.gather(*(two(0, "POST", events, body) for body in bodies))
    assert {code for code, _ in answers} == {201}

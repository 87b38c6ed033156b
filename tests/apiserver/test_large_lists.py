"""Lists and initial states that are too large for one turn of the event loop."""

import asyncio

import aiohttp
import orjson
import pytest

from raykube.api.resources import builtin
from raykube.apiserver.reader import FIRST_ITEMS, SCAN_ITEMS
from raykube.apiserver.rest import render
from raykube.client import operations
from tests.apiserver.test_bulk import config_map
from tests.apiserver.test_rest import MAPS, call
from tests.kit.waiting import until

RESOURCE = builtin("v1", "ConfigMap")
KINDS = {
    "application/json": "ConfigMapList",
    "application/json;as=Table;v=v1;g=meta.k8s.io": "Table",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io": "PartialObjectMetadataList",
}


@pytest.fixture
async def names(api) -> list[str]:
    """Objects of 4 MB in all, most of it in their labels' neighbourhood, so that every form is large."""
    names = [f"m{number:03}" for number in range(80)]
    objects = [config_map(name, x=name) for name in names]
    for each in objects:
        each["metadata"]["annotations"] = {"large": "y" * 50_000}
    assert {result.code for result in await api.write([operations.create(each) for each in objects])} == {201}
    return names


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("accept", KINDS)
async def test_a_large_list_is_sent_as_it_is_made(admin, names, accept, coding) -> None:
    headers = {"Accept": accept, "Accept-Encoding": coding}
    async with admin.get(MAPS, headers=headers) as response:
        assert response.headers.get("Transfer-Encoding") == "chunked"
        assert response.headers.get("Content-Encoding") == (coding if coding == "gzip" else None)
        # Whoever does not read holds up nobody else.
        assert (await call(admin, "GET", f"{MAPS}/m000"))[0] == 200
        answer = orjson.loads(await response.read())
    assert answer["kind"] == KINDS[accept]
    found = answer.get("items") or [row["object"] for row in answer["rows"]]
    assert [each["metadata"]["name"] for each in found] == names
    small = orjson.loads(await (await admin.get(f"{MAPS}?limit=1", headers=headers)).read())
    assert answer.keys() == small.keys()
    part = "rows" if "rows" in small else "items"
    for one in (answer, small):
        assert not one.get("rows") or one["rows"][0]["cells"].pop().endswith("s")  # its age
    assert answer[part][:1] == small[part]
    assert answer.get("columnDefinitions") == small.get("columnDefinitions")
    assert int(answer["metadata"]["resourceVersion"]) > 0


async def test_the_list_of_what_was_deleted_is_sent_as_it_is_made(admin, names) -> None:
    async with admin.delete(MAPS, headers={"Accept-Encoding": "identity"}) as response:
        assert (response.status, response.headers.get("Transfer-Encoding")) == (200, "chunked")
        assert (await call(admin, "GET", f"{MAPS}/m000"))[0] == 404
        gone = orjson.loads(await response.read())
    assert gone["kind"] == "ConfigMapList"
    assert [each["metadata"]["name"] for each in gone["items"]] == names


async def test_a_list_that_breaks_is_not_taken_for_a_whole_one(admin, names, monkeypatch) -> None:
    made = render._objects

    def breaks(resource, items):
        if items[0].name == "m060":
            raise RuntimeError("broken")
        return made(resource, items)

    monkeypatch.setattr(render, "_objects", breaks)
    monkeypatch.setattr(render, "LIST_ITEMS", 20)
    async with admin.get(MAPS, headers={"Accept-Encoding": "identity"}) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_watch_of_many_begins_with_the_state_of_one_moment(servers, api, monkeypatch) -> None:
    """In steps, with writes before and between them."""
    count = FIRST_ITEMS + 2 * SCAN_ITEMS
    creates = [operations.create(config_map(f"m{number:05}", x="1")) for number in range(count)]
    assert {result.code for result in await api.write(creates)} == {201}
    steps = servers.instances[0]._bulk._reader.steps
    moments = []

    cache = servers.instances[0]._feed.caches["", "configmaps"]

    async def slowly(scan):
        await api.patch(RESOURCE, "default", f"m{count - 1:05}", {"data": {"x": "2"}})
        await api.delete(RESOURCE, "default", "m00000")
        await until(lambda: cache.get("default/m00000") is None)
        async for items in steps(scan):
            yield items
            moments.append(len(items))
            if len(moments) == 1:
                await api.create(config_map("z", x="3"))
                await until(lambda: cache.get("default/z") is not None)

    monkeypatch.setattr(servers.instances[0]._bulk._reader, "steps", slowly)
    state: dict[str, str] = {}
    events = []
    revision = 0
    async with asyncio.timeout(20):
        async for batch in api.watch(RESOURCE, "default", send_initial_events=True):
            for event in batch:
                if event.initial_events_end:
                    revision = event.resource_version
                elif not revision:
                    assert event.type == "ADDED"
                    state[event.object["metadata"]["name"]] = event.object["data"]["x"]
                else:
                    assert event.resource_version > revision
                    events.append((event.type, event.object["metadata"]["name"]))
            if len(events) == 3:
                break
    assert moments == [FIRST_ITEMS, SCAN_ITEMS, SCAN_ITEMS]
    assert state == {f"m{number:05}": "1" for number in range(count)}
    assert events == [("MODIFIED", f"m{count - 1:05}"), ("DELETED", "m00000"), ("ADDED", "z")]

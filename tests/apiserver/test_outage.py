"""What clients see while the store is away, and after."""

import asyncio
import json
import time

import aiohttp
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.service import Service
from tests.kit.apiservers import Apiservers

MAPS = builtin("v1", "ConfigMap")
PATH = "/api/v1/namespaces/default/configmaps"


def config_map(name: str) -> dict:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}}


async def test_a_store_that_goes_and_comes_back(tmp_path) -> None:
    async with Apiservers(tmp_path) as servers, servers.session() as session, servers.client() as api:
        await api.create(config_map("before"))
        revision = (await api.list(MAPS, "default"))[1]
        async with session.get(f"{PATH}?watch=1&resourceVersion={revision}") as watch:
            await servers.stop_store()
            # What is cached may be read by those who ask for no more than that.
            assert (await api.get(MAPS, "default", "before", resource_version=-1))["metadata"]["name"] == "before"
            async with session.get(f"{PATH}?resourceVersion={revision}") as response:
                assert response.status == 200
            async with session.get("/livez") as alive, session.get("/readyz") as ready:
                assert (alive.status, ready.status) == (200, 500)
            reading = asyncio.create_task(status_of(session, "GET", PATH))
            writing = asyncio.create_task(status_of(session, "POST", PATH, config_map("lost")))
            for code, status in (await reading, await writing):
                assert code in (503, 504), status
                assert status["kind"] == "Status"
            await servers.start_store()
            deadline = time.monotonic() + 20
            while True:
                try:
                    await api.create(config_map("after"))
                    break
                except ApiError as error:
                    assert error.code in (409, 503, 504) and time.monotonic() < deadline
                    if error.code == 409:
                        break
            names = {each["metadata"]["name"] for each in (await api.list(MAPS, "default"))[0]}
            assert {"before", "after"} <= names
            async with asyncio.timeout(10):
                event = json.loads(await watch.content.readline())
            assert event["object"]["metadata"]["name"] in ("lost", "after")


async def status_of(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> tuple[int, dict]:
    async with session.request(method, path, json=body) as response:
        return response.status, await response.json()


async def test_without_a_store_the_start_says_what_to_do(tmp_path) -> None:
    servers = Apiservers(tmp_path)
    servers.store_address = "127.0.0.1:1"
    service = Service(servers.config(), store_wait_s=1.0)
    with pytest.raises(OSError, match="--etcd-servers"):
        await service.start()


async def test_a_port_that_is_taken_is_one_line(tmp_path) -> None:
    async with Apiservers(tmp_path) as servers:
        port = int(servers.address("https").rpartition(":")[2])
        service = Service(servers.config(secure_port=port))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await service.start()

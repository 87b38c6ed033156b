"""A quota under churn: pods made and deleted through two apiservers while its controller counts again and again."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.controllers.config import Config
from raykube.controllers.service import Service
from tests.controllers.test_integration import until
from tests.kit import pki
from tests.kit.apiservers import ADMIN, Apiservers

pytestmark = pytest.mark.integration

PODS = builtin("v1", "Pod")
QUOTAS = builtin("v1", "ResourceQuota")
ROOM = 12
CLIENTS = 6
ROUNDS = 15


def pod(name: str) -> dict[str, Any]:
    containers = [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "100m"}}}]
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": containers}}


async def used(api: ApiClient) -> dict[str, str]:
    return dict(((await api.get(QUOTAS, "default", "q")).get("status") or {}).get("used") or {})


def make_late(monkeypatch: pytest.MonkeyPatch, plural: str) -> None:
    """Watches of one resource bring everything a little later."""
    watch, dice = ApiClient.watch, random.Random(plural)

    async def slow(self: ApiClient, resource: Any, *arguments: Any, **options: Any) -> Any:
        async for events in watch(self, resource, *arguments, **options):
            if resource.plural == plural:
                await asyncio.sleep(dice.random() * 0.1)
            yield events

    monkeypatch.setattr(ApiClient, "watch", slow)


async def worker(api: ApiClient, number: int, codes: Counter[int]) -> None:
    """Makes pods, and deletes some of its own, as it comes."""
    dice, mine = random.Random(number), []
    for round_number in range(ROUNDS):
        names = [f"p{number}-{round_number}-{index}" for index in range(dice.randrange(1, 6))]
        results = await api.write([operations.create(pod(name)) for name in names])
        codes.update(result.code for result in results)
        mine += [name for name, result in zip(names, results, strict=True) if result.code == 201]
        gone = [mine.pop(dice.randrange(len(mine))) for _ in range(dice.randrange(len(mine) + 1))]
        if gone:
            await api.write([operations.delete(PODS, "default", name) for name in gone])


async def watch(api: ApiClient, done: asyncio.Event) -> int:
    """The largest number of pods that were there at once, as lists show them."""
    most = 0
    while not done.is_set():
        most = max(most, len((await api.list(PODS, "default"))[0]))
    return most


@pytest.mark.parametrize("late", ["pods", "resourcequotas", "nothing"])
async def test_never_passed_and_right_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """The controller's caches are not of one moment: one of them may be behind the other."""
    make_late(monkeypatch, late)
    async with Apiservers(tmp_path, count=2) as servers, servers.client() as one, servers.client(index=1) as other:
        metadata = {"name": "default", "namespace": "default"}
        await one.create({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": metadata})
        tls = pki.tls(*ADMIN)
        service = Service(
            Config(
                api_servers=[servers.address("grpc", 1)],
                tls_cert_file=tls.cert_file,
                tls_private_key_file=tls.key_file,
                client_ca_file=tls.ca_file,
                secure_port=0,
                controllers=["resourcequota-controller"],
            )
        )
        await service.start()
        try:
            hard = {"pods": str(ROOM), "requests.cpu": f"{ROOM}00m", "count/secrets": "5"}
            body = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": metadata | {"name": "q"}}
            await one.create({**body, "spec": {"hard": hard}})
            await until(lambda: used(one))
            codes: Counter[int] = Counter()
            done = asyncio.Event()
            watching = asyncio.create_task(watch(one, done))
            await asyncio.gather(*(worker((one, other)[n % 2], n, codes) for n in range(CLIENTS)))
            done.set()
            assert await watching <= ROOM and codes[201] and codes[403] and set(codes) == {201, 403}, codes
            left = len((await one.list(PODS, "default"))[0])
            wanted = {"pods": str(left), "requests.cpu": f"{left}00m" if left % 10 else str(left // 10)}

            async def settled() -> bool:
                return {name: (await used(one))[name] for name in wanted} == wanted

            await until(settled)
        finally:
            await service.stop()

"""What the service does about a kernel that refuses some peers' routes; no kernel is asked."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from raykube.base.backoff import Backoff
from raykube.client.core.listwatch import Change
from raykube.podnetwork import links, service
from raykube.podnetwork.config import Config
from raykube.podnetwork.core.routes import Wanted
from tests.kit.waiting import until
from tests.podnetwork.world import CIDRS, HOSTS, node

ODD = "the kernel refused the route to 10.244.0.0/24"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """What was wanted at each sync. The kernel refuses 10.244.0.0/24, and who fails waits for an hour."""
    found: list[Wanted] = []

    def sync(_: links.Links, wanted: Wanted, _tunnel: links.Tunnel) -> tuple[int, list[str]]:
        found.append(wanted)
        return 0, [ODD for cidr in wanted.routes if cidr == "10.244.0.0/24"]

    async def attach(*_: Any) -> None: ...

    monkeypatch.setattr(links.Links, "sync", sync)
    monkeypatch.setattr(links, "segments", lambda: ["192.0.2.11/24"])
    monkeypatch.setattr(links, "mtu_of", lambda _: 1500)
    monkeypatch.setattr(service.Service, "_attach", attach)
    monkeypatch.setattr(service, "RETRY", Backoff(3600.0, 3600.0))
    return found


def changes(*names: str) -> list[Change]:
    nodes = {name: node(name, HOSTS[name], CIDRS[name]) for name in HOSTS}
    nodes["odd"] = node("odd", "192.0.2.255", "10.244.0.0/24")
    return [Change("ADDED", None, nodes[name]) for name in names]


async def test_a_node_that_comes_waits_for_no_odd_one(plans: list[Wanted]) -> None:
    config = Config(
        api_servers=["127.0.0.1:1"], hostname_override="m1", network_policy=False, forward_rules=False,
        min_sync_period=0.0, sync_period=0.01,
    )  # fmt: skip
    here = service.Service(config)
    here._on_nodes(changes("m1", "odd"))
    runs = [here._keep("routes", [], here._routes_news, here._sync_routes), here._watch_over()]
    tasks = [asyncio.get_running_loop().create_task(run) for run in runs]
    try:
        await until(lambda: len(plans) > 2, what="what was refused is tried again")
        assert here._problem() == ODD
        here._on_nodes(changes("m2"))
        await until(lambda: CIDRS["m2"] in plans[-1].routes)
        here._on_nodes([Change("DELETED", changes("odd")[0].new, None)])
        await until(lambda: here._problem() != ODD)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)

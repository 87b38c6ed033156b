"""A world of three machines, made for each test that asks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.podnetwork.world import HOSTS, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with World(tmp_path) as made:
        await made.start()
        for name, address in HOSTS.items():
            made.add_host(name, address)
        made.add_host("out", "192.0.2.200")
        try:
            yield made
        finally:
            await made.twin.stop()

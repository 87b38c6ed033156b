"""One store and one apiserver for all tests that don't need their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from raykube.client.api import ApiClient
from tests.kit.apiservers import Apiservers


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Apiservers]:
    async with Apiservers(tmp_path) as servers:
        yield servers


@pytest.fixture
async def admin(servers: Apiservers) -> AsyncIterator[aiohttp.ClientSession]:
    async with servers.session() as session:
        yield session


@pytest.fixture
async def api(servers: Apiservers) -> AsyncIterator[ApiClient]:
    async with servers.client() as client:
        yield client

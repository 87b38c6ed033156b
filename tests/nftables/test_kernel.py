"""Tables in a real kernel: what a delta leaves there is what ought to be there, and a refused one leaves nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykube.nftables.core.listing import installed
from raykube.nftables.core.objects import CHAIN, Items
from raykube.nftables.core.ruleset import Ruleset, difference
from raykube.nftables.core.text import replacement, transaction
from raykube.nftables.kernel import Kernel, KernelError
from tests.kit.netns import Namespace, require_network_namespaces
from tests.kit.require import require_program
from tests.nftables.tables import holdings

pytestmark = pytest.mark.integration

TABLE = "ip raykube-test"


@asynccontextmanager
async def kernel_of_our_own() -> AsyncIterator[tuple[Namespace, Kernel]]:
    require_network_namespaces()
    require_program("nft")
    kernel = Kernel()
    with Namespace() as space:
        try:
            await there(space, kernel)
            yield space, kernel
        finally:
            await kernel.stop()


async def there(space: Namespace, kernel: Kernel) -> None:
    """The child process is in the namespace from now on."""
    with space.entered():
        await kernel.has_table(TABLE)


async def held(kernel: Kernel, base: Items) -> Items:
    listing = await kernel.list_table(TABLE)
    return installed(listing, base) if listing is not None else {}


def without_rules(items: Items) -> Items:
    return {item: "" if item[0] == CHAIN else value for item, value in items.items()}


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(holdings, min_size=1, max_size=8))
async def test_the_kernel_holds_what_the_deltas_say(history: list[tuple[int, Items]]) -> None:
    async with kernel_of_our_own() as (space, kernel):
        ruleset = Ruleset()
        for holder, items in history:
            ruleset.replace({holder: items})
            await kernel.run(f"add table {TABLE}\n" + transaction(TABLE, ruleset.take()))
            assert without_rules(await held(kernel, ruleset.items)) == without_rules(ruleset.items)
        grown = space.run("nft", "list", "ruleset").splitlines()
        if ruleset.items:
            # As after a restart, and as after a table that nobody can read.
            await kernel.run(transaction(TABLE, difference(await held(kernel, ruleset.items), ruleset.items)))
            assert space.run("nft", "list", "ruleset").splitlines() == grown
            await kernel.run(replacement(TABLE, ruleset.items))
            assert sorted(space.run("nft", "list", "ruleset").splitlines()) == sorted(grown)


async def test_what_the_kernel_refuses_changes_nothing() -> None:
    async with kernel_of_our_own() as (space, kernel):
        await kernel.run(f"add table {TABLE}\nadd set {TABLE} s {{ type ipv4_addr; }}\n")
        before = space.run("nft", "list", "ruleset")
        with pytest.raises(KernelError, match="No such file"):
            await kernel.run(f"add table ip x\nadd element {TABLE} nothing {{ 1.2.3.4 }}\n")
        await kernel.run("add table ip x\n", check=True)
        assert space.run("nft", "list", "ruleset") == before
        assert await kernel.has_table(TABLE)
        assert not await kernel.has_table("ip raykube")
        assert await kernel.list_table("ip raykube") is None


async def test_the_child_is_replaced_when_it_dies() -> None:
    async with kernel_of_our_own() as (space, kernel):
        await kernel.run(f"add table {TABLE}\n")
        process = kernel._process
        assert process is not None
        process.kill()
        process.wait()
        with pytest.raises(KernelError), space.entered():
            await kernel.has_table(TABLE)
        await there(space, kernel)
        assert kernel._process is not process
        assert await kernel.has_table(TABLE)


async def test_the_child_ends_with_its_parent() -> None:
    async with kernel_of_our_own() as (_, kernel):
        process = kernel._process
        assert process is not None
        assert kernel._open is not None
        kernel._open[1].transport.abort()  # all that a dead parent does
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_the_program_stands_in_for_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\n_load = ctypes.CDLL\n"
        "def load(name, *rest, **more):\n"
        "    if name and 'nftables' in name:\n        raise OSError('hidden')\n"
        "    return _load(name, *rest, **more)\nctypes.CDLL = load\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with kernel_of_our_own() as (_, kernel):
        ruleset = Ruleset()
        await kernel.run(f"add table {TABLE}\nadd set {TABLE} s {{ type ipv4_addr; }}\n")
        assert len(await held(kernel, ruleset.items)) == 1
        assert await kernel.has_table(TABLE)
        with pytest.raises(KernelError, match="No such file"):
            await kernel.run("delete table ip nothing\n")

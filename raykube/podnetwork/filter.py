"""nftables by the `nft` program: one transaction a call."""

import asyncio
import shutil

from raykube.podnetwork.core.ruleset import TABLE

TIMEOUT_S = 30.0


class NftFailed(OSError):
    """The kernel or the program refused a transaction; nothing of it was done."""


def program() -> str | None:
    """The path of `nft`, or None."""
    return shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")


async def transact(script: str) -> None:
    """Does all of `script` or nothing. Raises NftFailed."""
    path = program()
    if path is None:
        raise NftFailed("there is no program nft: install the package nftables, or give --network-policy=false")
    process = await asyncio.create_subprocess_exec(
        path,
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, errors = await process.communicate(script.encode())
    except TimeoutError:
        raise NftFailed(f"nft did not end within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").splitlines()
        raise NftFailed(f"nft: {lines[0] if lines else f'exit code {process.returncode}'}")


async def remove(table: str = TABLE) -> None:
    """Removes a table, if it is there. Raises NftFailed."""
    await transact(f"add table {table}\ndelete table {table}\n")

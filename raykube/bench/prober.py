"""How long the API takes to answer while a measurement runs: a read and a write in turn, ten times a second.

A process of its own asks: one that makes thousands of pods at a time, and hears of each, would measure its own turns.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.bench.core.timeline import latencies_ms
from raykube.bench.plane import end_with_us
from raykube.bench.site import CONFIGMAPS, Site
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.rpc import Tls

PROBE = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "bench-probe"}, "data": {"at": "0"}}
EVERY_S = 0.1


class Prober:
    """Waits of reads and writes in seconds, of those that were answered. `run` until cancelled."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.reads: list[float] = []
        self.writes: list[float] = []

    async def run(self) -> None:
        """Has the other process ask and write. Raises RuntimeError when it ends."""
        site, tls = self._site, self._site.tls
        asked = {
            "addresses": site.client.addresses,
            "tls": [str(tls.cert_file), str(tls.key_file), str(tls.ca_file)] if tls is not None else None,
            "probe": site.own(PROBE),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "raykube.bench.prober", orjson.dumps(asked).decode()),
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=end_with_us,
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                kind, seconds = line.split()
                (self.reads if kind == b"read" else self.writes).append(float(seconds))
            raise RuntimeError(f"who asks the API for its latency ended with {await process.wait()}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def since(self, reads: int, writes: int) -> dict[str, dict[str, float]]:
        """Percentiles in milliseconds of the waits behind the first so many."""
        return {"read": latencies_ms(self.reads[reads:]), "write": latencies_ms(self.writes[writes:])}


async def _ask(addresses: list[str], tls: list[str] | None, probe: dict[str, Any]) -> None:
    """Prints a line for each answer: what was asked, and the seconds until it came."""
    metadata = probe["metadata"]
    async with ApiClient(addresses, Tls(*map(Path, tls)) if tls is not None else None) as client:
        await client.write([operations.create(probe)])
        number = 0
        while True:
            number += 1
            change = {"data": {"at": str(number)}}
            try:
                begin = time.monotonic()
                await client.get(CONFIGMAPS, metadata["namespace"], metadata["name"])
                sys.stdout.write(f"read {time.monotonic() - begin}\n")
                begin = time.monotonic()
                await client.patch(CONFIGMAPS, metadata["namespace"], metadata["name"], change)
                sys.stdout.write(f"write {time.monotonic() - begin}\n")
            except ApiError as error:
                print(f"{metadata['name']}: {error}", file=sys.stderr)  # noqa: T201  # for who reads the terminal
            sys.stdout.flush()
            await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, and ends us
    asyncio.run(_ask(**orjson.loads(sys.argv[1])))

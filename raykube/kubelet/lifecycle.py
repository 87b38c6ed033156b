"""Tells which pods something happened to: by the runtime's events where it has them, else by listing each second."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from raykube.base.duration import format_duration
from raykube.kubelet.core import criconfig
from raykube.kubelet.cri import Cri
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

SILENT_S_MAX = 180.0
RELIST_S = 1.0  # of a runtime without events
RELIST_WITH_EVENTS_S = 30.0  # events are a stream that may lose its end


class Lifecycle:
    def __init__(self, cri: Cri, changed: Callable[[str], None]) -> None:
        self._cri = cri
        self._changed = changed
        self._seen: dict[str, tuple[str, int]] = {}  # id → (pod uid, state)
        self._eventless = asyncio.Event()
        self._listed_at = time.monotonic()

    async def run(self) -> None:
        await asyncio.gather(self._listen(), self._relist_forever())

    async def _listen(self) -> None:
        while not self._eventless.is_set():
            try:
                async for uid in self._cri.events():
                    self._changed(uid)
            except RpcError as error:
                if error.code is Code.UNIMPLEMENTED:
                    self._eventless.set()
                    return
                log.debug("the runtime's event stream broke: %s", error.message)
            await self._relist_quietly()  # what happened between two streams
            await asyncio.sleep(0.5)

    async def _relist_forever(self) -> None:
        while True:
            await self._relist_quietly()
            with suppress(TimeoutError):
                async with asyncio.timeout(RELIST_WITH_EVENTS_S):
                    await self._eventless.wait()
                    await asyncio.sleep(RELIST_S)

    async def _relist_quietly(self) -> None:
        try:
            await self._relist()
        except RpcError as error:
            log.debug("the runtime does not answer: %s", error.message)

    async def _relist(self) -> None:
        sandboxes, containers = await asyncio.gather(self._cri.sandboxes(), self._cri.containers())
        found: dict[str, tuple[str, int]] = {}
        for sandbox in sandboxes:
            found[sandbox.id] = (sandbox.labels.get(criconfig.POD_UID, ""), sandbox.state)
        for container in containers:
            found[container.id] = (container.labels.get(criconfig.POD_UID, ""), container.state)
        changed = found.items() ^ self._seen.items()
        for uid in {uid for _, (uid, _) in changed}:
            self._changed(uid)
        self._seen = found
        self._listed_at = time.monotonic()

    @property
    def problem(self) -> str:
        """Why nobody can tell any more what happens to pods; "" while all is well."""
        silent_s = time.monotonic() - self._listed_at
        if silent_s < SILENT_S_MAX:
            return ""
        ago, most = format_duration(int(silent_s)), format_duration(SILENT_S_MAX)
        return f"PLEG is not healthy: pleg was last seen active {ago} ago; threshold is {most}"

"""Image garbage collection: every few minutes, and at once when a disk is short (rules: `core.imagegc`)."""

import asyncio
import logging
import time

import orjson

from raykube.client.events import EventRecorder
from raykube.kubelet.core import imagegc
from raykube.kubelet.core.imagegc import Image, ImageAges, Removal
from raykube.kubelet.core.pod import Object
from raykube.kubelet.cri import Cri
from raykube.kubelet.measures import Measures
from raykube.kubelet.usage import UsageReader
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

PERIOD_S = 300.0
LOOK_S = 60.0  # how often it is noted which images are in use


class ImageCollector:
    def __init__(
        self,
        cri: Cri,
        usage: UsageReader,
        events: EventRecorder,
        node_reference: Object,
        measures: Measures,
        high_percent: int,
        low_percent: int,
        age_min_s: float,
        age_max_s: float,
    ) -> None:
        self._cri = cri
        self._usage = usage
        self._events = events
        self._node_reference = node_reference
        self._measures = measures
        self._high_percent = high_percent
        self._low_percent = low_percent
        self._age_min_s = age_min_s
        self._age_max_s = age_max_s
        self._ages = ImageAges()
        self._started_at = time.time()
        self._lock = asyncio.Lock()
        self._pinned: str | None = None
        self.images: list[Image] = []

    async def run(self) -> None:
        collected_at = time.monotonic()
        while True:
            try:
                if time.monotonic() - collected_at >= PERIOD_S:
                    collected_at = time.monotonic()
                    await self.collect()
                else:
                    await self._look()
            except (RpcError, OSError) as error:
                log.warning("images are not looked after: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> set[str]:
        """Notes what is there and in use now; what containers refer to."""
        images, references = await asyncio.gather(self._cri.images(), self._cri.image_references())
        references.add(await self._sandbox_image())
        self.images = [Image(one.id, (*one.repo_tags, *one.repo_digests), one.size, one.pinned) for one in images]
        self._ages.observe(self.images, references, time.time())
        return references

    async def _sandbox_image(self) -> str:
        """The image that sandboxes are made of; old runtimes do not pin it, and do not list it as in use."""
        if self._pinned is None:
            try:
                config = orjson.loads((await self._cri.info()).get("config", "{}"))
                self._pinned = str(config.get("sandboxImage") or "") if isinstance(config, dict) else ""
            except (orjson.JSONDecodeError, RpcError):
                return ""
        return self._pinned

    async def collect(self) -> None:
        """Removes what is too old, and as much as brings a disk above the high mark to the low one."""
        async with self._lock:
            removals = await self._plan()
            for one in removals:
                if one.reason == "age":
                    await self._remove(one)
            usage = (await self._usage.machine()).image_filesystem
            wanted = imagegc.bytes_to_free(usage.capacity, usage.available, self._high_percent, self._low_percent)
            if not wanted:
                return
            percent = 100 - usage.available * 100 // usage.capacity
            log.info("%s is %d %% full: freeing %d bytes of images", self._usage.image_directory, percent, wanted)
            freed = await self._free(removals, wanted)
            if freed < wanted:
                message = (
                    "Failed to garbage collect required amount of images. "
                    f"Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
                )
                log.error("%s", message)
                self._events.record(self._node_reference, "Warning", "FreeDiskSpaceFailed", message)

    async def remove_unused(self) -> None:
        """Removes every image that nobody uses and that is not only just there."""
        async with self._lock:
            for one in await self._plan():
                await self._remove(one)

    async def _plan(self) -> list[Removal]:
        references = await self._look()
        return self._ages.plan(references, time.time(), self._age_min_s, self._age_max_s, self._started_at)

    async def _free(self, removals: list[Removal], wanted: int) -> int:
        freed = 0
        for one in removals:
            if freed >= wanted:
                break
            if one.reason == "space" and await self._remove(one):
                freed += one.image.size
        return freed

    async def _remove(self, one: Removal) -> bool:
        try:
            await self._cri.remove_image(one.image.id)
        except RpcError as error:
            log.warning("the image %s stays: %s", one.image.names[:1] or one.image.id, error.message)
            return False
        log.info("removed the image %s (%s)", one.image.names[:1] or one.image.id, one.reason)
        self._measures.images_collected.add((one.reason,))
        return True

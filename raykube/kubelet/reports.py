"""What the kubelet's server tells of usage: statistics and metrics."""

import logging
import time
from collections.abc import Callable, Iterable

from aiohttp import web

from raykube.kubelet.core import exposition
from raykube.kubelet.core.observed import State
from raykube.kubelet.core.summary import summary
from raykube.kubelet.core.usage import Sample
from raykube.kubelet.cri import Cri
from raykube.kubelet.diskusage import DiskUsage
from raykube.kubelet.measures import Measures
from raykube.kubelet.usage import UsageReader
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

SAMPLE_AGE_MAX_S = 2.0  # of what is scraped: however many scrape, the runtime is asked once in that time
DISK_AGE_MAX_S = 60.0
_ORDER = (State.CREATED, State.RUNNING, State.EXITED, State.UNKNOWN)
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _page(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": _TYPE})


class Reports:
    def __init__(
        self,
        cri: Cri,
        usage: UsageReader,
        disk: DiskUsage,
        measures: Measures,
        node_name: str,
        living: Callable[[], Iterable[str]],
    ) -> None:
        self._cri = cri
        self._usage = usage
        self._disk = disk
        self._measures = measures
        self._node_name = node_name
        self._living = living

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self._metrics),
            web.get("/metrics/resource", self._resource),
            web.get("/metrics/cadvisor", self._cadvisor),
            web.get("/stats/summary", self._summary),
        ]

    async def _sample(self) -> Sample:
        begun = time.monotonic()
        sample = await self._usage.sample(SAMPLE_AGE_MAX_S)
        self._measures.usage_seconds.observe((), time.monotonic() - begun)
        return sample

    async def _metrics(self, _request: web.Request) -> web.Response:
        states = dict.fromkeys(_ORDER, 0)
        try:
            for item in await self._cri.containers():
                states[_ORDER[item.state]] += 1
            running = sum(item.state == 0 for item in await self._cri.sandboxes())
        except RpcError as error:
            return web.Response(status=503, text=error.message)
        for state, count in states.items():
            self._measures.running_containers.set((state.value,), count)
        self._measures.running_pods.set((), running)
        return _page(self._measures.registry.render())

    async def _resource(self, _request: web.Request) -> web.Response:
        try:
            return _page(exposition.resource(await self._sample()))
        except (RpcError, OSError) as error:
            log.warning("no usage to report: %s", error)
            return _page(exposition.resource(None))

    async def _cadvisor(self, _request: web.Request) -> web.Response:
        try:
            return _page(exposition.cadvisor(await self._sample()))
        except (RpcError, OSError) as error:
            return web.Response(status=500, text=f"no usage to report: {error}")

    async def _summary(self, request: web.Request) -> web.Response:
        only = request.query.get("only_cpu_and_memory", "").lower() in ("1", "t", "true")
        try:
            if not only:
                await self._disk.refresh(self._living(), DISK_AGE_MAX_S)
            sample = await self._sample()
        except (RpcError, OSError) as error:
            return web.Response(status=500, text=f"no usage to report: {error}")
        return web.json_response(summary(sample, self._node_name, only))

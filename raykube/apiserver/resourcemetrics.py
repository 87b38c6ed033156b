"""The metrics API (`kubectl top`): metrics.k8s.io, from kubelets that are read while somebody asks.

The first who asks starts one loop that reads every kubelet; it ends when nobody has asked for a while. That first
answer waits until each kubelet was read twice, a short while apart, for a rate needs two readings; later answers come
from what the loop read last.
"""

import asyncio
import logging
import time
from contextlib import suppress

import aiohttp
import orjson
from aiohttp import web

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import options, selecting
from raykube.apiserver.core.resourcemetrics import UsageStore, node_metrics, parse, pod_metrics
from raykube.apiserver.core.selecting import Selection
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.kubelets import NODES, PODS, Kubelets, url_of
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest import render
from raykube.apiserver.rest.context import Context

log = logging.getLogger(__name__)

NODE_METRICS = builtin("metrics.k8s.io/v1beta1", "NodeMetrics")
POD_METRICS = builtin("metrics.k8s.io/v1beta1", "PodMetrics")
GROUP = NODE_METRICS.group

PERIOD_S = 15.0
SECOND_READING_S = 3.0  # after the first; a kubelet gives the same sample to all that ask within two seconds
IDLE_S = 300.0
TIMEOUT_S = 10.0
FIRST_WAIT_S = 10.0
PARALLEL_MAX = 64
BYTES_MAX = 16 * 1024 * 1024


class ResourceMetrics:
    def __init__(self, reader: Reader, kubelets: Kubelets) -> None:
        self._reader = reader
        self._kubelets = kubelets
        self._store = UsageStore()
        self._asked_at = 0.0
        self._loop: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    # -- answers

    async def answer(self, context: Context) -> web.Response:
        """GET and LIST of nodes and pods. Raises ApiError."""
        info, resource = context.info, context.target
        if info.verb not in ("get", "list") or (resource.namespaced and info.verb == "get" and not info.namespace):
            raise ApiError.method_not_allowed(resource, info.verb)
        kinds = ("Table", "PartialObjectMetadata" if info.name else "PartialObjectMetadataList")
        form = render.form_of(context.request.headers.get("Accept", ""), kinds)
        await self._ready()
        now = time.time()
        found = [await self._one(context, now)] if info.verb == "get" else self._listed(context, now)
        if form.kind == "Table":
            body: Object = render.table_of(resource, found, form, context.query, {})
        elif form.kind:
            shown = [render.metadata_only(one, form.version) for one in found]
            list_form = {"kind": form.kind, "apiVersion": f"meta.k8s.io/{form.version}", "metadata": {}, "items": shown}
            body = shown[0] if info.verb == "get" else list_form
        elif info.verb == "get":
            body = found[0]
        else:
            body = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": {}, "items": found}
        pretty = "pretty" in context.query and options.parse_bool(context.query["pretty"])
        data, content_type = render.pretty(orjson.dumps(body), form, pretty)
        return context.answer(data, content_type=content_type)

    async def _one(self, context: Context, now: float) -> Object:
        info = context.info
        of_pods = context.target is POD_METRICS
        namespace = info.namespace if of_pods else ""
        obj = (await self._reader.get(PODS if of_pods else NODES, namespace, info.name)).parsed()
        shown = self._of_pod(obj, now) if of_pods else self._of_node(obj, now)
        if shown is None:
            raise ApiError.not_found(context.target, f"{namespace}/{info.name}" if of_pods else info.name)
        return shown

    def _listed(self, context: Context, now: float) -> list[Object]:
        query, resource = context.query, context.target
        of_pods = resource is POD_METRICS
        selection = selecting.selection(
            resource,
            context.info.namespace if of_pods else "",
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )
        items = self._reader.cache(PODS if of_pods else NODES).page(selection).items
        make = self._of_pod if of_pods else self._of_node
        return [shown for item in items if (shown := make(item.parsed(), now)) is not None]

    def _of_node(self, node: Object, now: float) -> Object | None:
        usage = self._store.node(node["metadata"]["name"], now)
        return node_metrics(node, usage, now) if usage is not None else None

    def _of_pod(self, pod: Object, now: float) -> Object | None:
        if (pod.get("status") or {}).get("phase") != "Running":
            return None
        metadata, node = pod["metadata"], pod["spec"].get("nodeName", "")
        usages = self._store.pod(node, metadata["namespace"], metadata["name"], now)
        return pod_metrics(pod, usages, now) if usages is not None else None

    # -- readings

    async def _ready(self) -> None:
        self._asked_at = time.monotonic()
        if self._loop is None or self._loop.done():
            self._first.clear()
            self._loop = asyncio.create_task(self._follow())
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WAIT_S):
                await self._first.wait()

    async def _follow(self) -> None:
        try:
            await self._read_all()
            if not all(map(self._store.has, self._names())):
                await asyncio.sleep(SECOND_READING_S)
                await self._read_all()
            self._first.set()
            while time.monotonic() - self._asked_at < IDLE_S:
                await asyncio.sleep(PERIOD_S)
                await self._read_all()
        finally:
            self._first.set()

    def _nodes(self) -> list[Object]:
        return [item.parsed() for item in self._reader.cache(NODES).page(Selection()).items]

    def _names(self) -> set[str]:
        return {node["metadata"]["name"] for node in self._nodes()}

    async def _read_all(self) -> None:
        nodes = self._nodes()
        self._store.keep({node["metadata"]["name"] for node in nodes})
        turns = asyncio.Semaphore(PARALLEL_MAX)

        async def read(node: Object) -> None:
            async with turns:
                await self._read(node)

        await asyncio.gather(*map(read, nodes))

    async def _read(self, node: Object) -> None:
        name = node["metadata"]["name"]
        try:
            url = f"{url_of(node)}/metrics/resource"
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._kubelets.session().get(url, timeout=timeout) as response:
                if response.status != 200:
                    raise ApiError.internal(f"the kubelet answered {response.status}")
                page = await response.content.read(BYTES_MAX)
                while not response.content.at_eof() and len(page) < BYTES_MAX:
                    page += await response.content.read(BYTES_MAX - len(page))
            self._store.put(name, parse(page.decode(errors="replace")))
        except (aiohttp.ClientError, TimeoutError, ApiError) as error:
            log.warning("the use of node %s cannot be read: %s", name, error or type(error).__name__)

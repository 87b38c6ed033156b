"""GET, LIST and WATCH of resources."""

import asyncio
import random
import time
from http import HTTPStatus

import orjson
from aiohttp import web

from raykube.api.errors import ApiError
from raykube.apiserver.core import options, selecting
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.negotiation import Form
from raykube.apiserver.core.scan import Scan
from raykube.apiserver.core.watcher import Watcher
from raykube.apiserver.measures import Measures
from raykube.apiserver.reader import Reader
from raykube.apiserver.rest import lists, render
from raykube.apiserver.rest.context import Context

BOOKMARK_INTERVAL_S = 60.0
_WRITE_BYTES_MAX = 256 * 1024
_OBJECT_FORMS = ("Table", "PartialObjectMetadata")
_LIST_FORMS = ("Table", "PartialObjectMetadataList")


class Reads:
    """Handlers of reads."""

    def __init__(self, reader: Reader, measures: Measures, min_timeout_s: int) -> None:
        self._reader = reader
        self._measures = measures
        self._min_timeout_s = min_timeout_s

    async def get(self, context: Context) -> web.Response:
        info, resource = context.info, context.target
        form = render.form_of(context.request.headers.get("Accept", ""), _OBJECT_FORMS)
        namespace = info.namespace if resource.namespaced else ""
        item = await self._reader.get(resource, namespace, info.name, context.query.get("resourceVersion", ""))
        return await lists.complete(context, render.object_bytes(resource, item, form, context.query), form)

    async def list(self, context: Context) -> web.StreamResponse:
        resource, query = context.target, context.query
        form = render.form_of(context.request.headers.get("Accept", ""), _LIST_FORMS)
        wanted = options.list_options(query, watch=False)
        selection = selecting.selection(
            resource,
            context.info.namespace if resource.namespaced else "",
            wanted.label_selector,
            wanted.field_selector,
        )
        page = await self._reader.page(resource, selection, wanted)
        pieces = render.list_pieces(resource, page.items, form, query, lists.metadata(page))
        return await lists.answer(context, pieces, form, self._reader.turns)

    async def watch(self, context: Context) -> web.StreamResponse:
        resource, info = context.target, context.info
        form = render.form_of(context.request.headers.get("Accept", ""), _OBJECT_FORMS)
        wanted = options.list_options(context.query, watch=True)
        selection = selecting.selection(
            resource,
            info.namespace if resource.namespaced else "",
            wanted.label_selector,
            wanted.field_selector,
            info.name,
        )
        try:
            initial, watcher = await self._reader.watch(resource, selection, wanted)
        except ApiError as error:
            if error.code != HTTPStatus.GONE:
                raise
            # A watch that has begun and fails, as upstream: what is wrong is no matter of the request.
            return context.answer(render.watch_line("ERROR", orjson.dumps(error.status())))
        lifetime_s = wanted.timeout_s or self._min_timeout_s * (1 + random.random())
        labels = ("WATCH", resource.group, resource.version, resource.plural)
        self._measures.long_running.add(labels)
        try:
            stream = WatchStream(context, watcher, form, self._reader, self._measures)
            await stream.run(initial, bool(wanted.initial_events and wanted.bookmarks), wanted.bookmarks, lifetime_s)
            return stream.response
        finally:
            self._measures.long_running.add(labels, -1)
            watcher.close()


class WatchStream:
    """One watch over HTTP: chunks of JSON lines until time is up, the client is gone or too slow."""

    def __init__(self, context: Context, watcher: Watcher, form: Form, reader: Reader, measures: Measures) -> None:
        self._context = context
        self._resource = context.target
        self._watcher = watcher
        self._form = form
        self._reader = reader
        self._measures = measures
        self._columns_sent = False
        self.response = web.StreamResponse(headers=context.headers())
        context.warn(self.response)
        self._awake = asyncio.Event()
        watcher.wake = self._awake.set

    async def run(self, initial: Scan | None, marks_end: bool, bookmarks: bool, lifetime_s: float) -> None:
        """Sends the initial state, then events. Ends with the chunk terminator."""
        now = time.monotonic()
        deadline, next_bookmark = now + lifetime_s, now + BOOKMARK_INTERVAL_S
        self.response.enable_chunked_encoding()
        await self.response.prepare(self._context.request)
        if initial is not None:
            async for items in self._reader.steps(initial):
                await self._send([("ADDED", item) for item in items])
            if marks_end:
                revision = initial.page.revision
                end = render.bookmark(self._resource, revision, self._form, initial_events_end=True)
                await self.response.write(end)
        while True:
            events = self._watcher.drain()
            if events:
                await self._send(events)
                continue
            if self._watcher.closed:
                break
            if self._watcher.pending:
                continue
            now = time.monotonic()
            if now >= deadline:
                break
            if bookmarks and now >= next_bookmark:
                next_bookmark = now + BOOKMARK_INTERVAL_S
                await self._bookmark()
                continue
            await self._sleep(min(deadline, next_bookmark if bookmarks else deadline) - now)
        if bookmarks and not self._watcher.closed:
            await self._bookmark()
        await self.response.write_eof()

    async def _sleep(self, seconds: float) -> None:
        self._awake.clear()
        if self._watcher.pending or self._watcher.closed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _bookmark(self) -> None:
        """Only when nothing is queued: everything up to the feed's revision has been sent then."""
        if not self._watcher.pending:
            revision = self._reader.store.feed.revision
            await self.response.write(render.bookmark(self._resource, revision, self._form, initial_events_end=False))

    async def _send(self, events: list[tuple[str, Item]]) -> None:
        lines: list[bytes] = []
        size = 0
        for kind, item in events:
            line = self._line(kind, item)
            lines.append(line)
            size += len(line)
            if size > _WRITE_BYTES_MAX:
                await self.response.write(b"".join(lines))
                await self._reader.turns.next()  # a write to a client that keeps up is no turn for others
                lines, size = [], 0
        if lines:
            await self.response.write(b"".join(lines))
        self._measures.watch_events.add(
            (self._resource.group, self._resource.version, self._resource.kind), len(events)
        )

    def _line(self, kind: str, item: Item) -> bytes:
        if not self._form.kind:
            return render.watch_line(kind, render.data_of(self._resource, item))
        # Only the first Table of a watch says what its columns are.
        with_columns, self._columns_sent = not self._columns_sent, True
        data = render.object_bytes(self._resource, item, self._form, self._context.query, with_columns)
        return render.watch_line(kind, data)

"""Reads with the freshness that a client asks for: objects, lists and chunks of lists, starts of watches.

resourceVersion   get                 list                              watch
absent            most recent         most recent                       most recent state first
0                 any cached state    any cached state                  any cached state first
N                 not older than N    not older than N, or exactly N    what follows N
"""

from collections.abc import AsyncIterator

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core import continuation, conversion
from raykube.apiserver.core.history import Expired
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.options import EXACT, ListOptions
from raykube.apiserver.core.scan import Page, Scan
from raykube.apiserver.core.selecting import Selection
from raykube.apiserver.core.watchcache import ResourceCache
from raykube.apiserver.core.watcher import Watcher
from raykube.apiserver.store import Store
from raykube.apiserver.turns import Turns

WATCHER_QUEUE_MAX = 10_000
FIRST_ITEMS = 1000  # so that a page of kubectl's, of 500, needs no second step, and nothing is copied for it
SCAN_ITEMS = 500  # in one turn of the event loop: some milliseconds, also where each has to be parsed


class Reader:
    """Reads from the watch caches."""

    def __init__(self, store: Store, turns: Turns) -> None:
        self.store = store
        self.turns = turns

    def cache(self, resource: Resource) -> ResourceCache:
        return self.store.cache(conversion.stored(resource))

    async def get(self, resource: Resource, namespace: str, name: str, version: str = "") -> Item:
        """One object. Raises ApiError 404, or what `_settle` raises."""
        await self._settle(version)
        item = self.cache(resource).get(f"{namespace}/{name}" if resource.namespaced else name)
        if item is None:
            raise ApiError.not_found(resource, name)
        return item

    async def _settle(self, version: str) -> None:
        """Waits until the caches are as fresh as `version` demands."""
        if version == "":
            await self.store.fresh()
        elif version != "0":
            if not (version.isascii() and version.isdigit()):
                raise ApiError.bad_request(f'invalid resource version "{version}"')
            if len(version) > 20 or int(version) >= 1 << 64:  # Python refuses to parse numbers of thousands of digits
                raise ApiError.bad_request(f'invalid resource version "{version}": value out of range')
            await self.store.not_older_than(int(version))

    async def page(self, resource: Resource, selection: Selection, options: ListOptions) -> Page:
        """A list or the next chunk of one. Raises ApiError, 410 when its revision is forgotten."""
        cache = self.cache(resource)
        if options.token:
            revision, start = continuation.decode(options.token)
            if revision == continuation.INCONSISTENT:
                await self.store.fresh()
                return await self._finished(cache.scan(selection, options.limit, start))
            await self.store.not_older_than(revision)
            try:
                return await self._finished(cache.scan(selection, options.limit, start, revision))
            except Expired:
                raise ApiError.from_status(continuation.expired(start)) from None
        await self._settle(options.resource_version)
        exact = options.match == EXACT or (not options.match and options.limit and options.revision)
        try:
            scan = cache.scan(selection, options.limit, revision=options.revision if exact else 0)
            return await self._finished(scan)
        except Expired:
            # What upstream's store says of a revision that is compacted.
            raise ApiError.expired("The resourceVersion for the provided list is too old.") from None

    async def _finished(self, scan: Scan) -> Page:
        """Everything that it finds. Others have their turns meanwhile."""
        scan.step(FIRST_ITEMS)
        while not scan.done:
            await self.turns.next()
            scan.step(SCAN_ITEMS)
        return scan.page

    async def steps(self, scan: Scan) -> AsyncIterator[list[Item]]:
        """What it finds, as it is found, and nothing of it twice. Others have their turns meanwhile."""
        while True:
            items = scan.take()
            if items:
                yield items
            if scan.done:
                return
            await self.turns.next()
            scan.step(SCAN_ITEMS)

    async def watch(
        self, resource: Resource, selection: Selection, options: ListOptions
    ) -> tuple[Scan | None, Watcher]:
        """The state to begin with, for `steps` (None: none was asked for), and the watcher of what follows it."""
        cache = self.cache(resource)
        wants_state = options.initial_events or (options.initial_events is None and options.revision == 0)
        if wants_state or options.revision == 0:
            await self._settle(options.resource_version)
            state = cache.scan(selection) if wants_state else None
            lag_max = WATCHER_QUEUE_MAX
            if state is not None:
                state.step(FIRST_ITEMS)
                # Whoever reads so much first is as far behind when he comes to the changes.
                lag_max += 0 if state.done else len(cache)
            return state, cache.watch(selection, self.store.feed.revision, lag_max)
        await self.store.not_older_than(options.revision)
        try:
            return None, cache.watch(selection, options.revision, WATCHER_QUEUE_MAX)
        except Expired as error:
            raise ApiError.expired(str(error)) from None

"""Reads with the freshness that a client asks for: objects, lists and chunks of lists, starts of watches.

resourceVersion   get                 list                              watch
absent            most recent         most recent                       most recent state first
0                 any cached state    any cached state                  any cached state first
N                 not older than N    not older than N, or exactly N    what follows N
"""

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core import continuation, conversion
from raykube.apiserver.core.options import EXACT, ListOptions
from raykube.apiserver.core.watchcache import Expired, Item, Page, ResourceCache, Selection, Watcher
from raykube.apiserver.store import Store

WATCHER_QUEUE_MAX = 10_000


class Reader:
    """Reads from the watch caches."""

    def __init__(self, store: Store) -> None:
        self.store = store

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
                return cache.page(selection, options.limit, start)
            await self.store.not_older_than(revision)
            try:
                return cache.page(selection, options.limit, start, revision)
            except Expired:
                raise ApiError.from_status(continuation.expired(start)) from None
        await self._settle(options.resource_version)
        exact = options.match == EXACT or (not options.match and options.limit and options.revision)
        try:
            return cache.page(selection, options.limit, revision=options.revision if exact else 0)
        except Expired:
            # What upstream's store says of a revision that is compacted.
            raise ApiError.expired("The resourceVersion for the provided list is too old.") from None

    async def watch(
        self, resource: Resource, selection: Selection, options: ListOptions
    ) -> tuple[list[Item] | None, Watcher]:
        """The state to begin with (None: none was asked for) and the watcher of what follows it."""
        cache = self.cache(resource)
        wants_state = options.initial_events or (options.initial_events is None and options.revision == 0)
        if wants_state or options.revision == 0:
            await self._settle(options.resource_version)
            items = cache.page(selection).items if wants_state else None
            return items, cache.watch(selection, self.store.feed.revision, WATCHER_QUEUE_MAX)
        await self.store.not_older_than(options.revision)
        try:
            return None, cache.watch(selection, options.revision, WATCHER_QUEUE_MAX)
        except Expired as error:
            raise ApiError.expired(str(error)) from None

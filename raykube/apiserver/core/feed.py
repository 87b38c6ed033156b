"""All watch caches together: where a store key belongs, and how far the store's history has been applied.

    /registry/pods/default/web               core resources
    /registry/apps/deployments/default/web   resources of a group

Keys of unknown resources are passed over; the revision moves on all the same.
"""

import heapq
from collections.abc import Callable, Iterable

from raykube.api.meta import with_resource_version
from raykube.api.resources import Resource
from raykube.apiserver.core.item import Item
from raykube.apiserver.core.watchcache import ResourceCache

PREFIX = "/registry/"


class Feed:
    """The caches of all resources, fed in revision order."""

    def __init__(self, resources: Iterable[Resource], history_max: int) -> None:
        self.revision = 0
        self.caches: dict[tuple[str, str], ResourceCache] = {}
        self._core: dict[str, ResourceCache] = {}
        self._grouped: dict[str, dict[str, ResourceCache]] = {}
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._tickets = 0
        for resource in resources:
            cache = self.caches[resource.group, resource.plural] = ResourceCache(resource, history_max)
            if resource.group:
                self._grouped.setdefault(resource.group, {})[resource.plural] = cache
            else:
                self._core[resource.plural] = cache

    def cache(self, resource: Resource) -> ResourceCache:
        return self.caches[resource.group, resource.plural]

    def place(self, key: str) -> tuple[ResourceCache, str] | None:
        """The cache that a store key belongs to, and the key inside it."""
        if not key.startswith(PREFIX):
            return None
        first, _, rest = key[len(PREFIX) :].partition("/")
        cache = self._core.get(first)
        if cache is not None:
            return cache, rest
        group = self._grouped.get(first)
        if group is None:
            return None
        plural, _, rest = rest.partition("/")
        cache = group.get(plural)
        return (cache, rest) if cache is not None else None

    def load(self, entries: Iterable[tuple[str, int, bytes]], revision: int) -> None:
        """Replaces everything by what was read at `revision`."""
        loading = Loading(self)
        loading.add(entries)
        loading.finish(revision)

    def apply(self, key: str, revision: int, value: bytes | None) -> None:
        """One put (or deletion: None)."""
        place = self.place(key)
        if place is not None:
            place[0].apply(place[1], revision, value)

    def advance(self, revision: int) -> None:
        """Everything up to `revision` has been applied."""
        if revision > self.revision:
            self.revision = revision
            for cache in self.caches.values():
                cache.revision = revision
        while self._waiting and self._waiting[0][0] <= self.revision:
            heapq.heappop(self._waiting)[2]()

    def when(self, revision: int, call: Callable[[], None]) -> None:
        """Calls once `revision` has been applied."""
        if revision <= self.revision:
            call()
            return
        self._tickets += 1
        heapq.heappush(self._waiting, (revision, self._tickets, call))


class Loading:
    """What is read of the store, until it is everything: chunk by chunk, so that its bytes are there once."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._items: dict[ResourceCache, dict[str, Item]] = {cache: {} for cache in feed.caches.values()}

    def add(self, entries: Iterable[tuple[str, int, bytes]]) -> None:
        """More (key, revision, value)."""
        for key, at, value in entries:
            place = self._feed.place(key)
            if place is not None:
                cache, name = place
                self._items[cache][name] = Item(name, at, with_resource_version(value, at))

    def finish(self, revision: int) -> None:
        """That was all, as it was at `revision`."""
        for cache, items in self._items.items():
            cache.replace(items, revision)
        self._feed.advance(revision)

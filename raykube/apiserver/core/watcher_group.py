"""The watchers of one resource, found by what they watch: a change meets only those that it may concern."""

from collections.abc import Iterable

from raykube.api.resources import Resource
from raykube.apiserver.core.item import Change
from raykube.apiserver.core.selecting import Selection
from raykube.apiserver.core.watcher import Watcher

_Bucket = dict[Watcher, None]  # in the order in which they came
_NOBODY: _Bucket = {}


class WatcherGroup:
    """Those who watch `resource`."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._everyone: _Bucket = {}
        self._by_namespace: dict[str, _Bucket] = {}
        self._by_key: dict[str, _Bucket] = {}
        self._by_node: dict[str, _Bucket] = {}

    def add(self, watcher: Watcher) -> None:
        """Offers it every change from now on, until it closes."""
        buckets, keys = self._place(watcher.selection)
        for key in keys:
            buckets.setdefault(key, {})[watcher] = None
        if not keys:
            self._everyone[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Takes a closed watcher off the list."""
        self._everyone.pop(watcher, None)
        buckets, keys = self._place(watcher.selection)
        for key in keys:
            buckets.get(key, {}).pop(watcher, None)
            if key in buckets and not buckets[key]:
                del buckets[key]

    def offer(self, change: Change, was: str = "", now: str = "") -> None:
        """Queues a change for those whom it may concern. `was`, `now`: the nodes of a pod before and after it."""
        for watcher in list(self._everyone):
            watcher.offer(change)
        if self._by_namespace:
            for watcher in list(self._by_namespace.get(change.key.partition("/")[0], ())):
                watcher.offer(change)
        if self._by_key:
            for watcher in list(self._by_key.get(change.key, ())):
                watcher.offer(change)
        if self._by_node:
            self._offer_by_node(change, was, now)

    def _offer_by_node(self, change: Change, was: str, now: str) -> None:
        watchers = self._by_node.get(now, _NOBODY)
        if was != now and was in self._by_node:
            watchers = self._by_node[was] | watchers  # each once, also one that watches both nodes
        for watcher in list(watchers):
            watcher.offer(change)

    def all(self) -> list[Watcher]:
        """Everyone who watches."""
        found = dict(self._everyone)
        for buckets in (self._by_key, self._by_node, self._by_namespace):
            for bucket in buckets.values():
                found |= bucket
        return list(found)

    def _place(self, selection: Selection) -> tuple[dict[str, _Bucket], Iterable[str]]:
        """The index that watchers of a selection are in, and where in it; nowhere for those of everything."""
        key = selection.key(self._resource)
        if key:
            return self._by_key, (key,)
        if selection.node:
            return self._by_node, (selection.node,)
        if selection.nodes:
            return self._by_node, selection.nodes
        return self._by_namespace, (selection.namespace,) if selection.namespace else ()

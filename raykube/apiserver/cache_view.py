"""The cluster as admission sees it."""

from raykube.apiserver.core.admission import LOOKED_AT
from raykube.apiserver.core.item import Change
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.store import Store


class CacheView:
    """The watch caches. `version` is raised when something changes of what is known about templates of pods."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.version = 0
        for place in LOOKED_AT:
            store.feed.caches[place].listeners.append(self._on_change)

    def _on_change(self, _change: Change) -> None:
        self.version += 1

    def find(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        item = self._store.feed.caches[group, plural].get(f"{namespace}/{name}" if namespace else name)
        return item.parsed() if item is not None else None

    def every(self, group: str, plural: str, namespace: str = "") -> list[Object]:
        cache = self._store.feed.caches[group, plural]
        return [item.parsed() for item in cache.items(namespace)] if cache else []

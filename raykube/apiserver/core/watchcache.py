"""The watch cache of one resource: its present objects, its recent changes, and who watches them.

    Item          one object at one revision: its JSON bytes (resourceVersion included); labels and fields read when
                  somebody asks, and shared by items that have the same                         (item.py, fields.py)
    OrderedItems  the present ones by key, in order                                             (ordered.py)
    Change        one write: the item before (None: created) and the item after (None: deleted) (item.py)
    History       the recent changes, within bounds                                             (history.py)
    Scan          a list, in steps                                                              (scan.py)
    Watcher       a bounded queue of changes that a selector lets through                       (watcher.py)

The cache is a pure value: `load`, `apply` and `advance` feed it in revision order, everything else reads. A list at an
earlier revision is the present one with the younger changes undone, so that a chunked list is consistent without a
copy of the state being kept for it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from raykube.api.meta import with_resource_version
from raykube.api.resources import Resource
from raykube.apiserver.core.fields import Fields
from raykube.apiserver.core.history import History
from raykube.apiserver.core.item import Change, Item
from raykube.apiserver.core.nodeindex import NodeIndex
from raykube.apiserver.core.ordered import OrderedItems, Range
from raykube.apiserver.core.scan import Page, Scan
from raykube.apiserver.core.selecting import Selection
from raykube.apiserver.core.watcher import Watcher
from raykube.apiserver.core.watcher_group import WatcherGroup

Undone = dict[str, Item | None]

_COPIED_WHOLE_MIN = 20_000  # so many are copied faster with all that are not asked for than one by one


class ResourceCache:
    """All versions of one resource share one cache, in the version that is stored."""

    def __init__(
        self, resource: Resource, history_max: int = 16_384, history_bytes_max: int = 48 * 1024 * 1024
    ) -> None:
        self.resource = resource
        self.fields = Fields(resource)
        self.revision = 0  # everything up to here has been applied
        self.listeners: list[Callable[[Change], None]] = []  # told of every change at once, reloads included
        self._items = OrderedItems()
        self._by_node = NodeIndex(self.fields) if resource.qualified == "pods" else None
        self._history = History(history_max, history_bytes_max)
        self._watchers = WatcherGroup(resource)

    @property
    def oldest(self) -> int:
        """Changes after this revision are in the history."""
        return self._history.oldest

    # -- feeding

    def load(self, entries: list[tuple[str, int, bytes]], revision: int) -> None:
        """Replaces the state by (key, revision, value) entries read at `revision`; closes every watcher."""
        self.replace({key: Item(key, at, with_resource_version(data, at)) for key, at, data in entries}, revision)

    def replace(self, items: dict[str, Item], revision: int) -> None:
        """As `load`, with what became of the entries."""
        old = self._items.by_key
        self._items = OrderedItems(items)
        if self._by_node is not None:
            self._by_node.replace(items.values())
        if self.listeners:
            for key in old.keys() - items.keys():
                self._tell(Change(revision, key, old[key], None))
            for key, item in items.items():
                before = old.get(key)
                if before is not None and not item.is_same_object(before):
                    self._tell(Change(revision, key, before, None))
                    before = None
                self._tell(Change(item.revision, key, before, item))
        self._history.restart(revision)
        self.revision = revision
        for watcher in self.watchers():
            watcher.close()

    def apply(self, key: str, revision: int, value: bytes | None) -> Change | None:
        """One put (or deletion: None). Returns the change; None when there was nothing to delete."""
        self.revision = revision
        if value is None:
            after = None
            before = self._items.pop(key)
            if before is None:
                return None
        else:
            after = Item(key, revision, with_resource_version(value, revision))
            before = self._items.put(after)
        change = Change(revision, key, before, after)
        nodes = self._by_node.apply(change) if self._by_node is not None else ("", "")
        self._history.append(change)
        self._tell(change)
        self._watchers.offer(change, *nodes)
        return change

    def advance(self, revision: int) -> None:
        """Nothing of this resource happened up to `revision`."""
        if revision > self.revision:
            self.revision = revision

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    # -- reading

    def __len__(self) -> int:
        return len(self._items.by_key)

    def get(self, key: str) -> Item | None:
        return self._items.by_key.get(key)

    def keys(self, namespace: str = "") -> Iterator[str]:
        """Keys in order, of one namespace or all."""
        return self._items.keys(Range(namespace))

    def items(self, namespace: str = "") -> Iterator[Item]:
        return map(self._items.by_key.__getitem__, self.keys(namespace))

    def page(self, selection: Selection, limit: int = 0, start: str = "", revision: int = 0) -> Page:
        """At most `limit` (0: all) selected items from key `start` on, at `revision` (0: the present).

        Raises Expired when the history does not reach back to `revision`.
        """
        return self.scan(selection, limit, start, revision).run()

    def scan(self, selection: Selection, limit: int = 0, start: str = "", revision: int = 0) -> Scan:
        """As `page`, in steps. The first one must come before anything else changes. Raises Expired."""
        at = revision or self.revision
        undone = self._undone(at)
        key = selection.key(self.resource)

        def matches(item: Item) -> bool:
            return selection.matches(self.fields, item)

        if key:
            found = undone[key] if key in undone else self._items.by_key.get(key)
            return Scan(iter([found] if found is not None and key >= start else []), _nothing, matches, at, limit)
        keys = Range(selection.namespace, start)
        if selection.node and self._by_node is not None and not undone:
            there = [item for item in self._by_node.of(selection.node) if item.key in keys]
            return Scan(iter(sorted(there, key=_key_of)), _nothing, matches, at, limit)
        items = self._items

        def rest(last: str) -> Iterator[Item]:
            behind = keys.behind(last)
            in_order = list(items.keys(behind))
            whole = len(in_order) >= _COPIED_WHOLE_MIN
            copy = items.by_key.copy() if whole else {key: items.by_key[key] for key in in_order}
            return _walk(in_order, copy, behind, undone)

        walk = _walk(items.keys(keys), items.by_key, keys, undone)
        if not selection.is_plain or selection.name:
            return Scan(walk, rest, matches, at, limit)
        total = items.count(keys) + sum(
            (item is not None) - (key in items.by_key) for key, item in undone.items() if key in keys
        )
        return Scan(walk, rest, None, at, limit, total)

    def _undone(self, revision: int) -> Undone:
        """The items that differ between `revision` and now, as they were then."""
        if revision >= self.revision:
            return {}
        undone: Undone = {}
        for change in reversed(self._history.since(revision)):
            undone[change.key] = change.before
        return undone

    # -- watching

    def watch(self, selection: Selection, revision: int, limit: int = 10_000) -> Watcher:
        """A watcher of the changes after `revision`. Raises Expired. `limit` bounds what it may leave unread."""
        backlog = self._history.since(revision) if revision < self.revision else []
        watcher = Watcher(self.fields, selection, limit, self._watchers.remove, backlog)
        self._watchers.add(watcher)
        return watcher

    def watchers(self) -> list[Watcher]:
        """Everyone who watches."""
        return self._watchers.all()


def _walk(keys: Iterable[str], items: Mapping[str, Item], within: Range, undone: Undone) -> Iterator[Item]:
    """The items of sorted `keys`, but for those that are `undone`, and the others that were there then."""
    if not undone:
        yield from map(items.__getitem__, keys)
        return
    returning = sorted((key for key in undone if key not in items and key in within), reverse=True)
    for key in keys:
        while returning and returning[-1] < key:
            yield from _present(undone[returning.pop()])
        yield from _present(undone[key] if key in undone else items[key])
    for key in reversed(returning):
        yield from _present(undone[key])


def _present(item: Item | None) -> tuple[Item, ...]:
    return () if item is None else (item,)


def _nothing(_last: str) -> Iterator[Item]:
    return iter(())


def _key_of(item: Item) -> str:
    return item.key

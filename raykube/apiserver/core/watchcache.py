"""The watch cache of one resource: its present objects, its recent changes, and who watches them.

    Item      one object at one revision: its JSON bytes (resourceVersion included); labels and fields parsed when
              somebody asks, once
    Change    one write: the item before (None: created) and the item after (None: deleted)
    Watcher   a bounded queue of changes that a selector lets through

    history   (oldest ......................... revision]
               ^ changes up to here are forgotten: watches and exact lists below it answer Expired

The cache is a pure value: `load`, `apply` and `advance` feed it in revision order, everything else reads. A list at an
earlier revision is the present one with the younger changes undone, so that a chunked list is consistent without a
copy of the state being kept for it.

A watcher whose queue is full is closed, never waited for: its client watches again from where it was.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sortedcontainers import SortedDict

from raykube.api.meta import with_resource_version
from raykube.api.resources import Resource
from raykube.api.selectors import FieldSelector, LabelSelector, selectable_fields

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"
BOOKMARK = "BOOKMARK"

# The last character below "/" and the one above it: a namespace's keys are those in ["ns/", "ns0").
_AFTER_SLASH = "0"
_NODE = "spec.nodeName"


class Expired(Exception):
    """The revision asked for is older than the history that is kept."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {revision} ({oldest})")
        self.revision = revision
        self.oldest = oldest


class Item:
    """One object at one revision."""

    __slots__ = ("_fields", "_labels", "_parsed", "data", "forms", "key", "revision")

    def __init__(self, key: str, revision: int, data: bytes) -> None:
        self.key = key  # "namespace/name", or "name" where there are no namespaces
        self.revision = revision
        self.data = data
        self.forms: dict[object, bytes] | None = (
            None  # other encodings (Table rows, other API versions), made on demand
        )
        self._labels: dict[str, str] | None = None
        self._fields: dict[str, str] = {}
        self._parsed: dict[str, Any] | None = None

    def parse(self, fields: "Fields") -> tuple[dict[str, str], dict[str, str]]:
        """Labels and the fields that are asked for."""
        if self._labels is None or len(self._fields) < len(fields.names):
            obj = orjson.loads(self.data)
            self._fields = selectable_fields(fields.resource, obj, fields.names)
            self._labels = obj["metadata"].get("labels") or {}
        return self._labels, self._fields

    def parsed(self) -> dict[str, Any]:
        """The whole object, kept: for the few kinds that admission looks at all the time. Not to be changed."""
        if self._parsed is None:
            self._parsed = orjson.loads(self.data)
        return self._parsed

    def decode(self) -> dict[str, Any]:
        """The whole object, parsed for the caller, who may change it."""
        obj: dict[str, Any] = orjson.loads(self.data)
        return obj

    def form(self, key: object, make: Callable[[bytes], bytes]) -> bytes:
        """Another encoding of this item, made once."""
        if self.forms is None:
            self.forms = {}
        found = self.forms.get(key)
        if found is None:
            found = self.forms[key] = make(self.data)
        return found

    @property
    def namespace(self) -> str:
        namespace, slash, _ = self.key.partition("/")
        return namespace if slash else ""

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


class Change:
    """One write of the resource."""

    __slots__ = ("_departed", "after", "before", "key", "revision")

    def __init__(self, revision: int, key: str, before: Item | None, after: Item | None) -> None:
        self.revision = revision
        self.key = key
        self.before = before
        self.after = after
        self._departed: Item | None = None

    def departed(self) -> Item:
        """The item before, at this change's revision: what a DELETED event carries."""
        if self._departed is None:
            assert self.before is not None
            data = with_resource_version(without_resource_version(self.before.data), self.revision)
            self._departed = Item(self.key, self.revision, data)
        return self._departed


_VERSION_MARK = b'"metadata":{"resourceVersion":"'
_BARE_MARK = b'"metadata":{'


def without_resource_version(data: bytes) -> bytes:
    """Undoes `with_resource_version`."""
    start = data.find(_VERSION_MARK)
    if start < 0:
        return data
    end = data.index(b'"', start + len(_VERSION_MARK)) + 1
    if data[end : end + 1] == b",":
        end += 1
    return data[: start + len(_BARE_MARK)] + data[end:]


class Fields:
    """The fields of a resource that lists and watches have asked for so far: no others are read of its items."""

    __slots__ = ("names", "resource")

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.names: tuple[str, ...] = ()  # only grows, so that its length tells an item what it has not read yet

    def ask(self, *names: str) -> None:
        """From now on items are read for these fields too."""
        new = [name for name in names if name not in self.names]
        if new:
            self.names = (*self.names, *dict.fromkeys(new))


@dataclass(slots=True)
class Selection:
    """What a list or a watch is about. Empty strings and None select everything."""

    namespace: str = ""
    name: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None
    node: str = ""  # pods: exactly those of this node (an index for kubelets; `fields` says the same)

    def matches(self, known: Fields, item: Item) -> bool:
        """Whether `item` is selected. `known` has been asked for the selection's fields."""
        key = self.key(known.resource)
        if key:
            if item.key != key:
                return False
        elif (self.namespace and not item.key.startswith(self.namespace + "/")) or (
            self.name and item.name != self.name
        ):
            return False
        if self.labels is None and self.fields is None:
            return True
        labels, fields = item.parse(known)
        if self.labels is not None and not self.labels.matches(labels):
            return False
        return self.fields is None or self.fields.matches(fields)

    def key(self, resource: Resource) -> str:
        """The one item's key, where the selection names it; else empty."""
        if not self.name or not resource.namespaced:
            return self.name
        return f"{self.namespace}/{self.name}" if self.namespace else ""


@dataclass(slots=True)
class Page:
    """A list, or a chunk of one, at one revision."""

    items: list[Item]
    revision: int
    next_key: str = ""  # where the next chunk starts; empty: this was the last
    remaining: int | None = None  # how many items follow, where that is known


class Watcher:
    """The changes of a selection, waiting to be sent."""

    __slots__ = ("_cache", "_queue", "closed", "limit", "selection", "wake")

    def __init__(self, cache: "ResourceCache", selection: Selection, limit: int) -> None:
        self._cache = cache
        self._queue: deque[Change] = deque()
        self.selection = selection
        self.limit = limit
        self.closed = False
        self.wake: Callable[[], None] = _nobody

    def offer(self, change: Change) -> None:
        """Queues a change, or closes the watcher when it is too slow."""
        if self.closed:
            return
        queue = self._queue
        if len(queue) >= self.limit:
            self.close()
            return
        queue.append(change)
        if len(queue) == 1:
            self.wake()

    def drain(self, most: int = 1000) -> list[tuple[str, Item]]:
        """Takes what is queued, as (event type, item): the selection's view of at most `most` changes."""
        queue = self._queue
        events: list[tuple[str, Item]] = []
        for _ in range(min(most, len(queue))):
            seen = view(self._cache.fields, self.selection, queue.popleft())
            if seen is not None:
                events.append(seen)
        return events

    @property
    def pending(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        """Ends the watch; what is queued is dropped (the client resumes from the last event it got)."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._cache.forget(self)
            self.wake()


def _nobody() -> None:
    """The wake of a watcher that nobody waits for."""


def view(fields: Fields, selection: Selection, change: Change) -> tuple[str, Item] | None:
    """How a change looks through a selection: an object that leaves it is DELETED, one that enters it ADDED."""
    before, after = change.before, change.after
    if selection.labels is None and selection.fields is None:
        if after is None:
            return (DELETED, change.departed()) if before and selection.matches(fields, before) else None
        if not selection.matches(fields, after):
            return None
        return (ADDED if before is None else MODIFIED), after
    was = before is not None and selection.matches(fields, before)
    if after is not None and selection.matches(fields, after):
        return (MODIFIED if was else ADDED), after
    return (DELETED, change.departed()) if was else None


class ResourceCache:
    """All versions of one resource share one cache, in the version that is stored."""

    def __init__(
        self, resource: Resource, history_max: int = 16_384, history_bytes_max: int = 48 * 1024 * 1024
    ) -> None:
        self.resource = resource
        self.fields = Fields(resource)
        self.history_max = history_max
        self.history_bytes_max = history_bytes_max
        self.revision = 0  # everything up to here has been applied
        self.oldest = 0  # changes after this revision are in the history
        self.listeners: list[Callable[[Change], None]] = []  # told of every change at once, reloads included
        self._items: SortedDict[str, Item] = SortedDict()
        self._history: list[Change] = []
        self._first = 0  # index of the oldest change kept: the list is cut now and then, not shifted each time
        self._history_bytes = 0
        self._everyone: dict[Watcher, None] = {}
        self._by_namespace: dict[str, dict[Watcher, None]] = {}
        self._by_key: dict[str, dict[Watcher, None]] = {}
        self._by_node: dict[str, dict[Watcher, None]] = {}

    # -- feeding

    def load(self, entries: list[tuple[str, int, bytes]], revision: int) -> None:
        """Replaces the state by (key, revision, value) entries read at `revision`; closes every watcher."""
        old = self._items
        self._items = SortedDict({key: Item(key, at, with_resource_version(data, at)) for key, at, data in entries})
        if self.listeners:
            for key in old.keys() - self._items.keys():
                self._tell(Change(revision, key, old[key], None))
            for key, item in self._items.items():
                self._tell(Change(item.revision, key, old.get(key), item))
        self._history.clear()
        self._first = self._history_bytes = 0
        self.revision = self.oldest = revision
        for watcher in self.watchers():
            watcher.close()

    def apply(self, key: str, revision: int, value: bytes | None) -> Change | None:
        """One put (or deletion: None). Returns the change; None when there was nothing to delete."""
        self.revision = revision
        before = self._items.get(key)
        if value is None:
            if before is None:
                return None
            after = None
            del self._items[key]
        else:
            after = self._items[key] = Item(key, revision, with_resource_version(value, revision))
        change = Change(revision, key, before, after)
        self._remember(change)
        self._tell(change)
        self._dispatch(change)
        return change

    def advance(self, revision: int) -> None:
        """Nothing of this resource happened up to `revision`."""
        if revision > self.revision:
            self.revision = revision

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    def _remember(self, change: Change) -> None:
        self._history.append(change)
        self._history_bytes += _weight(change)
        while len(self._history) - self._first > self.history_max or self._history_bytes > self.history_bytes_max:
            dropped = self._history[self._first]
            self._first += 1
            self._history_bytes -= _weight(dropped)
            self.oldest = dropped.revision
        if self._first > 1024 and self._first * 2 > len(self._history):
            del self._history[: self._first]
            self._first = 0

    def _dispatch(self, change: Change) -> None:
        for watcher in list(self._everyone):
            watcher.offer(change)
        if self._by_namespace:
            for watcher in list(self._by_namespace.get(change.key.partition("/")[0], ())):
                watcher.offer(change)
        if self._by_key:
            for watcher in list(self._by_key.get(change.key, ())):
                watcher.offer(change)
        if self._by_node:
            nodes = {item.parse(self.fields)[1][_NODE] for item in (change.before, change.after) if item is not None}
            for node in nodes:
                for watcher in list(self._by_node.get(node, ())):
                    watcher.offer(change)

    # -- reading

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> Item | None:
        item: Item | None = self._items.get(key)
        return item

    def keys(self, namespace: str = "") -> Iterator[str]:
        """Keys in order, of one namespace or all."""
        if not namespace:
            return iter(self._items)
        keys: Iterator[str] = self._items.irange(namespace + "/", namespace + _AFTER_SLASH, inclusive=(True, False))
        return keys

    def items(self, namespace: str = "") -> Iterator[Item]:
        items = self._items
        return iter(items.values()) if not namespace else (items[key] for key in self.keys(namespace))

    def page(self, selection: Selection, limit: int = 0, start: str = "", revision: int = 0) -> Page:
        """At most `limit` (0: all) selected items from key `start` on, at `revision` (0: the present).

        Raises Expired when the history does not reach back to `revision`.
        """
        self._ask(selection)
        at = revision or self.revision
        undone = self._undone(at)
        key = selection.key(self.resource)
        if key:
            found = undone[key] if key in undone else self._items.get(key)
            hit = found is not None and key >= start and selection.matches(self.fields, found)
            return Page([found] if hit and found is not None else [], at)
        simple = selection.labels is None and selection.fields is None and not selection.name
        taken: list[Item] = []
        following = self._at(selection.namespace, start, undone)
        for item in following:
            if not simple and not selection.matches(self.fields, item):
                continue
            if limit and len(taken) == limit:
                remaining = 1 + sum(1 for _ in following) if simple else None
                return Page(taken, at, item.key, remaining)
            taken.append(item)
        return Page(taken, at)

    def _undone(self, revision: int) -> dict[str, Item | None]:
        """The items that differ between `revision` and now, as they were then."""
        if revision >= self.revision:
            return {}
        undone: dict[str, Item | None] = {}
        for change in reversed(self._since(revision)):
            undone[change.key] = change.before
        return undone

    def _at(self, namespace: str, start: str, undone: dict[str, Item | None]) -> Iterator[Item]:
        low = max(start, namespace + "/") if namespace else start
        high = namespace + _AFTER_SLASH if namespace else None
        items = self._items
        if not undone:
            if not low and high is None:
                yield from items.values()
                return
            for key in items.irange(low or None, high, inclusive=(True, False)):
                yield items[key]
            return
        returning = sorted(
            (
                key
                for key, item in undone.items()
                if item is not None and key not in items and key >= low and (high is None or key < high)
            ),
            reverse=True,
        )
        for key in items.irange(low or None, high, inclusive=(True, False)):
            while returning and returning[-1] < key:
                item = undone[returning.pop()]
                assert item is not None
                yield item
            item = undone[key] if key in undone else items[key]
            if item is not None:
                yield item
        for key in reversed(returning):
            item = undone[key]
            assert item is not None
            yield item

    def _since(self, revision: int) -> list[Change]:
        if revision < self.oldest:
            raise Expired(revision, self.oldest)
        start = bisect_right(self._history, revision, lo=self._first, key=_revision_of)
        return self._history[start:]

    def _ask(self, selection: Selection) -> None:
        if selection.fields is not None:
            self.fields.ask(*(term.field for term in selection.fields.requirements))
        if selection.node:
            self.fields.ask(_NODE)

    # -- watching

    def watch(self, selection: Selection, revision: int, limit: int = 10_000) -> Watcher:
        """A watcher of the changes after `revision`. Raises Expired. `limit` bounds what it may leave unread."""
        self._ask(selection)
        backlog = self._since(revision) if revision < self.revision else []
        watcher = Watcher(self, selection, limit + len(backlog))
        for change in backlog:
            watcher.offer(change)
        self._bucket(selection)[watcher] = None
        return watcher

    def _bucket(self, selection: Selection) -> dict[Watcher, None]:
        key = selection.key(self.resource)
        if key:
            return self._by_key.setdefault(key, {})
        if selection.node:
            return self._by_node.setdefault(selection.node, {})
        if selection.namespace:
            return self._by_namespace.setdefault(selection.namespace, {})
        return self._everyone

    def forget(self, watcher: Watcher) -> None:
        """Takes a closed watcher off the list."""
        selection = watcher.selection
        self._bucket(selection).pop(watcher, None)
        for buckets, key in (
            (self._by_key, selection.key(self.resource)),
            (self._by_node, selection.node),
            (self._by_namespace, selection.namespace),
        ):
            if key in buckets and not buckets[key]:
                del buckets[key]

    def watchers(self) -> list[Watcher]:
        """Everyone who watches."""
        found = list(self._everyone)
        for buckets in (self._by_key, self._by_node, self._by_namespace):
            for bucket in buckets.values():
                found.extend(bucket)
        return found


def _revision_of(change: Change) -> int:
    return change.revision


def _weight(change: Change) -> int:
    """Bytes that only the history keeps alive: about the state that was replaced."""
    return 200 + (len(change.before.data) if change.before is not None else 0)

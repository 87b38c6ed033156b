"""The list-watch machine: a copy of one kind, built from the event batches of one watch after another.

    start/410 ─► REPLACING: ADDED… BOOKMARK(initial_events_end) ─► the copy is replaced at once, differences come out
                     │ break: start over                                     │
                     └──────────────◄──────────────────────── FOLLOWING: ADDED/MODIFIED/DELETED/BOOKMARK
                                           410 Gone                 break: resume behind the last revision

Guarantees:
- The copy is always a state that the store had; between two states every object's changes come out once, in order.
- It never goes back in time: events at or before the last revision are dropped, and an initial state older than the
  copy (from an apiserver that lags) raises `Stale`: ask another one.
- A replacement is atomic: readers see the old state until the new one is complete.

Objects are dicts and are never changed by anybody once they are in the copy.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" when cluster-scoped), name

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"
BOOKMARK = "BOOKMARK"


class WatchEvent(NamedTuple):
    """One event of a watch; `object` is None for a bookmark."""

    type: str
    object: Object | None
    resource_version: int
    initial_events_end: bool = False


class Change(NamedTuple):
    """What became of one object. `old` is None for ADDED, `new` for DELETED."""

    type: str
    old: Object | None
    new: Object | None

    @property
    def object(self) -> Object:
        """The newest state known."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found


class Request(NamedTuple):
    """The watch to open next."""

    resource_version: int
    send_initial_events: bool


class Machine(Protocol):
    """What follows a watch: `ListWatch`, or one that keeps another form of the objects."""

    objects: dict[Key, Object]
    resource_version: int
    synced: bool

    def request(self) -> Request:
        """The watch to open now."""

    def on_expired(self) -> None:
        """The revision to resume from is compacted."""

    def on_events(self, events: Iterable[WatchEvent]) -> list[Change]:
        """Applies a batch. Raises Stale."""


class Stale(Exception):
    """The initial state offered is older than the copy."""


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def identity(obj: Object) -> Object:
    """What a copy must have of an object for replacements to tell what changed: all that `ListWatch(kept=)` needs."""
    metadata = obj["metadata"]
    return {"metadata": {name: metadata[name] for name in _IDENTITY if name in metadata}}


_IDENTITY = ("namespace", "name", "uid", "resourceVersion")


class ListWatch:
    """The state of one informer. `objects` is the copy; `request` says which watch to open; `on_events` feeds it."""

    def __init__(self, kept: Callable[[Object], Object] | None = None) -> None:
        """`kept` makes what the copy has, and changes as `old`, of an object that was told of whole: for handlers that
        keep what they need themselves, `identity`."""
        self._kept = kept
        self.objects: dict[Key, Object] = {}
        self.resource_version = 0
        self.synced = False
        self._replacement: dict[Key, Object] | None = None
        self._relist = True

    def request(self) -> Request:
        """The watch to open now; whatever an earlier one had half sent is forgotten."""
        if self._relist:
            self._replacement = {}
            return Request(0, send_initial_events=True)
        return Request(self.resource_version, send_initial_events=False)

    def on_expired(self) -> None:
        """The revision to resume from is compacted (410): the next request asks for the whole state."""
        self._relist = True

    def on_events(self, events: Iterable[WatchEvent]) -> list[Change]:
        """Applies a batch; returns the changes of the copy, in order."""
        changes: list[Change] = []
        for event in events:
            if self._replacement is not None:
                if event.initial_events_end:
                    changes += self._replace(event.resource_version)
                elif event.object is not None and event.type == DELETED:
                    self._replacement.pop(key_of(event.object), None)
                elif event.object is not None:
                    self._replacement[key_of(event.object)] = event.object
            elif event.resource_version > self.resource_version:
                self.resource_version = event.resource_version
                if event.object is not None and (change := self._apply(event.type, event.object)):
                    changes.append(change)
        return changes

    def _apply(self, event_type: str, obj: Object) -> Change | None:
        key = key_of(obj)
        old = self.objects.get(key)
        if event_type == DELETED:
            if old is None:
                return None
            del self.objects[key]
            # The event carries the object as it was at its deletion: later than what the copy had.
            return Change(DELETED, obj, None)
        self.objects[key] = obj if self._kept is None else self._kept(obj)
        return Change(ADDED, None, obj) if old is None else Change(MODIFIED, old, obj)

    def _replace(self, resource_version: int) -> list[Change]:
        assert self._replacement is not None
        if resource_version < self.resource_version:
            self._replacement = {}
            raise Stale(f"offered revision {resource_version}, the copy has {self.resource_version}")
        before, after = self.objects, self._replacement
        changes = [Change(DELETED, old, None) for key, old in before.items() if key not in after]
        for key, new in after.items():
            old = before.get(key)
            if old is None:
                changes.append(Change(ADDED, None, new))
            elif old["metadata"].get("uid") != new["metadata"].get("uid"):
                # Deleted and made again while nobody watched: two objects that share a name.
                changes += (Change(DELETED, old, None), Change(ADDED, None, new))
            elif old["metadata"].get("resourceVersion") != new["metadata"].get("resourceVersion"):
                changes.append(Change(MODIFIED, old, new))
        kept = self._kept
        self.objects = after if kept is None else {key: kept(new) for key, new in after.items()}
        self.resource_version = resource_version
        self.synced = True
        self._replacement = None
        self._relist = False
        return changes

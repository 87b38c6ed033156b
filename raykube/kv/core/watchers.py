"""Who watches what, and who has something new to see. Watchers pull: nothing is queued for a slow one, it only lags.

A watcher reads the store's event log from its own position. `WatchTable` says which watchers an applied event concerns:
watchers of single keys and of prefixes are looked up, watchers of other ranges are grouped by range and compared. A
watcher that begins before the compacted revision is told so, and ends; so is one that lags until what it would see next
is swept. One that keeps up misses nothing, also where its events and their compaction are applied in one turn.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeVar

from raykube.kv.core.mvcc.key_index import UNBOUNDED
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version

Key = TypeVar("Key", bound=Hashable)
EVENTS_MAX = 1000
BYTES_MAX = 1 << 20
SCANNED_MAX = 5000
_mod = attrgetter("mod")


@dataclass(eq=False, slots=True)
class Watcher:
    """One watch: keys, the next revision it has not seen, and what it wants left out."""

    id: int
    key: bytes
    range_end: bytes  # etcd's notation; empty: the key alone
    next_revision: int
    without_puts: bool = False
    without_deletes: bool = False
    prev_kv: bool = False
    progress_notify: bool = False
    fragment: bool = False
    is_dirty: bool = True
    has_begun: bool = False  # where it began was not compacted then

    @property
    def place(self) -> tuple[object, ...]:
        """All that decides what it gets next: equal for watchers who get the same."""
        return (
            *(self.key, self.range_end, self.next_revision),
            *(self.without_puts, self.without_deletes, self.prev_kv, self.fragment, self.has_begun),
        )

    def is_synced(self, revision: int) -> bool:
        """Whether it has got all events up to `revision`, and may be told so."""
        return not self.is_dirty and self.next_revision <= revision + 1

    def wants(self, version: Version) -> bool:
        if version.value is None:
            return not self.without_deletes
        return not self.without_puts

    def covers(self, key: bytes) -> bool:
        if not self.range_end:
            return key == self.key
        return key >= self.key and (self.range_end == UNBOUNDED or key < self.range_end)


@dataclass(slots=True)
class Pull:
    """What a watcher gets: events, whether more are waiting, or that its position is compacted."""

    events: list[Version] = field(default_factory=list)
    is_compacted: bool = False


def pull(store: Store, watcher: Watcher) -> Pull:
    """The next events for `watcher`, and moves it on. Revisions are never torn apart.

    It stays dirty when there is more: a long way to catch up is gone in steps of a millisecond.
    """
    if watcher.next_revision < (store.events_from if watcher.has_begun else store.compact_revision):
        return Pull(is_compacted=True)
    watcher.has_begun = True
    watcher.is_dirty = False
    found: list[Version] = []
    if watcher.next_revision > store.revision:
        return Pull()
    events, covers = _to_see(store, watcher)
    wants = watcher.wants
    size = last = 0
    for scanned, version in enumerate(events):
        mod = version.mod
        if mod != last:
            if len(found) >= EVENTS_MAX or size >= BYTES_MAX or scanned >= SCANNED_MAX:
                watcher.next_revision = mod
                watcher.is_dirty = True
                return Pull(found)
            last = mod
        if covers(version.key) and wants(version):
            found.append(version)
            size += len(version.key) + len(version.value or b"")
    watcher.next_revision = store.revision + 1
    return Pull(found)


def _to_see(store: Store, watcher: Watcher) -> tuple[Iterable[Version], Callable[[bytes], bool]]:
    """The events from the watcher's position on among which its own are, and how to tell."""
    start = watcher.next_revision
    # A history lacks what the compacted revision itself replaced or deleted, once that is swept; the event log has it.
    if not watcher.range_end and start > store.compact_revision:
        history = store.index.histories.get(watcher.key, [])
        return history[bisect_left(history, start, key=_mod) :], lambda _: True
    events = store.events
    return (events[position] for position in range(store.position(start), len(events))), watcher.covers


def _prefix(watcher: Watcher) -> bytes | None:
    """The prefix that all keys of its range have, if the range is all keys with a prefix."""
    start, end = watcher.key, watcher.range_end
    if start and start[-1] < 0xFF and end == start[:-1] + bytes([start[-1] + 1]):
        return start
    return None


class WatchTable:
    """All watchers of a member: by key, by prefix (looked up by the lengths there are), by other ranges (walked)."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[Watcher]] = {}
        self._by_prefix: dict[bytes, set[Watcher]] = {}
        self._prefix_lengths: Counter[int] = Counter()
        self._by_range: dict[tuple[bytes, bytes], set[Watcher]] = {}
        self._seen_revision = 0
        self._store: Store | None = None

    def add(self, watcher: Watcher) -> None:
        prefix = _prefix(watcher)
        if not watcher.range_end:
            self._by_key.setdefault(watcher.key, set()).add(watcher)
        elif prefix is None:
            self._by_range.setdefault((watcher.key, watcher.range_end), set()).add(watcher)
        else:
            if prefix not in self._by_prefix:
                self._by_prefix[prefix] = set()
                self._prefix_lengths[len(prefix)] += 1
            self._by_prefix[prefix].add(watcher)

    def remove(self, watcher: Watcher) -> None:
        prefix = _prefix(watcher)
        if not watcher.range_end:
            _discard(self._by_key, watcher.key, watcher)
        elif prefix is None:
            _discard(self._by_range, (watcher.key, watcher.range_end), watcher)
        elif _discard(self._by_prefix, prefix, watcher):
            self._prefix_lengths -= Counter([len(prefix)])  # drops a length that nobody has any more

    def on_applied(self, store: Store) -> set[Watcher]:
        """The watchers that the events since the last call concern; they are marked dirty."""
        is_replaced, self._store = store is not self._store, store
        if not (self._by_key or self._by_prefix or self._by_range):
            self._seen_revision = store.revision
            return set()
        if is_replaced and self._seen_revision + 1 < store.compact_revision:
            # A leader's snapshot came, without the events up to its compaction: nobody can tell whom they concerned.
            groups = (*self._by_key.values(), *self._by_prefix.values(), *self._by_range.values())
            return self._mark({watcher for group in groups for watcher in group}, store)
        keys = {event.key for event in store.events[store.position(self._seen_revision + 1) :]}
        return self._mark(self._concerned(keys), store)

    def _concerned(self, keys: set[bytes]) -> set[Watcher]:
        dirty: set[Watcher] = set()
        by_key, by_prefix = self._by_key, self._by_prefix
        if by_key:
            for key in by_key.keys() & keys:
                dirty |= by_key[key]
        for length in self._prefix_lengths:
            for prefix in by_prefix.keys() & {key[:length] for key in keys}:
                dirty |= by_prefix[prefix]
        for (start, end), group in self._by_range.items():
            if any(key >= start and (end == UNBOUNDED or key < end) for key in keys):
                dirty |= group
        return dirty

    def _mark(self, dirty: set[Watcher], store: Store) -> set[Watcher]:
        for watcher in dirty:
            if not watcher.is_dirty:
                # A clean watcher has seen everything so far; compaction may have passed the place where it last stood.
                watcher.next_revision = max(watcher.next_revision, self._seen_revision + 1)
                watcher.is_dirty = True
        self._seen_revision = store.revision
        return dirty


def _discard(table: dict[Key, set[Watcher]], key: Key, watcher: Watcher) -> bool:
    """Takes a watcher out of its group; returns whether that was the last of it."""
    group = table.get(key)
    if group is None:
        return False
    group.discard(watcher)
    if group:
        return False
    del table[key]
    return True

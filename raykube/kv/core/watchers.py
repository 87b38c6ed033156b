"""Who watches what, and who has something new to see. Watchers pull: nothing is queued for a slow one, it only lags.

A watcher reads the store's event log from its own position. `WatchTable` says which watchers an applied event concerns:
watchers of single keys are found by key, watchers of ranges are grouped, so that 1,000 watchers of one prefix cost one
comparison. A watcher whose position compaction has passed is told so, and ends.
"""

from dataclasses import dataclass, field

from raykube.kv.core.mvcc.key_index import UNBOUNDED
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version

EVENTS_MAX = 1000
BYTES_MAX = 1 << 20


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

    @property
    def place(self) -> tuple[object, ...]:
        """All that decides what it gets next: equal for watchers who get the same."""
        return (
            *(self.key, self.range_end, self.next_revision),
            *(self.without_puts, self.without_deletes, self.prev_kv, self.fragment),
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
    """The next events for `watcher`, and moves it on. Revisions are never torn apart."""
    if watcher.next_revision < store.compact_revision:
        return Pull(is_compacted=True)
    watcher.is_dirty = False
    found: list[Version] = []
    if watcher.next_revision > store.revision:
        return Pull()
    size = 0
    events = store.events
    covers, wants = watcher.covers, watcher.wants
    for position in range(store.position(watcher.next_revision), len(events)):
        version = events[position]
        if (len(found) >= EVENTS_MAX or size >= BYTES_MAX) and version.mod != found[-1].mod:
            watcher.next_revision = version.mod
            watcher.is_dirty = True
            return Pull(found)
        if covers(version.key) and wants(version):
            found.append(version)
            size += len(version.key) + len(version.value or b"")
    watcher.next_revision = store.revision + 1
    return Pull(found)


class WatchTable:
    """All watchers of a member."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[Watcher]] = {}
        self._by_range: dict[tuple[bytes, bytes], set[Watcher]] = {}
        self._seen_revision = 0
        self._store: Store | None = None

    def add(self, watcher: Watcher) -> None:
        if watcher.range_end:
            self._by_range.setdefault((watcher.key, watcher.range_end), set()).add(watcher)
        else:
            self._by_key.setdefault(watcher.key, set()).add(watcher)

    def remove(self, watcher: Watcher) -> None:
        table: dict[bytes, set[Watcher]] | dict[tuple[bytes, bytes], set[Watcher]]
        key: object
        if watcher.range_end:
            table, key = self._by_range, (watcher.key, watcher.range_end)
        else:
            table, key = self._by_key, watcher.key
        group = table.get(key)  # type: ignore[arg-type] # the key is of its table's type
        if group is not None:
            group.discard(watcher)
            if not group:
                del table[key]  # type: ignore[arg-type] # the key is of its table's type

    def on_applied(self, store: Store) -> set[Watcher]:
        """The watchers that the events since the last call concern; they are marked dirty."""
        dirty: set[Watcher] = set()
        is_replaced, self._store = store is not self._store, store
        if not self._by_key and not self._by_range:
            self._seen_revision = store.revision
            return dirty
        if is_replaced and self._seen_revision + 1 < store.compact_revision:
            # A leader's snapshot came, without the events up to its compaction: nobody can tell whom they concerned.
            groups = (*self._by_key.values(), *self._by_range.values())
            return self._mark(dirty.union(*groups), store)
        by_key, waiting = self._by_key, dict(self._by_range)
        for position in range(store.position(self._seen_revision + 1), len(store.events)):
            key = store.events[position].key
            if key in by_key:
                dirty |= by_key[key]
            if waiting:
                for bounds in [
                    bounds for bounds in waiting if key >= bounds[0] and (bounds[1] == UNBOUNDED or key < bounds[1])
                ]:
                    dirty |= waiting.pop(bounds)
            elif not by_key:
                break
        return self._mark(dirty, store)

    def _mark(self, dirty: set[Watcher], store: Store) -> set[Watcher]:
        for watcher in dirty:
            if not watcher.is_dirty:
                # A clean watcher has seen everything so far; compaction may have passed the place where it last stood.
                watcher.next_revision = max(watcher.next_revision, self._seen_revision + 1)
                watcher.is_dirty = True
        self._seen_revision = store.revision
        return dirty

"""Who is told of which events, when a leader's snapshot replaces the store."""

from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.watchers import Watcher, WatchTable, pull


def put(store: Store, key: bytes) -> None:
    store.begin()
    store.put(key, b"v", 0)
    store.commit()


def restored(store: Store) -> Store:
    return image.restore(b"".join(image.capture(store).chunks()))[0]


def watching(table: WatchTable, store: Store, number: int, key: bytes, end: bytes = b"") -> Watcher:
    watcher = Watcher(number, key, end, store.revision + 1)
    table.add(watcher)
    pull(store, watcher)
    assert not watcher.is_dirty
    return watcher


def test_events_behind_a_snapshot_s_compaction_are_not_passed_over_in_silence() -> None:
    table, store = WatchTable(), Store()
    put(store, b"/a")
    table.on_applied(store)
    single, group = watching(table, store, 1, b"/a"), watching(table, store, 2, b"/", b"0")
    # Elsewhere /a changes, and its change is compacted; this member gets it all as a snapshot.
    other = restored(store)
    for _ in range(5):
        put(other, b"/a")
    for _ in range(5):
        put(other, b"/z")
    other.compact(other.revision - 1)
    other = restored(other)
    assert table.on_applied(other) == {single, group}
    assert pull(other, single).is_compacted
    assert pull(other, group).is_compacted


def test_a_snapshot_with_all_events_goes_on_where_the_watcher_stood() -> None:
    table, store = WatchTable(), Store()
    put(store, b"/a")
    table.on_applied(store)
    watcher, idle = watching(table, store, 1, b"/a"), watching(table, store, 2, b"/idle")
    other = restored(store)
    put(other, b"/a")
    put(other, b"/b")
    other = restored(other)
    assert table.on_applied(other) == {watcher}
    assert [version.mod for version in pull(other, watcher).events] == [3]
    assert not idle.is_dirty

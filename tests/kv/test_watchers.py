"""Who is told of which events, when a leader's snapshot replaces the store."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

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


KEYS = [b"/", b"/a", b"/a/1", b"/a/2", b"/ab", b"/b", b"/b\xff", b"/b\xff\xff", b"\xff"]
ENDS = [b"", b"\0", b"/b", b"/a0", b"0", b"/c", b"/b\xff\xff\x01"]


def prefix_end(key: bytes) -> bytes:
    return key[:-1] + bytes([key[-1] + 1]) if key[-1] < 0xFF else b"\0"


@given(st.randoms(use_true_random=False))
def test_those_whom_an_event_concerns_are_found_and_nobody_else(rng: Random) -> None:
    table, store = WatchTable(), Store()
    present: list[Watcher] = []
    for number in range(60):
        match rng.randrange(4):
            case 0 if present:
                table.remove(present.pop(rng.randrange(len(present))))
            case 0 | 1:
                key = rng.choice(KEYS)
                end = rng.choice([prefix_end(key), *ENDS])
                if not end or end == b"\0" or end > key:
                    present.append(watching(table, store, number, key, end))
            case _:
                changed = rng.sample(KEYS, rng.randrange(1, 4))
                for key in changed:
                    put(store, key)
                found = table.on_applied(store)
                assert found == {watcher for watcher in present if any(map(watcher.covers, changed))}
                for watcher in found:
                    assert watcher.is_dirty
                    pull(store, watcher)


def test_who_keeps_up_misses_nothing_where_events_and_their_compaction_come_in_one_turn() -> None:
    table, store = WatchTable(), Store()
    put(store, b"/a")
    table.on_applied(store)
    single, group = watching(table, store, 1, b"/a"), watching(table, store, 2, b"/", b"0")
    for _ in range(3):
        put(store, b"/a")
    store.compact(store.revision)
    assert table.on_applied(store) == {single, group}
    late = Watcher(3, b"/a", b"", 3)
    assert pull(store, late).is_compacted
    for watcher in (single, group):
        assert [version.mod for version in pull(store, watcher).events] == [3, 4, 5]
        assert not watcher.is_dirty


def test_who_lags_behind_what_is_swept_is_told() -> None:
    table, store = WatchTable(), Store()
    put(store, b"/a")
    table.on_applied(store)
    watcher = watching(table, store, 1, b"/a")
    for _ in range(9):
        put(store, b"/a")
    store.compact(store.revision)
    table.on_applied(store)
    store.sweep(4)
    assert (watcher.next_revision, store.events_from) == (3, 6)
    assert pull(store, watcher).is_compacted

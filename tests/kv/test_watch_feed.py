"""What watchers get is the event log's, whoever was there before them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv import watch_feed
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.watchers import Watcher, pull
from raykube.kv.watch_feed import Feed
from raykube.pb import etcd_pb2

HEADER = etcd_pb2.ResponseHeader(cluster_id=1, member_id=2, revision=3, raft_term=4)


def put(store: Store, key: bytes, value: bytes = b"v") -> None:
    store.begin()
    store.put(key, value, 0)
    store.commit()


def delete(store: Store, key: bytes) -> None:
    store.begin()
    store.delete(key)
    store.commit()


def read(feed: Feed, store: Store, watcher: Watcher) -> list[etcd_pb2.WatchResponse] | None:
    found = feed.responses(store, watcher, lambda: HEADER)
    return None if found is None else [etcd_pb2.WatchResponse.FromString(each.SerializeToString()) for each in found]


def filled() -> Store:
    store = Store()
    for number in range(6):
        put(store, b"/%d" % (number % 3), b"%d" % number)
    delete(store, b"/1")
    put(store, b"/1", b"back")
    return store


watchers = st.builds(
    Watcher,
    id=st.integers(0, 3),
    key=st.sampled_from([b"/", b"/0", b"/1"]),
    range_end=st.sampled_from([b"", b"0", b"\0", b"/1"]),
    next_revision=st.integers(1, 10),
    without_puts=st.booleans(),
    without_deletes=st.booleans(),
    prev_kv=st.booleans(),
    fragment=st.booleans(),
)


@given(st.lists(watchers, min_size=1, max_size=12))
def test_each_gets_what_it_would_get_alone(several: list[Watcher]) -> None:
    store, feed = filled(), Feed()
    for watcher in several:
        alone = Watcher(
            watcher.id, watcher.key, watcher.range_end, watcher.next_revision, watcher.without_puts,
            watcher.without_deletes, watcher.prev_kv,
        )  # fmt: skip
        expected = pull(store, alone)
        responses = read(feed, store, watcher)
        assert responses is not None
        events = [event for response in responses for event in response.events]
        assert [(e.kv.key, e.kv.mod_revision, e.kv.value) for e in events] == [
            (version.key, version.mod, version.value or b"") for version in expected.events
        ]
        assert all(response.watch_id == watcher.id and response.header == HEADER for response in responses)
        assert (watcher.next_revision, watcher.is_dirty) == (alone.next_revision, alone.is_dirty)
        for event in events:
            before = [v for v in store.events if v.key == event.kv.key and v.mod < event.kv.mod_revision]
            has_before = watcher.prev_kv and bool(before) and before[-1].value is not None
            assert event.HasField("prev_kv") == has_before
            assert not has_before or event.prev_kv.value == before[-1].value


@pytest.mark.parametrize("option", ["without_puts", "without_deletes", "prev_kv", "fragment"])
def test_watchers_with_other_wishes_are_at_other_places(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_feed, "BYTES_MAX", 50)
    store, feed = filled(), Feed()
    plain, special = Watcher(1, b"/", b"0", 1), Watcher(1, b"/", b"0", 1, **{option: True})
    assert read(feed, store, plain) != read(feed, store, special)


def test_a_thousand_at_one_place_cost_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: Counter[int] = Counter()
    event = watch_feed._event

    def counted(store: Store, version: object, prev_kv: bool) -> object:
        encoded["events"] += 1
        return event(store, version, prev_kv)  # type: ignore[arg-type]

    monkeypatch.setattr(watch_feed, "_event", counted)
    store, feed = filled(), Feed()
    for number in range(1000):
        assert read(feed, store, Watcher(number % 2, b"/", b"0", 1)) is not None
    assert encoded["events"] == len(store.events)


def test_nothing_is_served_from_before_a_change() -> None:
    store, feed = filled(), Feed()
    first, second = Watcher(1, b"/", b"0", 9), Watcher(2, b"/", b"0", 9)
    assert len(read(feed, store, first) or []) == 1
    put(store, b"/new")
    feed.clear()
    responses = read(feed, store, second)
    assert responses is not None
    assert responses[0].events[-1].kv.key == b"/new"
    store.compact(store.revision)
    feed.clear()
    assert read(feed, store, Watcher(3, b"/", b"0", 9)) is None


def test_a_large_answer_comes_in_fragments_for_those_who_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_feed, "BYTES_MAX", 100)
    store, feed = Store(), Feed()
    for number in range(5):
        put(store, b"/%d" % number, b"x" * 60)
    whole = read(feed, store, Watcher(1, b"/", b"0", 1))
    pieces = read(feed, store, Watcher(1, b"/", b"0", 1, fragment=True))
    assert whole is not None
    assert pieces is not None
    assert len(whole) == 1
    assert [piece.fragment for piece in pieces] == [True, True, True, True, False]
    assert [event for piece in pieces for event in piece.events] == list(whole[0].events)


def test_what_is_kept_for_others_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_feed, "SHARED_BYTES_MAX", 2000)
    store, feed = Store(), Feed()
    for number in range(100):
        put(store, b"/%d" % number, b"x" * 100)
    for revision in range(1, 100):
        read(feed, store, Watcher(1, b"/", b"0", revision))
        assert feed._bytes <= 2000 + 100 * 200

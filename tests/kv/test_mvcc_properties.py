"""The store against its dumb twin: any sequence of operations, then every question at every revision."""

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv.core.mvcc import image, key_index
from raykube.kv.core.mvcc.digest import SUM_MASK, checksum
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.mvcc.machine import batch_answer
from raykube.kv.core.mvcc.store import VERSION_OVERHEAD_BYTES, Outcome, Store
from raykube.kv.core.mvcc.version import Version, to_kv
from raykube.kv.core.watchers import Watcher, pull
from raykube.pb import batch_pb2
from tests.kv.dumb_store import DumbStore, GreedyStore


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """So that a handful of keys is put in order in several pieces, at once or in a range."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "PIECE_KEYS", 2)
        patch.setattr(key_index, "FRESH_MAX", 2)
        yield


keys = st.sampled_from([b"a", b"b", b"ba", b"c", b"\xff"])
values = st.sampled_from([b"", b"1", b"22"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), keys, st.none() | values, st.integers(-1, 8)),
        st.tuples(st.just("joined"), st.lists(st.tuples(keys, st.none() | values, st.integers(-1, 8)), max_size=4)),
        st.tuples(
            st.just("txn"), st.lists(st.tuples(keys, st.none() | values), max_size=4, unique_by=lambda op: op[0])
        ),
        st.tuples(st.just("compact"), st.integers(0, 12)),
        st.tuples(st.just("sweep"), st.integers(1, 3)),
        st.tuples(st.just("image")),
        st.tuples(st.just("range"), keys, st.sampled_from([b"", b"\0", b"b", b"c", b"d"]), st.integers(0, 3)),
    ),
    max_size=30,
)


def write_of(key: bytes, value: bytes | None, expected: int, joined: bool = False) -> batch_pb2.Write:
    write = batch_pb2.Write(key=key, expected_revision=expected, joined=joined)
    if value is not None:
        write.value = value
    return write


def check_range(store: Store, twin: DumbStore, key: bytes, range_end: bytes, limit: int) -> None:
    for revision in range(1, twin.revision + 1):
        try:
            found, count = store.range(key, range_end, revision, limit)
        except StoreError:
            assert revision < twin.compacted
            continue
        assert revision >= twin.compacted
        if range_end == b"":
            wanted = [item for item in twin.range(key, None, revision) if item[0] == key]
        else:
            wanted = twin.range(key, None if range_end == b"\0" else range_end, revision)
        assert count == len(wanted)
        shown = wanted[:limit] if limit and range_end else wanted
        assert [(v.key, (v.value, v.create, v.mod, v.number)) for v in found] == shown
        assert store.range(key, range_end, revision, count_only=True) == ([], count)


@given(operations)
def test_any_history_reads_as_its_twin_s(script: list[tuple]) -> None:
    store, twin = Store(), DumbStore()
    for step in script:
        match step:
            case ("write", key, value, expected):
                (outcome,) = store.apply_writes([write_of(key, value, expected)])
                assert outcome.applied == twin.write(key, value, expected)
            case ("joined", changes):
                outcomes = store.apply_joined(
                    [write_of(*change, joined=number > 0) for number, change in enumerate(changes)]
                )
                holds = len({key for key, _, _ in changes}) == len(changes) and all(
                    twin.holds(key, expected) for key, _, expected in changes
                )
                assert [outcome.applied for outcome in outcomes] == [holds] * len(changes)
                for key, value, _ in changes if holds else ():
                    twin.transact([(key, value)])
            case ("txn", changes):
                store.begin()
                for key, value in changes:
                    if value is None:
                        store.delete(key)
                    else:
                        store.put(key, value, 0)
                store.commit()
                twin.transact(changes)
            case ("compact", revision):
                try:
                    store.compact(revision)
                    assert twin.compacted < revision <= twin.revision
                    twin.compacted = revision
                except StoreError:
                    assert not twin.compacted < revision <= twin.revision
            case ("sweep", count):
                store.sweep(count)
            case ("image",):
                before = store.hash()
                store, _ = image.restore(b"".join(image.capture(store).chunks()))
                assert store.hash() == before
            case ("range", key, range_end, limit):
                check_range(store, twin, key, range_end, limit)
        assert store.revision == twin.revision
    check_range(store, twin, b"\0", b"\0", 0)
    swept = Store()
    swept, _ = image.restore(b"".join(image.capture(store).chunks()))
    while store.sweep(2):
        pass
    assert store.hash() == swept.hash()
    assert list(store.versions()) == list(swept.versions())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([b"a", b"b"]), st.none() | values),
        st.tuples(st.just("compact")),
        st.tuples(st.just("sweep"), st.integers(1, 3)),
    ),
    max_size=12,
)


def carry_out(store: Store, script: list[tuple]) -> None:
    for step in script:
        match step:
            case ("write", key, value):
                store.apply_writes([write_of(key, value, -1)])
            case ("compact",):
                with contextlib.suppress(StoreError):
                    store.compact(store.revision)
            case ("sweep", count):
                store.sweep(count)


@given(steps, steps)
def test_a_picture_shows_what_was_there_though_the_store_goes_on(before: list[tuple], after: list[tuple]) -> None:
    store = Store()
    carry_out(store, before)
    wanted = list(store.versions())
    picture = store.capture()
    carry_out(store, after)
    assert sorted(picture.base, key=lambda version: (version.mod, version.sub)) + picture.recent == wanted
    assert picture.held == sum(map(checksum, wanted)) & SUM_MASK


def test_a_picture_of_nothing_is_complete_once_it_is_looked_at() -> None:
    store = Store()
    picture = store.capture()
    assert store.sweep(100)
    assert picture.base == []
    assert not store.sweep(100)


def test_memory_is_given_back_when_nobody_looks_at_a_picture_any_more() -> None:
    store = Store()
    for _ in range(10):
        store.put_alone(b"a", b"1", 0)
    store.compact(store.revision)
    looked_at, forgotten = store.capture(), store.capture()
    assert store.sweep(100) and len(store.events) == 10
    assert looked_at.base == []
    assert store.sweep(100) and len(store.events) == 10
    del forgotten
    assert not store.sweep(100)
    assert len(store.events) == 1


def transact(store: Store, changes: list[tuple[bytes, bytes | None]]) -> None:
    store.begin()
    for key, value in changes:
        if value is None:
            store.delete(key)
        else:
            store.put(key, value, 0)
    store.commit()


def kept(store: Store) -> tuple:
    order = list(store.index.keys(b"", None))
    return store.index.histories, order, list(store.index.dead), store.events, store.released, store.bytes_stored


def kept_but_old_tombstones(store: Store) -> tuple:
    """A key that is written again before a sweep comes to its tombstone keeps that, for one compaction more."""
    histories, *rest, released, stored = kept(store)
    old = [history[0] for history in histories.values() if history[0].value is None and len(history) > 1]
    stored -= sum(len(version.key) + VERSION_OVERHEAD_BYTES for version in old)
    histories = {key: history[history[0] in old :] for key, history in histories.items()}
    return histories, *rest, released + sum(map(checksum, old)), stored


def shown(store: Store) -> tuple:
    """What may be seen of a store, however far its sweep came."""
    reads = [store.range(b"\0", b"\0", revision) for revision in range(store.compact_revision, store.revision + 1)]
    before = [store.previous(event) for event in store.events[store.position(store.compact_revision) :]]
    return store.hash(), store.capture().held, list(store.versions()), reads, before


few = st.sampled_from([b"a", b"b", b"c"])
sweeps = st.lists(
    st.one_of(
        # A key may come more than once.
        st.tuples(st.just("txn"), st.lists(st.tuples(few, st.none() | values), min_size=1, max_size=4)),
        st.tuples(st.just("txn"), st.lists(st.tuples(few, st.none() | values), min_size=1, max_size=2)),
        st.tuples(st.just("compact"), st.integers(0, 3)),
        st.tuples(st.just("sweep"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(sweeps, st.booleans())
def test_a_sweep_leaves_what_one_leaves_that_gives_all_of_a_key_back_at_once(
    script: list[tuple], is_left_alone: bool
) -> None:
    """Exactly that, when nothing is written while it is under way."""
    store, greedy = Store(), GreedyStore()
    for step in [*script, ("sweep", 1000)]:
        match step:
            case ("txn", changes):
                transact(store, changes)
                transact(greedy, changes)
            case ("compact", back) if store.revision - back > store.compact_revision:
                store.compact(store.revision - back)
                greedy.compact(store.compact_revision)
            case ("sweep", count):
                while has_more := store.sweep(count):
                    assert greedy.sweep(count)
                    assert shown(store) == shown(greedy)
                    if not is_left_alone:
                        break
                if not has_more:
                    assert not greedy.sweep(count)
                    assert kept_but_old_tombstones(store) == kept_but_old_tombstones(greedy)
                    assert not is_left_alone or kept(store) == kept(greedy)
        assert shown(store) == shown(greedy)


@pytest.mark.parametrize("several", [1, 3])
def test_a_sweep_gives_back_as_many_versions_as_events(several: int) -> None:
    """And one more of each key: what was the newest at the compaction before."""
    store = Store()
    names = [b"%d" % number for number in range(several)]
    left = several
    for _ in range(2):
        for _ in range(100):
            for name in names:
                store.put_alone(name, b"1", 0)
        left += several * 100
        store.compact(store.revision)
        has_more = True
        while has_more:
            has_more = store.sweep(10)
            before, left = left, sum(map(len, store.index.histories.values()))
            assert before - left <= 10 + several
    assert left == several


batches = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b"]),
            st.none() | values,
            st.sampled_from([-1, -1, -1, 0, 2, 3]),
            st.sampled_from([0, 0, 1, 2]),
        ),
        max_size=6,
    ),
    max_size=8,
)


def holding(store: Store) -> tuple:
    leased = {lease.id: lease.keys for lease in store.leases.values()}
    return store.revision, store.written, store.bytes_stored, list(store.versions()), set(store.index.dead), leased


@given(batches)
def test_a_batch_does_what_its_writes_do_one_by_one(script: list[list[tuple]]) -> None:
    """Whether anybody waits for the outcomes or not."""
    together, unheard, apart = Store(), Store(), Store()
    for store in (together, unheard, apart):
        store.grant(1, 60)
        store.grant(2, 60)
    for batch in script:
        wanted = []
        for key, value, expected, lease in batch:
            current = apart.get(key)
            if expected >= 0 and expected != (current.mod if current is not None else 0):
                wanted.append((False, 0, current))
                continue
            apart.begin()
            if value is None:
                apart.delete(key)
            else:
                apart.put(key, value, lease)
            wanted.append((True, apart.commit(), None))
        writes = [write_of(*change) for *change, _ in batch]
        for write, (*_, lease) in zip(writes, batch, strict=True):
            write.lease = lease
        assert together.apply_writes(writes) == wanted
        assert unheard.apply_writes(writes, is_awaited=False) == []
        assert holding(together) == holding(unheard) == holding(apart)


revisions = st.sampled_from([1, 2, 127, 128, 129, 255, 256, 16_383, 16_384, 2_097_152]) | st.integers(1, 1 << 62)
versions = st.builds(Version, keys, revisions, st.just(0), revisions, st.integers(1, 300), values, st.integers(0, 300))
outcomes = st.one_of(
    st.builds(Outcome, st.just(True), revisions, st.none()),
    st.builds(Outcome, st.just(False), st.just(0), st.none() | versions),
)


@given(st.lists(st.one_of(outcomes, st.integers(1, 300)), max_size=20), revisions)
def test_an_answer_by_hand_is_protobuf_s_own(script: list[Outcome | int], start: int) -> None:
    """A number stands for a run of so many writes, one revision each."""
    found: list[Outcome] = []
    for each in script:
        if isinstance(each, int):
            found += [Outcome(True, start + number, None) for number in range(each)]
            start += each
        else:
            found.append(each)
    wanted = batch_pb2.BatchResponse(revision=start)
    for outcome in found:
        result = wanted.results.add(applied=outcome.applied, revision=outcome.revision)
        if outcome.current is not None:
            result.current.CopyFrom(to_kv(outcome.current))
    assert batch_answer(found, start) == wanted.SerializeToString(deterministic=True)


@given(operations, st.integers(1, 10), st.booleans())
def test_a_watch_tells_the_difference_between_revisions(script: list[tuple], start: int, is_range: bool) -> None:
    """Played on the state before its start, a watch's events give every later state."""
    store, twin = Store(), DumbStore()
    for step in script:
        if step[0] == "write":
            store.apply_writes([write_of(*step[1:])])
            twin.write(*step[1:])
    watcher = Watcher(1, b"\0" if is_range else b"a", b"\0" if is_range else b"", start)
    events = []
    while watcher.is_dirty:
        found = pull(store, watcher)
        assert not found.is_compacted
        events += found.events
    assert [(e.mod, e.sub) for e in events] == sorted({(e.mod, e.sub) for e in events})
    for revision in range(max(start, 1), twin.revision + 1):
        state = dict(twin.states[min(start - 1, twin.revision)])
        for event in events:
            if event.mod > revision:
                break
            if event.value is None:
                del state[event.key]
            else:
                state[event.key] = (event.value, event.create, event.mod, event.number)
        wanted = twin.states[revision]
        if not is_range:
            state = {key: record for key, record in state.items() if key == b"a"}
            wanted = {key: record for key, record in wanted.items() if key == b"a"}
        assert state == wanted


@given(st.binary(max_size=200))
def test_rubbish_is_no_image(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        image.restore(data)

"""Digests and the scrub: the same on stores that agree, and nothing in memory changes unseen."""

import contextlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc import scrub as scrub_module
from raykube.kv.core.mvcc.digest import SUM_MASK, checksum
from raykube.kv.core.mvcc.scrub import Rotten, Scrub
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version


def act(store: Store, rng: Random) -> None:
    """One random change: a transaction, a compaction, a lease."""
    key = b"/%d" % rng.randrange(8)
    match rng.randrange(12):
        case 0 if store.compact_revision < store.revision:
            store.compact(rng.randrange(store.compact_revision + 1, store.revision + 1))
        case 1:
            lease = rng.randrange(1, 5)
            if lease in store.leases:
                store.revoke(lease)
            else:
                store.grant(lease, 10)
        case 2 | 3 | 4:
            store.begin()
            store.delete(key)
            if rng.random() < 0.3:
                store.put(key, b"again", 0)
            store.commit()
        case _:
            store.begin()
            store.put(key, b"%d" % rng.randrange(1000), rng.choice([0, *sorted(store.leases)]))
            store.commit()


def scrubbed(store: Store) -> None:
    """A whole pass. Raises Rotten."""
    scrub = Scrub(store)
    while not scrub.step(1):
        pass


@given(st.integers(0, 1 << 32))
def test_a_pass_finds_nothing_wrong_whatever_happens_meanwhile(seed: int) -> None:
    rng = Random(seed)
    store, twin = Store(), Store()
    scrub = Scrub(store)
    for _ in range(rng.randrange(1, 60)):
        state = rng.getstate()
        act(store, rng)
        rng.setstate(state)
        act(twin, rng)  # the twin is never swept, nor looked at
        if rng.random() < 0.5:
            store.sweep(rng.randrange(1, 6))
        if rng.random() < 0.5 and scrub.step(rng.randrange(1, 4)):
            scrub = Scrub(store)
        if rng.random() < 0.1:
            store, _ = image.restore(image.capture(store).chunks())
            scrub = Scrub(store)
    scrubbed(store)
    assert (store.written - twin.written) & SUM_MASK == 0
    assert store.leases_sum == twin.leases_sum
    restored, head = image.restore(image.capture(twin).chunks())
    scrubbed(restored)
    assert head.held == image.restore(image.capture(store).chunks())[1].held


meanwhile = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([b"a", b"b"]), st.integers(1, 5)),
        st.tuples(st.just("delete"), st.sampled_from([b"a", b"b"]), st.just(1)),
        st.tuples(st.just("compact"), st.just(b""), st.integers(0, 9)),
        st.tuples(st.just("sweep"), st.just(b""), st.integers(1, 9)),
    ),
    max_size=20,
)


@given(st.integers(0, 9), st.integers(0, 9), meanwhile, st.integers(1, 4), st.none() | st.integers(0, 19))
def test_a_pass_finds_what_was_wrong_when_it_began_and_nothing_else(
    one: int, other: int, script: list[tuple], pace: int, wrong: int | None
) -> None:
    """Though its steps end within the histories of keys, and these grow and go meanwhile."""
    store = Store()
    for key in [b"a"] * one + [b"b"] * other:
        store.put_alone(key, b"right", 0)
    if wrong is not None and wrong < len(store.events):
        replace(store, store.events[wrong], store.events[wrong]._replace(value=b"wrong"))
    else:
        wrong = None
    scrub, is_done = Scrub(store), False
    with contextlib.nullcontext() if wrong is None else pytest.raises(Rotten):
        for step, key, count in script:
            match step:
                case "put":
                    for _ in range(count):
                        store.put_alone(key, b"right", 0)
                case "delete":
                    store.begin()
                    store.delete(key)
                    store.commit()
                case "compact" if store.revision - count > store.compact_revision:
                    store.compact(store.revision - count)
                case "sweep":
                    store.sweep(count)
            is_done = is_done or scrub.step(pace)
        while not is_done:
            is_done = scrub.step(pace)


@pytest.mark.parametrize(("size", "at_once"), [(1, 7), (3 << 13, 2), (1 << 20, 1)])
def test_a_step_looks_at_no_more_versions_than_it_may(monkeypatch: pytest.MonkeyPatch, size: int, at_once: int) -> None:
    """Of long ones at fewer: they take longer."""
    looks = []

    def counted(version: Version) -> int:
        looks.append(version)
        return checksum(version)

    monkeypatch.setattr(scrub_module, "checksum", counted)
    store = Store()
    for number in range(100):
        store.put_alone(b"/%d" % (number % 3 if number < 90 else number), bytes(size), 0)
    scrub, before, is_done = Scrub(store), 0, False
    while not is_done:
        is_done = scrub.step(7)
        before, seen = len(looks), len(looks) - before
        assert seen <= at_once
    assert sorted(version.mod for version in looks) == [version.mod for version in store.events]


def test_a_pass_ends_though_a_key_is_written_to_faster_than_it_is_looked_through() -> None:
    store = Store()
    for _ in range(10):
        store.put_alone(b"a", b"1", 0)
    scrub = Scrub(store)
    for _ in range(5):
        assert not scrub.step(2)
        for _ in range(5):
            store.put_alone(b"a", b"1", 0)
    assert scrub.step(2)


def filled() -> Store:
    store = Store()
    store.grant(5, 60)
    for number in range(300):
        store.begin()
        store.put(b"/%d" % (number % 100), b"value %d" % number, 0)
        store.commit()
    store.begin()
    store.delete(b"/7")
    store.commit()
    store.compact(150)
    while store.sweep(20):
        pass
    return store


def replace(store: Store, old: Version, new: Version) -> None:
    """As if memory had changed under `old`: it is one object in its history and in the event log."""
    for versions in (store.index.histories[old.key], store.events):
        versions[:] = [new if version is old else version for version in versions]


def flip(store: Store) -> None:
    old = store.index.histories[b"/42"][-1]
    replace(store, old, old._replace(value=b"Value 242"))


def lose_a_version(store: Store) -> None:
    del store.index.histories[b"/42"][0]  # from before the compaction: no event any more


def lose_a_key(store: Store) -> None:
    store.events = [version for version in store.events if version.key != b"/42"]
    store.index.remove(b"/42")


def mix_two_keys_up(store: Store) -> None:
    histories = store.index.histories
    histories[b"/41"], histories[b"/42"] = histories[b"/42"], histories[b"/41"]


def swap_two_values(store: Store) -> None:
    one, two = store.index.histories[b"/41"][-1], store.index.histories[b"/42"][-1]
    replace(store, one, one._replace(value=two.value))
    replace(store, two, two._replace(value=one.value))


def forget_a_tombstone(store: Store) -> None:
    store.index.dead.discard(b"/7")


def change_a_lease(store: Store) -> None:
    store.leases[5].ttl_s = 6


@pytest.mark.parametrize(
    "damage",
    [flip, lose_a_version, lose_a_key, mix_two_keys_up, swap_two_values, forget_a_tombstone, change_a_lease],
)
def test_damage_is_found_here_and_behind_a_snapshot(damage: object) -> None:
    assert callable(damage)
    store = filled()
    scrubbed(store)
    damage(store)
    with pytest.raises(Rotten):
        scrubbed(store)
    if damage in (forget_a_tombstone, mix_two_keys_up):
        return  # the index is not in a snapshot: a restart puts it right
    restored, _ = image.restore(image.capture(store).chunks())
    with pytest.raises(Rotten):
        scrubbed(restored)

"""The order of many keys: put right a piece at a time, as Python stands still while it sorts."""

import random
from typing import Any

import pytest

from raykube.kv.core.mvcc import image, key_index
from raykube.kv.core.mvcc.store import Store

PIECE = 100
KEYS = [b"/registry/pods/%08x" % random.Random(seed).getrandbits(32) for seed in range(20 * PIECE)]


@pytest.fixture
def sorted_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each sort had before it that were not in order."""
    sizes: list[int] = []

    def noted(keys: Any) -> list[bytes]:
        listed = list(keys)
        sizes.append(len(listed))
        return sorted(listed)

    update = key_index.SortedList.update

    def updated(order: Any, keys: Any) -> None:
        listed = list(keys)
        if listed != sorted(listed):
            sizes.append(len(listed))
        update(order, listed)

    monkeypatch.setattr(key_index, "PIECE_KEYS", PIECE)
    monkeypatch.setattr(key_index, "FRESH_MAX", PIECE)
    monkeypatch.setattr(key_index, "sorted", noted, raising=False)
    monkeypatch.setattr(key_index.SortedList, "update", updated)
    monkeypatch.setattr(key_index.SortedList, "_update", updated)
    return sizes


def filled() -> Store:
    store = Store()
    for key in KEYS:
        store.put_alone(key, b"", 0)
    return store


def test_new_keys_are_put_in_order_when_many_wait(sorted_at_once: list[int]) -> None:
    store = filled()
    assert list(store.index.keys(b"", None)) == sorted(set(KEYS))
    assert sorted_at_once and max(sorted_at_once) <= PIECE


def test_a_restored_store_is_put_in_order_in_pieces(sorted_at_once: list[int]) -> None:
    data = list(image.capture(filled()).chunks())
    sorted_at_once.clear()
    store, _ = image.restore(data)
    assert len(sorted_at_once) == len(set(KEYS)) // PIECE + bool(len(set(KEYS)) % PIECE)
    assert max(sorted_at_once) <= PIECE
    assert list(store.index.keys(b"", None)) == sorted(set(KEYS))
    assert store.index.count_live(b"", None) == len(set(KEYS))

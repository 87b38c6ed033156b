"""What a member keeps of its log behind a snapshot."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.messages import Entry


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 20), st.integers(0, 30), st.integers(0, 200))
def test_a_tail_is_as_long_as_both_bounds_allow(sizes: list[int], base: int, entries_max: int, bytes_max: int) -> None:
    entries = [Entry(1, base + number, 0, b"x" * size) for number, size in enumerate(sizes, 1)]
    log = Log(base, 1, entries)
    last = log.last
    found = log.tail(last, entries_max, bytes_max)
    kept = entries[found - base :]
    assert base <= found <= last
    assert len(kept) <= entries_max
    assert sum(len(entry.data) for entry in kept) <= bytes_max
    if found > base and len(kept) < entries_max:
        assert sum(len(entry.data) for entry in entries[found - base - 1 :]) > bytes_max, "one more would have fitted"

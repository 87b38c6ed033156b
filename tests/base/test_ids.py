"""Identifiers, times and back-off: pure functions of what they are given."""

import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from raykube.base import ids
from raykube.base.backoff import Backoff, BackoffTable
from raykube.base.clock import FakeClock, parse_rfc3339, rfc3339, rfc3339_micro


@given(st.binary(min_size=16, max_size=16))
def test_a_uid_is_a_version_4_uuid(entropy: bytes) -> None:
    found = uuid.UUID(ids.uid(entropy))
    assert found.version == 4
    assert str(found) == ids.uid(entropy)


@given(st.text("abc-", max_size=80), st.integers())
def test_a_generated_name_keeps_its_prefix_and_fits(prefix: str, seed: int) -> None:
    name = ids.generate_name(prefix, random.Random(seed).randrange)
    assert len(name) <= ids.NAME_LENGTH_MAX
    assert name.startswith(prefix[:58])
    assert set(name[-5:]) <= set(ids.SUFFIX_ALPHABET)


def test_fnv_has_its_published_values() -> None:
    # From the reference vectors of the FNV authors.
    assert ids.fnv32a(b"") == 0x811C9DC5
    assert ids.fnv32a(b"a") == 0xE40C292C
    assert ids.fnv32a(b"foobar") == 0xBF9CF968


def test_times_as_kubernetes_writes_them() -> None:
    assert rfc3339(0.9) == "1970-01-01T00:00:00Z"
    assert rfc3339_micro(1.25) == "1970-01-01T00:00:01.250000Z"


@given(st.integers(0, 4_000_000_000))
def test_a_written_time_is_read_back(now: int) -> None:
    assert parse_rfc3339(rfc3339(now)) == now


@given(st.integers(0, 10_000))
def test_back_off_grows_to_its_bound_and_no_further(failures: int) -> None:
    policy = Backoff(initial_s=0.1, max_s=30.0)
    assert 0.1 <= policy.delay_s(failures) <= policy.delay_s(failures + 1) <= 30.0


def test_back_off_counts_each_key_by_itself() -> None:
    table: BackoffTable[str] = BackoffTable(Backoff(initial_s=1.0, max_s=4.0))
    assert [table.fail("a") for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    assert table.fail("b") == 1.0
    table.forget("a")
    assert table.fail("a") == 1.0


def test_a_fake_clock_moves_when_told() -> None:
    clock = FakeClock(10.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (12.5, 12.5)

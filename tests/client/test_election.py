"""Leader election: never two leaders, whoever's clock and whatever order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raykube.client.core.election import Election


class LeaseStore:
    """One Lease with conditional writes."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.revision = 0

    def write(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        wanted = lease["metadata"].get("resourceVersion")
        if (self.lease["metadata"]["resourceVersion"] if self.lease else None) != wanted:
            return None
        self.revision += 1
        self.lease = lease | {"metadata": lease["metadata"] | {"resourceVersion": str(self.revision)}}
        return self.lease


def attempt(election: Election, store: LeaseStore, now: float) -> None:
    if not election.leading:
        election.on_observed(store.lease, now)
    proposal = election.propose(now, now)
    if proposal is None:
        return
    written = store.write(proposal)
    if written is not None:
        election.on_written(written, now)
    else:
        election.on_observed(store.lease, now)


def test_take_renew_take_over() -> None:
    store = LeaseStore()
    first, second = Election("kube-system", "x", "first"), Election("kube-system", "x", "second")
    attempt(first, store, 0)
    assert first.leading
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 0
    acquired = store.lease["spec"]["acquireTime"]
    attempt(second, store, 1)
    attempt(first, store, 2)
    assert store.lease["spec"]["acquireTime"] == acquired
    assert store.lease["spec"]["renewTime"] > acquired
    attempt(second, store, 16)
    assert not second.leading  # it saw the renewal at 16 only
    attempt(second, store, 31.5)
    assert second.leading
    assert store.lease["spec"]["leaseTransitions"] == 1
    assert first.expired(12.1)
    attempt(first, store, 32)
    assert not first.leading


def test_a_term_lasts_until_somebody_else_leads() -> None:
    store = LeaseStore()
    first, second = Election("kube-system", "x", "first"), Election("kube-system", "x", "second")
    assert first.term == ""
    attempt(first, store, 0)
    term = first.term
    assert term
    assert first.expired(20)
    first.leading = False  # as its shell says of who has expired
    attempt(first, store, 20)
    assert first.leading and first.term == term, "nobody took it meanwhile"
    attempt(second, store, 21)
    attempt(second, store, 37)
    assert second.leading and second.term not in ("", term)
    first.leading = False
    attempt(first, store, 38)
    attempt(first, store, 60)
    assert first.leading and first.term not in (term, second.term)


def test_a_released_lease_is_taken_at_once() -> None:
    store = LeaseStore()
    first, second = Election("kube-system", "x", "first"), Election("kube-system", "x", "second")
    attempt(first, store, 0)
    attempt(second, store, 1)
    lease = first.release(2)
    assert lease is not None
    store.write(lease)
    attempt(second, store, 2)
    assert second.leading


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), max_size=60))
def test_never_two_unexpired_leaders(steps: list[tuple[int, int]]) -> None:
    store = LeaseStore()
    elections = [Election("kube-system", "x", str(index)) for index in range(3)]
    now = 0.0
    for index, pause in steps:
        now += pause
        attempt(elections[index], store, now)
        assert sum(election.leading and not election.expired(now) for election in elections) <= 1

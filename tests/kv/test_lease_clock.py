"""The leader's clock of leases."""

from raykube.kv.core.lease_clock import RETRY_S, LeaseClock


def test_a_lease_runs_out_once_and_is_named_again_until_it_is_gone() -> None:
    clock = LeaseClock()
    clock.start(1, 5, 0.0)
    clock.start(2, 9, 0.0)
    assert clock.expired(4.9) == []
    assert not clock.is_over(1)
    assert clock.expired(5.0) == [1]
    assert clock.is_over(1)
    assert clock.expired(5.1) == []
    assert clock.expired(5.0 + RETRY_S) == [1]
    clock.forget(1)
    assert not clock.is_over(1)
    assert clock.remaining_s(1, 6.0) is None


def test_renewed_delayed_and_cleared() -> None:
    clock = LeaseClock()
    clock.start(1, 5, 0.0)
    clock.start(1, 5, 4.0)
    assert clock.expired(8.9) == []
    clock.delay(10.0)
    assert clock.expired(18.9) == []
    assert clock.expired(19.0) == [1]
    clock.clear()
    assert not clock.is_over(1)
    assert clock.expired(100.0) == []


def test_a_new_lease_of_an_old_name_is_not_over() -> None:
    clock = LeaseClock()
    clock.start(1, 1, 0.0)
    assert clock.expired(1.0) == [1]
    clock.start(1, 1, 1.5)
    assert not clock.is_over(1)


def test_a_lease_whose_revocation_is_in_the_log_is_not_named_again() -> None:
    clock = LeaseClock()
    clock.start(1, 5, 0.0)
    assert clock.expired(5.0) == [1]
    clock.settle(1)
    assert clock.expired(100.0) == []
    assert clock.is_over(1)
    assert clock.remaining_s(1, 100.0) == 0.0
    clock.forget(1)
    assert not clock.is_over(1)
    clock.start(1, 5, 100.0)
    assert clock.expired(104.9) == []
    assert clock.expired(105.0) == [1]


def test_leases_that_are_gone_and_renewals_leave_nothing() -> None:
    clock = LeaseClock()
    for lease in range(20_000):
        clock.start(lease, 86_400, 0.0)
        clock.forget(lease)
    for _ in range(20_000):
        clock.start(1, 3600, 0.0)
    assert len(clock._queue) < 2000
    assert clock.expired(3600.0) == [1]

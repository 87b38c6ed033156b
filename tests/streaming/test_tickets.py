"""Tickets for streams: good once, for a minute, not too many."""

import pytest

from raykube.streaming.core.tickets import LIFE_S, TICKETS_MAX, Tickets, TooMany


def test_good_once() -> None:
    tickets: Tickets[str] = Tickets()
    tickets.issue("a", "exec", 0.0)
    assert tickets.redeem("b", 1.0) is None
    assert tickets.redeem("a", 1.0) == "exec"
    assert tickets.redeem("a", 1.0) is None


def test_good_for_a_minute() -> None:
    tickets: Tickets[str] = Tickets()
    tickets.issue("a", "exec", 0.0)
    tickets.issue("b", "exec", 30.0)
    assert tickets.redeem("a", LIFE_S) is None
    assert tickets.redeem("b", LIFE_S) == "exec"


def test_the_old_make_room() -> None:
    tickets: Tickets[int] = Tickets()
    for number in range(TICKETS_MAX):
        tickets.issue(str(number), number, 0.0 if number < 10 else 50.0)
    with pytest.raises(TooMany):
        tickets.issue("one more", 1, 59.0)
    tickets.issue("one more", 1, LIFE_S)
    assert tickets.redeem("one more", LIFE_S) == 1
    assert tickets.redeem("5", LIFE_S) is None

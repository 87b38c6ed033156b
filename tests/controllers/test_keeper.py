"""What a keeper looks at again: what is marked and what is due, once, until it could be looked at."""

import pytest

from raykube.controllers.core.keeper import Keeper


def taken(keeper: Keeper, now: float = 0.0) -> list[str]:
    return list(keeper._take(now))


def test_all_are_looked_at_in_the_beginning_then_what_is_marked() -> None:
    keeper = Keeper(["b", "a", "b"])
    assert taken(keeper) == ["b", "a"] and taken(keeper) == []
    for name in ("a", "c", "a"):
        keeper.mark(name)
    assert taken(keeper) == ["a", "c"] and taken(keeper) == []


def test_what_could_not_be_looked_at_is_looked_at_again() -> None:
    keeper = Keeper(["a", "b", "c"])
    with pytest.raises(KeyError):
        for name in keeper._take():
            if name == "b":
                raise KeyError(name)
    assert taken(keeper) == ["b", "c"]


def test_of_each_the_last_time_counts() -> None:
    keeper = Keeper([])
    for name, moment in (("a", 10.0), ("b", 20.0), ("c", 30.0), ("a", 40.0)):
        keeper._mark_at(name, moment)
    assert keeper._wait_s(5.0) == 15.0 and taken(keeper, 19.0) == []
    assert taken(keeper, 20.0) == ["b"] and keeper._wait_s(20.0) == 10.0
    keeper.mark("c")
    assert taken(keeper, 21.0) == ["c"], "who is looked at before has no time any longer, unless it gets another one"
    assert keeper._wait_s(21.0) == 19.0 and taken(keeper, 40.0) == ["a"] and keeper._wait_s(40.0) is None

"""The checker of histories: it knows good from bad ones, by example and against a search of all orders."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.linearizability import Model, Operation, check
from tests.kit.linearizability_models import Add, GrowingList, GrowingSet, Read, Register, Swap, Write

LOST = math.inf


def op(started: float, ended: float, request: Any, answer: Any = None) -> Operation:
    return Operation(started, ended, request, answer)


def is_good(model: Callable[[Sequence[Operation]], Model[Any]], *history: Operation) -> bool:
    return check(model(history), history).is_linearizable


def register(*history: Operation) -> bool:
    return is_good(Register, *history)


class TestRegister:
    def test_reads_see_what_was_written(self) -> None:
        assert register(op(0, 1, Read()), op(2, 3, Write(1)), op(4, 5, Read(), 1))
        assert not register(op(2, 3, Write(1)), op(4, 5, Read(), 2))

    def test_a_stale_read_is_found(self) -> None:
        assert not register(op(0, 1, Write(1)), op(2, 3, Write(2)), op(4, 5, Read(), 1))
        # The same read is right while the second write is under way.
        assert register(op(0, 1, Write(1)), op(2, 6, Write(2)), op(4, 5, Read(), 1))

    def test_no_read_goes_back_behind_another(self) -> None:
        writes = (op(0, 1, Write(1)), op(2, 9, Write(2)))
        assert register(*writes, op(3, 4, Read(), 1), op(5, 6, Read(), 2))
        assert not register(*writes, op(3, 4, Read(), 2), op(5, 6, Read(), 1))

    def test_a_lost_write_is_found(self) -> None:
        assert not register(op(0, 1, Write(1)), op(2, 3, Read(), None))

    def test_an_unknown_write_happens_late_or_never(self) -> None:
        unknown = op(0, LOST, Write(1))
        assert register(unknown, op(2, 3, Read(), None))
        assert register(unknown, op(2, 3, Read(), None), op(4, 5, Read(), 1))
        # Once seen, it cannot be undone; before it was asked for, it cannot be seen.
        assert not register(unknown, op(2, 3, Read(), 1), op(4, 5, Read(), None))
        assert not register(op(2, LOST, Write(1)), op(0, 1, Read(), 1))

    def test_an_unknown_write_that_is_not_unique_may_happen_once_only(self) -> None:
        unknown = op(0, LOST, Write(None))
        assert register(op(0, 1, Write(1)), unknown, op(2, 3, Read(), 1), op(4, 5, Read(), None))
        assert not register(
            op(0, 1, Write(1)), unknown, op(4, 5, Read(), None), op(6, 7, Write(2)), op(8, 9, Read(), None)
        )

    def test_swaps_take_turns(self) -> None:
        start = op(0, 1, Write(1))
        assert register(start, op(2, 5, Swap(1, 2), (True, 1)), op(2, 5, Swap(1, 3), (False, 2)))
        assert not register(start, op(2, 5, Swap(1, 2), (True, 1)), op(2, 5, Swap(1, 3), (True, 1)))
        assert not register(start, op(2, 5, Swap(1, 2), (False, 1)))

    def test_an_unknown_swap_needs_what_it_expects(self) -> None:
        unknown = op(0, LOST, Swap(1, 2))
        assert register(op(1, 2, Write(1)), unknown, op(4, 5, Read(), 2))
        assert not register(op(1, 2, Write(7)), unknown, op(4, 5, Read(), 2))

    def test_an_unknown_write_is_seen_through_a_swap(self) -> None:
        assert register(op(0, LOST, Write(1)), op(2, LOST, Swap(1, 2)), op(3, 4, Read(), 2))
        assert not register(op(5, LOST, Write(1)), op(2, LOST, Swap(1, 2)), op(3, 4, Read(), 2))

    def test_of_two_unknown_ones_either_may_have_been_it(self) -> None:
        swap, write = op(0, LOST, Swap(None, 2)), op(0, LOST, Write(2))
        reads = (op(1, 2, Read(), 2), op(3, 4, Write(5)), op(5, 6, Read(), 2))
        assert register(swap, write, *reads)
        assert register(write, swap, *reads)
        assert not register(swap, write, *reads, op(7, 8, Write(5)), op(9, 10, Read(), 2))

    def test_the_verdict_says_where_it_broke(self) -> None:
        bad = op(4, 5, Read(), 1)
        verdict = check(Register(), [op(0, 1, Write(1)), op(2, 3, Write(2)), bad])
        assert verdict.stuck is bad
        assert verdict.states == (2,)
        assert "Read()" in str(verdict)


class TestSetAndList:
    def test_no_element_is_lost_once_acknowledged(self) -> None:
        history = (op(0, 1, Add(1)), op(0, LOST, Add(2)), op(0, LOST, Add(3)))
        assert is_good(GrowingSet, *history, op(2, 3, Read(), frozenset({1, 3})))
        assert not is_good(GrowingSet, *history, op(2, 3, Read(), frozenset({3})))
        assert not is_good(GrowingSet, *history, op(2, 3, Read(), frozenset({1, 4})))

    def test_no_element_comes_and_goes(self) -> None:
        history = (op(0, 1, Add(1)), op(0, LOST, Add(2)), op(2, 3, Read(), frozenset({1, 2})))
        assert is_good(GrowingSet, *history, op(4, 5, Read(), frozenset({1, 2})))
        assert not is_good(GrowingSet, *history, op(4, 5, Read(), frozenset({1})))

    def test_readers_agree_on_the_order(self) -> None:
        history = (op(0, 9, Add(1)), op(0, 9, Add(2)))
        assert is_good(GrowingList, *history, op(1, 2, Read(), (1,)), op(10, 11, Read(), (1, 2)))
        assert not is_good(GrowingList, *history, op(1, 2, Read(), (1,)), op(10, 11, Read(), (2, 1)))

    def test_the_order_is_that_of_time(self) -> None:
        history = (op(0, 1, Add(1)), op(2, 3, Add(2)))
        assert is_good(GrowingList, *history, op(4, 5, Read(), (1, 2)))
        assert not is_good(GrowingList, *history, op(4, 5, Read(), (2, 1)))
        assert not is_good(GrowingList, *history, op(4, 5, Read(), (1, 2, 2)))


def brute_force(model: Model[Any], history: list[Operation]) -> bool:
    """Every order of every choice of the unknown ones."""
    sure = [each for each in history if not each.is_unknown]
    unknown = [each for each in history if each.is_unknown]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*sure, *chosen]):
                if any(late.ended < early.started for early, late in itertools.combinations(order, 2)):
                    continue
                state = model.initial
                for each in order:
                    fits, state = model.step(state, each)
                    if not fits:
                        break
                else:
                    return True
    return False


REQUESTS = st.one_of(
    st.tuples(st.just(Read()), st.sampled_from([None, 1, 2, 3])),
    st.tuples(st.builds(Write, st.sampled_from([None, 1, 2, 3])), st.none()),
    st.tuples(
        st.builds(Swap, st.sampled_from([None, 1, 2]), st.sampled_from([1, 2, 3])),
        st.tuples(st.booleans(), st.sampled_from([None, 1, 2, 3])),
    ),
)
LIST_REQUESTS = st.one_of(
    st.tuples(st.just(Read()), st.sampled_from([(), (1,), (2,), (1, 2), (2, 1), (1, 2, 3), (2, 1, 3)])),
    st.tuples(st.builds(Add, st.sampled_from([1, 2, 3])), st.none()),
)
SPANS = st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from([False, False, True]))


@given(st.lists(st.tuples(SPANS, REQUESTS), max_size=5))
@settings(max_examples=400)
def test_registers_against_all_orders(drawn: list[Any]) -> None:
    history = [
        op(started, LOST if is_lost else started + length, request, None if is_lost else answer)
        for (started, length, is_lost), (request, answer) in drawn
    ]
    assert check(Register(history), history).is_linearizable == brute_force(Register(), history)


@given(st.lists(st.tuples(SPANS, LIST_REQUESTS), max_size=5))
@settings(max_examples=400)
def test_lists_and_sets_against_all_orders(drawn: list[Any]) -> None:
    added: set[Any] = set()
    history = []
    for (started, length, is_lost), (request, answer) in drawn:
        if isinstance(request, Add):
            if request.value in added:
                continue
            added.add(request.value)
        history.append(op(started, LOST if is_lost else started + length, request, None if is_lost else answer))
    assert check(GrowingList(history), history).is_linearizable == brute_force(GrowingList(), history)
    as_set = [
        op(each.started, each.ended, each.request, frozenset(each.answer) if each.answer is not None else None)
        for each in history
    ]
    assert check(GrowingSet(), as_set).is_linearizable == brute_force(GrowingSet(), as_set)


def lived(rng: random.Random, model: Model[Any], requests: Callable[[int], Any], count: int) -> list[Operation]:
    """A history that is linearizable by construction: each operation had its instant between its ends."""
    instants = sorted(rng.random() * count / 5 for _ in range(count))
    history = []
    state = model.initial
    for number, instant in enumerate(instants):
        request = requests(number)
        started, ended = instant - rng.random(), instant + rng.random()
        is_lost = rng.random() < 0.05 and not isinstance(request, Read)
        if is_lost and rng.random() < 0.5:
            history.append(op(started, LOST, request))
            continue
        answer: Any = state if isinstance(request, Read) else None
        if isinstance(request, Swap):
            answer = (state == request.expected, state)
        _, state = model.step(state, op(started, ended, request, answer))
        history.append(op(started, LOST if is_lost else ended, request, None if is_lost else answer))
    return history


@pytest.mark.parametrize("seed", range(6))
def test_long_histories_are_decided(seed: int) -> None:
    """Hundreds of operations with unknown outcomes among them; and one old answer in the middle is noticed."""
    rng = random.Random(seed)

    def of_register(number: int) -> Any:
        kind = rng.randrange(3)
        return (Read(), Write(number), Swap(rng.randrange(max(0, number - 5), number + 1), number))[kind]

    history = lived(rng, Register(), of_register, 400)
    assert check(Register(history), history).is_linearizable
    early = next(each for each in history if isinstance(each.request, Write) and not each.is_unknown)
    last = max(each.ended for each in history if not each.is_unknown)
    assert not check(
        Register(history),
        [*history, op(last + 1, last + 2, Write(-1)), op(last + 3, last + 4, Read(), early.request.value)],
    ).is_linearizable

    for model in (GrowingList, GrowingSet):
        history = lived(rng, model(), lambda number: Read() if number % 3 == 0 else Add(number), 150)
        final = op(LOST_AFTER, LOST_AFTER + 1, Read(), _final(model, history))
        assert check(model([*history, final]), [*history, final]).is_linearizable
        # One acknowledged element is not there.
        gone = next(each for each in history if isinstance(each.request, Add) and not each.is_unknown).request.value
        kept = type(final.answer)(each for each in final.answer if each != gone)
        bad = [*history, op(LOST_AFTER, LOST_AFTER + 1, Read(), kept)]
        assert not check(model(bad), bad).is_linearizable


LOST_AFTER = 1e6


def _final(model: Callable[[], Model[Any]], history: list[Operation]) -> Any:
    """What a last read sees when every unknown element that nobody saw is taken never to have come."""
    reads = [each.answer for each in history if isinstance(each.request, Read)]
    longest = max(reads, key=len)
    acknowledged = [each for each in history if isinstance(each.request, Add) and not each.is_unknown]
    # In the order of their instants, which `lived` appended them in.
    rest = [each.request.value for each in acknowledged if each.request.value not in longest]
    return longest | frozenset(rest) if isinstance(longest, frozenset) else (*longest, *rest)

"""When a member of the store counts as silent, by who answered in look after look."""

import pytest

from raykube.cluster.steward.silence import STEADY_S, Silence

LOOK_S = 2.0
ASKED_S = 2.0  # a look at one that does not answer takes longer
HOUR_S = 3600.0


def longest(pattern: str) -> float:
    """The longest silence of one that answers (+) or not (-) by this pattern, for an hour."""
    silence: Silence[int] = Silence(60.0)
    now, longest_s = 0.0, 0.0
    while now < HOUR_S:
        for look in pattern:
            found = silence.on_heard(now, {1: look == "+"})
            longest_s = max(longest_s, found.get(1, 0.0))
            now += LOOK_S + ASKED_S * (look == "-")
    return longest_s


@pytest.mark.parametrize("pattern", ["+", "-++++", "--++++++++", "-" * 10 + "+" * 40])
def test_who_misses_a_question_now_and_then_or_is_started_anew_is_not_silent(pattern: str) -> None:
    assert longest(pattern) < 60.0


@pytest.mark.parametrize("pattern", ["-", "--+", "-+", "--++++", "-----++++++++++"])
def test_who_is_away_for_a_quarter_of_its_time_is_silent_in_the_end(pattern: str) -> None:
    assert longest(pattern) >= 60.0


def test_who_answers_has_no_silence_but_is_named_until_it_is_steady() -> None:
    silence: Silence[int] = Silence(60.0)
    assert silence.on_heard(0.0, {1: False, 2: True}) == {1: 0.0}
    assert silence.on_heard(1000.0, {1: False, 2: True}) == {1: 1000.0}
    assert silence.on_heard(1001.0, {1: True, 2: True}) == {1: 0.0}
    assert silence.on_heard(1001.0 + STEADY_S - 1.0, {1: True, 2: True}) == {1: 0.0}
    assert silence.on_heard(1001.0 + STEADY_S, {1: True, 2: True}) == {}
    assert silence.on_heard(2000.0, {1: False}) == {1: 2.0}, "it may have been silent since the look before"
    assert silence.on_heard(3000.0, {}) == {}
    assert silence.on_heard(3001.0, {1: False}) == {1: 0.0}, "who is not asked is forgotten"

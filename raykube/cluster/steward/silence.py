"""For how long members of the store do not answer, as heard now and then. Pure.

A member that starts, answers for a moment and crashes again is no more use than one that is dead. So an answer does not
end a silence: it takes back a part of the time that it goes on for, and after STEADY_S without a break all of it. Of a
long silence only so much is remembered as its observer has patience: one that was away for an hour is not given up for
the first question that it misses when it is back.

    heard      ✗ ✗ ✗ ✓ ✗ ✗ ✗ ✓ ✗ ✗ ✗ …
    silence    0 2 4 4 6 8 …                it grows with every crash, in which an observer may see nothing but ✓ and ✗
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M", bound=Hashable)  # what a member is known by

STEADY_S = 60.0
FORGIVEN = 0.5  # a member that is down for more than a quarter of its time is given up in the end
SAMPLE_S = 2.0  # of silence before it was heard first, at most: between two looks nobody knows


@dataclass(frozen=True, slots=True)
class _Heard:
    at: float
    silence_s: float
    answers_since: float | None  # None: it does not


class Silence(Generic[M]):
    """What one steward has heard. `now`: any clock that only goes forward."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._heard: dict[M, _Heard] = {}

    def on_heard(self, now: float, answers: Mapping[M, bool]) -> dict[M, float]:
        """Takes in who of the members that are asked answers; returns the seconds of silence of those that do not.

        One that does, and has not been steady for long enough, is named with 0. One that is not asked is forgotten.
        """
        before, patience_s = self._heard, self._patience_s
        self._heard = {member: _after(before.get(member), now, ok, patience_s) for member, ok in answers.items()}
        return {
            member: heard.silence_s if heard.answers_since is None else 0.0
            for member, heard in self._heard.items()
            if heard.silence_s or heard.answers_since is None
        }

    def forget(self) -> None:
        """Begins anew."""
        self._heard.clear()


def _after(before: _Heard | None, now: float, answers: bool, patience_s: float) -> _Heard:
    if before is None:
        return _Heard(now, 0.0, now if answers else None)
    passed_s = now - before.at
    if not answers:
        grown_s = passed_s if before.answers_since is None else min(passed_s, SAMPLE_S)
        return _Heard(now, before.silence_s + grown_s, None)
    if before.answers_since is None:
        return _Heard(now, min(before.silence_s, patience_s), now)
    silence_s = before.silence_s - passed_s * FORGIVEN
    is_steady = now - before.answers_since >= STEADY_S
    return _Heard(now, 0.0 if is_steady else max(0.0, silence_s), before.answers_since)

"""Waiting for an actor, with a Ray that says what the test wants."""

from types import SimpleNamespace
from typing import Any

import pytest

from raykube.cluster import placement
from raykube.cluster.placement import RayError


class ActorGone(Exception):
    """In the place of Ray's RayActorError."""


class TimeIsUp(Exception):
    """In the place of Ray's GetTimeoutError."""


def ray_that_says(*answers: Any) -> tuple[Any, list[float]]:
    """A Ray whose `get` returns or raises each of `answers`, the last one for ever; and the time-outs it was given."""
    left, timeouts = list(answers), []

    def get(_reference: object, timeout: float) -> str:
        timeouts.append(timeout)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return SimpleNamespace(
        get=get, exceptions=SimpleNamespace(RayActorError=ActorGone, GetTimeoutError=TimeIsUp)
    ), timeouts


HANDLE: Any = SimpleNamespace(ready=SimpleNamespace(remote=lambda timeout_s: timeout_s))


def test_an_actor_that_is_being_restarted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, timeouts = ray_that_says(ActorGone(), ActorGone(), "")
    monkeypatch.setattr(placement, "_ray", lambda: ray)
    placement.wait_ready("kv-1", HANDLE, 30.0)
    assert len(timeouts) == 3
    assert timeouts == sorted(timeouts, reverse=True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ActorGone(), "kv-1 did not start: its process does not answer (ActorGone)"),
        (TimeIsUp(), "kv-1 did not start: its process does not answer (TimeIsUp)"),
        ("the port is taken", "kv-1 did not start: the port is taken"),
    ],
)
def test_what_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, answer: Any, words: str) -> None:
    ray, _ = ray_that_says(answer)
    monkeypatch.setattr(placement, "_ray", lambda: ray)
    with pytest.raises(RayError) as caught:
        placement.wait_ready("kv-1", HANDLE, 0.3)
    assert str(caught.value) == words

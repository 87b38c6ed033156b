"""Waiting for an actor, with a Ray that says what the test wants."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.cluster import placement
from raykube.cluster.facts import Facts
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


def test_a_machine_whose_version_speaks_otherwise_keeps_no_other_from_being_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a later version says of its machine may be more than this one knows."""
    mine = Facts(address="10.0.0.1", hostname="a", version="1", is_root=True, runtimes=[]).model_dump_json()
    said = {"10.0.0.1": mine, "10.0.0.2": mine.replace('"version"', '"disks":[],"version"'), "10.0.0.3": "?"}
    monkeypatch.setattr(placement, "call_at", lambda *_: said)
    rows = [{"NodeManagerAddress": address, "Labels": {}, "Resources": {}} for address in said]
    found, failed = placement.look(rows, Path("/nowhere"))
    assert [facts.address for facts in found] == ["10.0.0.1"]
    assert sorted(failed) == ["10.0.0.2", "10.0.0.3"]
    assert all("install the same" in reason for reason in failed.values())

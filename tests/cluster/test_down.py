"""What `down` does on machines that take their time."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykube.cluster import placement, supervisor
from raykube.cluster.plan import Placement, plan
from raykube.cluster.state import ClusterState, Machine

SLOW_S = supervisor.STOP_TIMEOUT_S + placement.CLEAR_TIMEOUT_S  # a machine that hangs, of each kind of actors


def test_stewards_make_nothing_anew_while_a_machine_that_hangs_is_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Machine(name=f"m{n}", address=f"10.0.0.{n}", index=n, control_plane=n == 1) for n in (1, 2)]
    state = ClusterState(name="c", id="f" * 32, subnet=0, local=False, machines=machines)
    now = 0.0
    held_until = supervisor.HOLD_S  # by `down`, before it begins with this
    free: list[str] = []  # what ended when nobody held the stewards any more
    ended: list[str] = []

    def hold(_state: object, _component: str, question: str, seconds: str) -> list[str]:
        nonlocal held_until
        assert question == "hold"
        held_until = now + float(seconds)
        return []

    def stop(items: Iterable[Placement], *_: object, **__: object) -> dict[str, str]:
        nonlocal now
        names = [item.name for item in items]
        now += SLOW_S if names else 0.0
        ended.extend(names)
        if now > held_until:
            free.extend(names)
        return {}

    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: now))
    played = {
        "ask": hold,
        "stop": stop,
        "names": lambda: {"kv-m1", "kv-m2"},
        "live_nodes": list,
        "end": lambda _: None,
        "clear_leftovers": lambda *_: {},
    }
    for name, value in played.items():
        monkeypatch.setattr(placement, name, value)
    assert supervisor._end_components(state, tmp_path) == {}
    assert free == []
    assert "kv-m2" in ended, "a learner's, too"


def test_what_an_actor_left_where_it_is_no_more_is_taken_away_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's member has moved from the second machine, or that one is just leaving: nobody else looks there, and
    its specs would have another cluster refuse it."""
    machines = [Machine(name=f"m{n}", address=f"10.0.0.{n}", index=n, control_plane=n == 1) for n in (1, 2, 3, 4)]
    machines[2] = machines[2].model_copy(update={"phase": "drained"})
    state = ClusterState(name="c", id="f" * 32, subnet=0, local=False, machines=machines)
    cleared: list[str] = []

    def clear(_state: object, _data_dir: Path, some: Iterable[Machine]) -> dict[str, str]:
        cleared.extend(each.name for each in some)
        return {}

    played = {
        "ask": lambda *_: [],
        "stop": lambda *_, **__: {},
        "names": lambda: {item.name for item in plan(state, tmp_path)},
        "live_nodes": lambda: [{"NodeManagerAddress": f"10.0.0.{number}"} for number in (1, 2, 3)],
        "end": lambda _: None,
        "clear_leftovers": clear,
    }
    for name, value in played.items():
        monkeypatch.setattr(placement, name, value)
    assert supervisor._end_components(state, tmp_path) == {}
    assert cleared == ["m1", "m2", "m3"]

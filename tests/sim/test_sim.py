"""A seed is a replay, and a failure says how to see it again. The many seeds are in test_seeds_*.py."""

import pytest

from raykube.kv.core.raft.membership import Membership
from tests.sim.run import Failed, run


def test_a_seed_is_a_replay() -> None:
    assert len({run(12345).trace for _ in range(2)}) == 1
    assert run(1).trace != run(2).trace


def test_a_failure_names_its_seed_and_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "quorum", property(lambda self: 1))
    with pytest.raises(Failed, match="seed 3, at ") as failure:
        for _ in range(2):
            run(3)
    text = str(failure.value)
    assert "make sim SEED=3" in text
    assert f"trace {failure.value.trace:08x}" in text
    assert text.count("message") > 3

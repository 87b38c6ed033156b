"""A seed is a replay, and a failure says how to see it again. The many seeds are in test_seeds_*.py."""

from collections.abc import Callable

import pytest

from raykube.kv.core.raft.node import Node
from tests.sim.checks import Checks
from tests.sim.run import Failed, run


def test_a_seed_is_a_replay() -> None:
    assert len({run(12345).trace for _ in range(2)}) == 1
    assert run(1).trace != run(2).trace


@pytest.mark.parametrize(("name", "wrong"), [("has_work", lambda node: bool(node._now)), ("has_news", lambda _: False)])
def test_a_member_that_overlooks_what_it_has_to_do_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[[Node], bool]
) -> None:
    monkeypatch.setattr(Node, name, property(wrong))
    with pytest.raises(Failed, match=r"would have (waited|been told)"):
        for seed in range(10):
            run(seed)


def test_a_failure_names_its_seed_and_the_last_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(self: Checks, index: int, *_: object) -> None:
        assert index < 20, "planted"

    monkeypatch.setattr(Checks, "on_applied", planted)
    with pytest.raises(Failed, match=r"seed 2, at .* AssertionError: planted") as failure:
        run(2)
    text = str(failure.value)
    assert "make sim SEED=2" in text
    assert f"trace {failure.value.trace:08x}" in text
    assert text.count("\n") > 10

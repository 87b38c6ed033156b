"""Where Ray says that objects lie, and when."""

from typing import Any

import pytest

from raykube.api.inputs import ANNOTATION
from raykube.cluster import inputs as module

MIB = 1 << 20


class Reference:
    """A ray.ObjectRef."""

    def hex(self) -> str:
        return "0f"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Reference:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    node = {"NodeID": "n", "NodeManagerAddress": "10.0.0.7", "Alive": True}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    return Reference()


def answering(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> list[int]:
    """Ray says these one after the other, the last for ever; how often it was asked."""
    asked: list[int] = []

    def locations(references: list[Any], _: int) -> dict[Any, dict[str, Any]]:
        asked.append(len(references))
        return {references[0]: answers[min(len(asked), len(answers)) - 1]}

    monkeypatch.setattr("ray.experimental.get_object_locations", locations)
    return asked


def test_a_place_that_is_told_later_than_the_size_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, reference: Reference
) -> None:
    placeless = {"object_size": 3 * MIB, "node_ids": []}
    asked = answering(monkeypatch, placeless, placeless, placeless | {"node_ids": ["n"]})
    assert "10.0.0.7" in module.inputs([reference])[ANNOTATION]
    assert len(asked) == 3


@pytest.mark.parametrize("size", [1000, None])
def test_what_lies_in_no_store_or_is_not_there_yet_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, reference: Reference, size: int | None
) -> None:
    asked = answering(monkeypatch, {"object_size": size, "node_ids": []})
    assert module.inputs([reference]) == {}
    assert len(asked) == 1


def test_the_wait_for_a_place_ends(monkeypatch: pytest.MonkeyPatch, reference: Reference) -> None:
    monkeypatch.setattr(module, "PLACE_PATIENCE_S", 0.05)
    answering(monkeypatch, {"object_size": 3 * MIB, "node_ids": []})
    assert module.inputs([reference]) == {}

"""The watch tells a process of its own writes as well: those are not read, whatever else is."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from raykube.api.strategic import strategic_merge
from raykube.client.core.listwatch import BOOKMARK, WatchEvent
from raykube.hollow.core.slot import ENDED
from tests.hollow.world import PODS, World


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], list[str]]:
    """Lists the phases of the pods that a world reads from then on."""

    def begin(world: World) -> list[str]:
        found: list[str] = []
        on_pod = world.pods.on_pod

        def noting(obj: Any, now: float) -> None:
            found.append(obj["status"]["phase"])
            on_pod(obj, now)

        monkeypatch.setattr(world.pods, "on_pod", noting)
        return found

    return begin


def test_news_of_own_writes_are_not_read(read: Callable[[World], list[str]]) -> None:
    world = World()
    seen = read(world)
    world.create("p")
    world.run(5)
    assert (world.objects["p"]["status"]["phase"], seen) == ("Running", ["Pending"])
    world.delete("p")
    world.run(5)
    # That it is being deleted is another's news; that it ended and is gone is not.
    assert (len(world.pods), world.objects, seen) == (0, {}, ["Pending", "Running"])


def test_news_that_come_before_the_answer_are_read_and_leave_nothing_behind(
    read: Callable[[World], list[str]],
) -> None:
    world = World()
    world.early = True
    seen = read(world)
    world.create("p")
    world.run(5)
    assert seen == ["Pending", "Running"]
    assert not world.pods._own
    world.delete("p")
    world.run(5)
    assert (len(world.pods), world.pods._own) == (0, {})


def taken(world: World) -> Any:
    """The one write that is due."""
    world.now += 1
    for item in world.timers.due(world.now):
        world.pods.on_timer(item, world.now)  # type: ignore[arg-type]
    (write,) = world.pods.take(10, world.now)
    return write


@pytest.mark.parametrize("other", ["delete", "unready", "end"])
def test_a_write_that_changed_nothing_does_not_hide_anothers(other: str) -> None:
    """It had landed before, its answer was lost, and when it was repeated another had written: that is the revision."""
    world = World()
    world.create("p")
    write = taken(world)
    world.see(world.store(strategic_merge(PODS, world.objects["p"], orjson.loads(write.body))))
    world.now += 1
    see, told = world.see, []
    world.see = lambda obj, kind="MODIFIED": told.append(obj)  # type: ignore[method-assign,assignment]
    match other:
        case "delete":
            world.delete("p", 1)
        case "unready":
            world.unready("p")
        case "end":
            obj = world.objects["p"]
            world.store({**obj, "status": {**obj["status"], "phase": "Failed"}})
            told.append(world.objects["p"])
    world.see = see  # type: ignore[method-assign]
    world.pods.on_results([(write, 200, world.revision)], world.now)
    world.see(told[0])
    world.run(30)
    match other:
        case "delete":
            assert not world.objects
        case "unready":
            (ready,) = [each for each in world.objects["p"]["status"]["conditions"] if each["type"] == "Ready"]
            assert ready["status"] == "True"
        case "end":
            assert world.pods._pods["d", "p"].mode == ENDED


def test_a_new_state_makes_up_for_news_that_never_come() -> None:
    world = World()
    world.create("p")
    write = taken(world)
    world.store(strategic_merge(PODS, world.objects["p"], orjson.loads(write.body)))
    world.pods.on_results([(write, 200, world.revision)], world.now)
    assert len(world.pods._own) == 1
    world.feed.on_expired()
    assert world.feed.request().send_initial_events
    world.feed.on_events([WatchEvent(BOOKMARK, None, world.revision, initial_events_end=True)])
    assert (world.pods._own, len(world.pods)) == ({}, 0)

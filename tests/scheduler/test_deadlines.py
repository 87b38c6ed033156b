"""Deadlines: nearest first, back-fill that delays nobody, and an answer at once."""

from typing import Any

import pytest

from raykube.api.deadlines import DEADLINE, DURATION, REACHABLE
from raykube.base.clock import rfc3339
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.factors.deadlines import START, Task, run
from tests.kit.waiting import until
from tests.scheduler.objects import node, pod
from tests.scheduler.test_service import running


def test_a_pod_without_a_deadline_is_not_starved_by_those_with_one() -> None:
    """Urgent ones come faster than they can be served: after ten minutes the other one's turn has come."""
    tasks = [Task("patient", 5, 4, 5)]
    tasks += [Task(f"urgent-{number}", number, 2, 60, number + 300) for number in range(0, 1400, 20)]
    ends = run(tasks, told=True, nodes=1, last="patient")
    assert ends["patient"] <= 5 + 600 + 2 * 60 + 5


class Room:
    def __init__(self, cpu: str = "2") -> None:
        self.cluster = Cluster()
        self.cluster.on_node(node("n", cpu))
        self.cluster.deadlines.now = START

    def pod(self, name: str, cpu: str, takes: int | None = None, deadline: int | None = None) -> Any:
        made = pod(name, cpu)
        notes = {} if takes is None else {DURATION: f"{takes}s"}
        if deadline is not None:
            notes[DEADLINE] = rfc3339(START + deadline)
        made["metadata"]["annotations"] = notes
        return self.cluster.read_pod(made)

    def schedule(self, *about: Any) -> tuple[bool, str]:
        one = self.pod(*about)
        found = self.cluster.schedule(one)
        news = self.cluster.deadlines.news(one)
        self.why = found.message if isinstance(found, Diagnosis) else ""
        return isinstance(found, Placement), news.message if news is not None else ""


def test_back_fill_delays_nobody_who_has_booked() -> None:
    room = Room()
    assert room.schedule("first", "1", 30)[0]
    assert room.schedule("booked", "2", 10, 60) == (False, "")
    assert room.schedule("long", "1", 40) == (False, "")
    assert room.why.startswith("0/1 nodes are available: 1 node(s) kept for pods with deadlines. ")
    assert room.schedule("unknown", "1") == (False, "")
    assert room.schedule("short", "1", 30)[0]
    room.cluster.on_settled("uid-booked")
    room.cluster.on_pod_gone("uid-short")
    assert room.schedule("long", "1", 40)[0]


def test_a_deadline_that_cannot_be_met_is_answered_with_the_earliest_time_and_holds_up_nobody() -> None:
    room = Room()
    assert room.schedule("first", "2", 30)[0]
    placed, said = room.schedule("late", "1", 10, 35)
    assert not placed
    assert said == f"the deadline {rfc3339(START + 35)} cannot be met: earliest {rfc3339(START + 40)}"
    assert not room.cluster.deadlines.bookings
    assert room.schedule("fits", "1", 10, 40) == (False, "")
    assert room.schedule("after", "2", 10, 49)[1].endswith(f"earliest {rfc3339(START + 50)}")
    assert room.schedule("slow", "1", 100, 50)[1].endswith(f"earliest {rfc3339(START + 130)}")


def test_a_deadline_in_the_past_and_one_that_cannot_be_read() -> None:
    room = Room()
    placed, said = room.schedule("past", "1", 10, -5)
    assert placed
    assert said == f"the deadline {rfc3339(START - 5)} has passed"
    made = pod("odd", "1")
    made["metadata"]["annotations"] = {DEADLINE: "soon"}
    odd = room.cluster.read_pod(made)
    assert isinstance(room.cluster.schedule(odd), Placement)
    news = room.cluster.deadlines.news(odd)
    assert news is not None
    assert news.message == f'{DEADLINE} must be a time as in 2026-11-28T14:30:00Z, not "soon"'


@pytest.mark.parametrize("full", [True, False])
async def test_the_service_answers_with_a_condition_and_an_event(full: bool) -> None:
    async with running() as (api, _):
        await api.put(node("a", cpu="1"))
        if full:
            await api.put(pod("first", "1", nodeName="a"))
        made = pod("late", "1")
        made["metadata"]["annotations"] = {DEADLINE: "2026-01-01T00:00:00Z", DURATION: "1m"}
        await api.put(made)
        text = "the deadline 2026-01-01T00:00:00Z has passed"
        await until(lambda: [one["message"] for one in api.conditions("late") if one["type"] == REACHABLE] == [text])
        await until(lambda: api.events("DeadlinePassed") == [text])
        assert bool(api.node_of("late")) is not full

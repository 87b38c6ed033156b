"""A Job is told whether it meets its deadline: by what is left to do, and by what the scheduler says of its pods."""

from typing import Any

import pytest

from raykube.api.deadlines import DEADLINE, DURATION, REACHABLE
from raykube.base.clock import rfc3339
from raykube.controllers.core import kinds
from raykube.controllers.core.plan import Obj
from tests.controllers.model import START, Cluster, Running
from tests.controllers.test_job import active, finish, job, start, status


def begun(deadline_s: float | None, duration: str = "", **spec: Any) -> tuple[Cluster, Running]:
    cluster = Cluster()
    made = job(**spec)
    notes = {} if deadline_s is None else {DEADLINE: rfc3339(START + deadline_s)}
    made["metadata"]["annotations"] = notes | ({DURATION: duration} if duration else {})
    cluster.add(kinds.JOBS, made)
    return cluster, start(cluster)


def told(cluster: Cluster) -> tuple[str, str, str] | None:
    for one in status(cluster).get("conditions", ()):
        if one["type"] == REACHABLE:
            return one["status"], one["reason"], one["message"]
    return None


def events(cluster: Cluster) -> list[tuple[str, str]]:
    return [(one.reason, one.message) for one in cluster.events if one.reason.startswith("Deadline")]


def at(seconds: float) -> str:
    return rfc3339(START + seconds)


def test_more_rounds_than_there_is_time_for_are_told_at_once() -> None:
    cluster, _ = begun(1800, "10m", completions=7, parallelism=2)
    text = f"the deadline {at(1800)} cannot be met: earliest {at(2400)}"
    assert told(cluster) == ("False", "Unreachable", text)
    assert events(cluster) == [("DeadlineUnreachable", text)]
    assert len(active(cluster)) == 2, "it runs all the same"


@pytest.mark.parametrize(("deadline_s", "duration"), [(2400, "10m"), (5, ""), (None, "10m")])
def test_nothing_is_said_where_nothing_is_wrong(deadline_s: float | None, duration: str) -> None:
    cluster, _ = begun(deadline_s, duration, completions=7, parallelism=2)
    assert told(cluster) is None and not events(cluster)


def test_it_is_noticed_when_time_runs_out_and_said_once() -> None:
    cluster, running = begun(1260, "10m", completions=2)
    assert told(cluster) is None
    running.advance(50)
    assert told(cluster) is None
    running.advance(20)
    assert told(cluster) == ("False", "Unreachable", f"the deadline {at(1260)} cannot be met: earliest {at(1261)}")
    running.advance(20)
    assert len(events(cluster)) == 1
    # The first one was faster than it said.
    finish(cluster, running)
    assert told(cluster) == ("True", "Reachable", f"the deadline {at(1260)} can be met")
    running.advance(1300)
    assert told(cluster) == ("False", "Passed", f"the deadline {at(1260)} has passed")


def test_what_the_scheduler_says_of_a_pod_holds_for_its_job() -> None:
    cluster, running = begun(1000, "10m", completions=1)
    (pod,) = active(cluster)

    def say(verdict: str, reason: str, message: str) -> None:
        def edit(obj: Obj) -> None:
            one = {"type": REACHABLE, "status": verdict, "reason": reason, "message": message}
            obj["status"] = {"phase": "Pending", "conditions": [one]}

        cluster.change(kinds.PODS, pod["metadata"]["name"], edit)
        running.run()

    say("False", "Unreachable", "earliest 14:32")
    text = f"pod {pod['metadata']['name']}: earliest 14:32"
    assert told(cluster) == ("False", "Unreachable", text)
    assert events(cluster) == [("DeadlineUnreachable", text)]
    say("True", "Reachable", "")
    assert told(cluster) == ("True", "Reachable", f"the deadline {at(1000)} can be met")


def test_another_deadline_is_another_answer() -> None:
    cluster, running = begun(1800, "10m", completions=7, parallelism=2)
    running.advance(60)
    assert told(cluster) == ("False", "Unreachable", f"the deadline {at(1800)} cannot be met: earliest {at(2400)}")

    def later(obj: Obj) -> None:
        obj["metadata"]["annotations"][DEADLINE] = at(2000)

    cluster.change(kinds.JOBS, "sum", later)
    running.run()
    assert told(cluster) == ("False", "Unreachable", f"the deadline {at(2000)} cannot be met: earliest {at(2460)}")
    assert len(events(cluster)) == 2


def test_a_deadline_in_the_past_and_one_that_cannot_be_read() -> None:
    assert told(begun(-5, "10m")[0]) == ("False", "Passed", f"the deadline {at(-5)} has passed")
    cluster, _ = begun(1000, "soon")
    text = f'{DURATION} must be a duration as in 1h30m, not "soon"'
    assert told(cluster) == ("False", "Invalid", text)
    assert events(cluster) == [("DeadlineInvalid", text)]


def test_what_pods_in_the_template_say_goes_first_and_what_has_run_counts() -> None:
    cluster, running = begun(1000, "1h", completions=1, suspend=True)
    assert told(cluster) is None, "one that is suspended has no pods to ask about"

    def resume(obj: Obj) -> None:
        obj["spec"]["suspend"] = False
        obj["spec"]["template"].setdefault("metadata", {})["annotations"] = {DURATION: "15m"}

    cluster.change(kinds.JOBS, "sum", resume)
    running.run()
    assert told(cluster) is None
    (pod,) = active(cluster)

    def began(obj: Obj) -> None:
        obj["status"] = {"phase": "Running", "startTime": at(0)}

    cluster.change(kinds.PODS, pod["metadata"]["name"], began)
    running.advance(800)
    assert told(cluster) is None, "100 s are left to it"

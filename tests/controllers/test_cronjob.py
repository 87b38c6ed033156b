"""cronjob-controller on the model cluster, beside the job-controller."""

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.controllers.core import kinds
from raykube.controllers.core.cronjob import CronJobController
from raykube.controllers.core.cronjob_runs import SCHEDULED
from raykube.controllers.core.job import JobController
from raykube.controllers.core.plan import Read
from tests.controllers.model import START, Cluster, Crash, Running, kubelet, template

MINUTE = 60.0


def cron_job(schedule: str = "*/5 * * * *", **spec: Any) -> dict[str, Any]:
    job = {"parallelism": 1, "completions": 1, "backoffLimit": 0, "template": template({})}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {
            "schedule": schedule,
            "concurrencyPolicy": "Allow",
            "suspend": False,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"app": "tick"}, "annotations": {"a": "b"}}, "spec": job},
            **spec,
        },
    }


def begin(found: dict[str, Any], cluster: Cluster | None = None) -> tuple[Cluster, Running]:
    cluster = cluster or Cluster()
    cluster.add(kinds.CRON_JOBS, found)
    running = Running(cluster, [CronJobController()])
    running.start()
    running.run()
    return cluster, running


def jobs(cluster: Cluster) -> list[str]:
    return sorted(job["metadata"]["name"] for job in cluster.all(kinds.JOBS))


def named(*minutes: int) -> list[str]:
    """The Jobs of times that are so many minutes after the model's start."""
    return [f"tick-{int(START) // 60 + minute}" for minute in minutes]


def status(cluster: Cluster) -> dict[str, Any]:
    found = cluster.get(kinds.CRON_JOBS, "default", "tick")
    assert found is not None
    return dict(found.get("status") or {})


def edit(cluster: Cluster, **spec: Any) -> None:
    cluster.change(kinds.CRON_JOBS, "tick", lambda obj: obj["spec"].update(spec))


def finish(cluster: Cluster, name: str, how: str = "Complete") -> None:
    def end(job: dict[str, Any]) -> None:
        ended = {"type": how, "status": "True", "lastTransitionTime": rfc3339(cluster.now)}
        job["status"] = {"startTime": job["metadata"]["creationTimestamp"], "conditions": [ended]}
        if how == "Complete":
            job["status"]["completionTime"] = rfc3339(cluster.now)

    cluster.change(kinds.JOBS, name, end)


def reasons(cluster: Cluster) -> list[str]:
    return [event.reason for event in cluster.events]


def test_starts_a_job_whenever_it_is_due() -> None:
    cluster, running = begin(cron_job())
    assert not jobs(cluster)
    running.advance(5 * MINUTE - 1)
    assert not jobs(cluster)
    running.advance(1)
    assert jobs(cluster) == named(5)
    (job,) = cluster.all(kinds.JOBS)
    due = rfc3339(START + 5 * MINUTE)
    assert job["metadata"]["annotations"] == {"a": "b", SCHEDULED: due}
    assert job["metadata"]["labels"] == {"app": "tick"}
    assert job["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
    assert status(cluster)["lastScheduleTime"] == due
    (active,) = status(cluster)["active"]
    assert (active["kind"], active["name"], active["uid"]) == ("Job", named(5)[0], job["metadata"]["uid"])
    assert [event.message for event in cluster.events] == [f"Created job {named(5)[0]}"]
    running.advance(10 * MINUTE)
    assert jobs(cluster) == named(5, 10, 15)


def test_what_ends_is_noticed() -> None:
    cluster, running = begin(cron_job())
    running.advance(5 * MINUTE)
    running.advance(30)
    finish(cluster, named(5)[0])
    running.run()
    assert "active" not in status(cluster)
    assert status(cluster)["lastSuccessfulTime"] == rfc3339(START + 330)
    assert cluster.events[-1].message == f"Saw completed job: {named(5)[0]}, condition: Complete"


def test_times_are_of_the_zone() -> None:
    cluster, running = begin(cron_job("30 9 * * *", timeZone="Asia/Kathmandu"))  # 5:45 before UTC; it is 08:00 there
    running.advance(24 * 3600)
    (job,) = cluster.all(kinds.JOBS)
    scheduled = job["metadata"]["annotations"][SCHEDULED]
    assert scheduled.endswith("T09:30:00+05:45")
    assert parse_rfc3339(status(cluster)["lastScheduleTime"]) == datetime.fromisoformat(scheduled).timestamp()
    assert datetime.fromtimestamp(parse_rfc3339(scheduled), UTC).strftime("%H:%M") == "03:45"


def test_forbid_waits_for_the_last_run() -> None:
    cluster, running = begin(cron_job(concurrencyPolicy="Forbid"))
    running.advance(12 * MINUTE)
    assert jobs(cluster) == named(5)
    assert "JobAlreadyActive" in reasons(cluster)
    finish(cluster, named(5)[0])
    running.run()
    assert jobs(cluster) == named(5, 10), "the time that it missed is run late"


def test_replace_ends_the_last_run_first() -> None:
    cluster, running = begin(cron_job(concurrencyPolicy="Replace"))
    running.advance(10 * MINUTE)
    assert jobs(cluster) == named(10)
    assert [each["name"] for each in status(cluster)["active"]] == named(10)
    assert reasons(cluster) == ["SuccessfulCreate", "SuccessfulDelete", "SuccessfulCreate"], "that it went is no news"


def test_replace_starts_nothing_beside_a_run_that_cannot_be_ended() -> None:
    cluster, running = begin(cron_job(concurrencyPolicy="Replace"))
    running.advance(5 * MINUTE)
    cluster.refuse = lambda write: "no" if write.verb == "delete" else ""
    running.advance(6 * MINUTE)
    assert jobs(cluster) == named(5) and [each["name"] for each in status(cluster)["active"]] == named(5)
    assert "FailedDelete" in reasons(cluster)


def test_replace_does_not_wait_for_a_run_that_is_going() -> None:
    cluster, running = begin(cron_job(concurrencyPolicy="Replace"))
    running.advance(5 * MINUTE)
    cluster.change(kinds.JOBS, named(5)[0], lambda job: job["metadata"].update(finalizers=["example.com/hold"]))
    running.advance(5 * MINUTE)
    assert jobs(cluster) == named(5, 10)
    assert [each["name"] for each in status(cluster)["active"]] == named(10)


def test_suspended_ones_start_nothing_and_catch_up_with_the_last_time() -> None:
    cluster, running = begin(cron_job(suspend=True))
    running.advance(17 * MINUTE)
    assert not jobs(cluster)
    edit(cluster, suspend=False)
    running.run()
    assert jobs(cluster) == named(15)


@pytest.mark.parametrize(("deadline_s", "expected"), [(100, []), (130, named(15))])
def test_what_is_too_late_is_not_run(deadline_s: int, expected: list[str]) -> None:
    cluster, running = begin(cron_job(suspend=True, startingDeadlineSeconds=deadline_s))
    running.advance(17 * MINUTE)
    edit(cluster, suspend=False)
    running.run()
    assert jobs(cluster) == expected
    assert ("MissSchedule" in reasons(cluster)) is not bool(expected)


def test_many_missed_times_are_told_of() -> None:
    cluster, running = begin(cron_job("* * * * *", suspend=True))
    running.advance(101 * MINUTE)
    edit(cluster, suspend=False)
    running.run()
    assert jobs(cluster) == named(101) and "TooManyMissedTimes" in reasons(cluster)


def test_a_new_schedule_does_not_run_what_was_due_before() -> None:
    cluster, running = begin(cron_job("0 0 1 1 *"))
    running.advance(17 * MINUTE)
    edit(cluster, schedule="*/5 * * * *")
    running.run()
    assert not jobs(cluster)
    running.advance(3 * MINUTE)
    assert jobs(cluster) == named(20)


def test_history_is_cut() -> None:
    cluster, running = begin(cron_job(successfulJobsHistoryLimit=2, failedJobsHistoryLimit=0))
    for number in range(1, 5):
        running.advance(5 * MINUTE)
        finish(cluster, named(5 * number)[0])
        running.run()
    assert jobs(cluster) == named(15, 20)
    running.advance(5 * MINUTE)
    finish(cluster, named(25)[0], "Failed")
    running.run()
    assert jobs(cluster) == named(15, 20)
    assert cluster.events[-1].message == f"Deleted job {named(25)[0]}"


def test_a_missing_run_is_told_of_after_the_server_was_asked() -> None:
    cluster, running = begin(cron_job(concurrencyPolicy="Forbid"))
    running.advance(5 * MINUTE)
    plan = CronJobController().reconcile(Blind(cluster), "default/tick", cluster.now)
    assert [read.name for read in plan.reads] == named(5) and not plan.writes, "a cache that lags proves nothing"
    cluster.vanish(kinds.JOBS, cluster.all(kinds.JOBS)[0])
    running.run()
    assert reasons(cluster)[-1] == "MissingJob" and "active" not in status(cluster)


class Blind(Cluster):
    """A cache that has no Jobs yet, and nothing that was read live."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.objects = {**cluster.objects, kinds.JOBS: {}}

    def answer(self, read: Read) -> None:
        return None


def test_somebody_elses_jobs_are_left_alone() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, {"metadata": {"name": named(5)[0]}, "spec": {}})
    cluster, running = begin(cron_job(), cluster)
    owner = {
        "kind": "CronJob",
        "name": "tick",
        "uid": cluster.all(kinds.CRON_JOBS)[0]["metadata"]["uid"],
        "controller": True,
    }
    cluster.add(kinds.JOBS, {"metadata": {"name": "by-hand", "ownerReferences": [owner]}, "spec": {}})
    running.advance(5 * MINUTE)
    assert jobs(cluster) == sorted([*named(5), "by-hand"])
    assert "active" not in status(cluster) and "lastScheduleTime" not in status(cluster)
    assert cluster.events[0].message == "Saw a job that the controller did not create or forgot: by-hand"
    running.advance(5 * MINUTE)
    assert set(named(5, 10)) <= set(jobs(cluster))


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"timeZone": "No/Where"}, "UnknownTimeZone", 'invalid timeZone: "No/Where": unknown time zone No/Where'),
        (
            {"schedule": "TZ=UTC * * * * *"},
            "UnparseableSchedule",
            'unparseable schedule: "TZ=UTC * * * * *" : expected exactly 5 fields, found 6: [TZ=UTC * * * * *]',
        ),
        (
            {"schedule": "0 0 31 2 *"},
            "InvalidSchedule",
            "invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second",
        ),
    ],
)
def test_schedules_that_are_none(spec: dict[str, Any], reason: str, message: str) -> None:
    cluster, running = begin(cron_job(**spec))
    running.advance(3600)
    assert not jobs(cluster)
    assert {(event.type, event.reason, event.message) for event in cluster.events} == {("Warning", reason, message)}


@given(
    policy=st.sampled_from(["Allow", "Forbid", "Replace"]),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5), st.booleans()), min_size=1, max_size=8),
    kept=st.integers(0, 2),
)
@settings(max_examples=120, deadline=None)
def test_no_time_is_run_twice_whatever_crashes(policy: str, steps: list[tuple[int, int, bool]], kept: int) -> None:
    cluster = Cluster()
    cluster.add(kinds.CRON_JOBS, cron_job("*/2 * * * *", concurrencyPolicy=policy, successfulJobsHistoryLimit=kept))
    for seconds, crash, works in steps:
        cluster.now += seconds
        cluster.writes_left = crash
        with contextlib.suppress(Crash):
            cluster.settle(CronJobController(), JobController())
        if works:
            kubelet(cluster, "Succeeded", ready=False)
    cluster.writes_left = -1
    for _ in range(20):
        cluster.settle(CronJobController(), JobController())
        if not kubelet(cluster, "Succeeded", ready=False):
            break
    created = [write.name for write in cluster.log if write.verb == "create" and write.resource == kinds.JOBS]
    assert len(set(created)) == len(created)
    last = int(cluster.now) // 120 * 120
    if last > START:
        assert parse_rfc3339(status(cluster)["lastScheduleTime"]) == last
        assert created[-1] == f"tick-{last // 60}"
    assert "active" not in status(cluster)
    assert len(jobs(cluster)) <= kept

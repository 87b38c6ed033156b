"""A CronJob with real pods, as kubectl makes and shows one."""

import pytest

from tests.e2e.user import User, until

pytestmark = pytest.mark.integration


def test_runs_are_made_shown_and_kept(user: User) -> None:
    refused = user.run("create", "cronjob", "odd", "--image=any", "--schedule=61 * * * *")
    assert "spec.schedule: Invalid value" in refused.stderr
    user("create", "cronjob", "tick", "--image=any", "--schedule=@every 2s", "--", "sh", "-c", "echo ran; sleep 1")
    (job,) = until("its first run", lambda: user.items("jobs"))
    name = job["metadata"]["name"]
    assert name.startswith("tick-") and job["metadata"]["ownerReferences"][0]["name"] == "tick"
    until("it is noticed", lambda: user.get("cronjob", "tick").get("status", {}).get("lastScheduleTime"))
    user("patch", "cronjob", "tick", "-p", '{"spec":{"suspend":true}}')
    user.wait("condition=Complete", f"job/{name}")
    until("its end is noticed", lambda: user.get("cronjob", "tick")["status"].get("lastSuccessfulTime"))
    row = user.row("get", "cronjob", "tick")
    assert (row["SCHEDULE"], row["TIMEZONE"], row["SUSPEND"], row["ACTIVE"]) == ("@every 2s", "<none>", "True", "0")
    described = user("describe", "cronjob", "tick")
    assert f"Created job {name}" in described and f"Saw completed job: {name}, condition: Complete" in described
    assert "ran" in user("logs", f"job/{name}")


def test_a_run_by_hand(user: User) -> None:
    user("create", "job", "by-hand", "--from=cronjob/tick")
    user.wait("condition=Complete", "job/by-hand")
    until("the CronJob saw it", lambda: "did not create or forgot: by-hand" in user("describe", "cronjob", "tick"))
    user("delete", "cronjob", "tick")
    until("its Jobs went with it", lambda: not user.items("jobs"))

"""Deadlines with scheduler and controller-manager on a real store and apiserver: what a Job is told."""

import time
from typing import Any

import pytest

from raykube.api.deadlines import DEADLINE, DURATION, REACHABLE
from raykube.api.resources import builtin
from raykube.base.clock import rfc3339
from tests.controllers.plane import Plane
from tests.scheduler.test_volumes_plane import PODS, create, node, plane, sees

pytestmark = pytest.mark.integration
Object = dict[str, Any]

JOBS, EVENTS = builtin("batch/v1", "Job"), builtin("v1", "Event")
__all__ = ["plane"]  # the fixture


def job(name: str, cpu: str, notes: dict[str, str], **spec: Any) -> Object:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    pod = {"containers": [container], "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": notes},
        "spec": {"template": {"spec": pod}} | spec,
    }


def told(obj: Object) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == REACHABLE), None)


async def reasons(plane: Plane, kind: str, name: str) -> set[str]:
    found, _ = await plane.client.list(EVENTS, "default")
    about = ({"kind": kind, "name": name}, "Warning")
    return {
        one["reason"]
        for one in found
        if ({key: one["involvedObject"].get(key) for key in ("kind", "name")}, one["type"]) == about
    }


async def test_a_job_is_told_what_the_scheduler_says_of_its_pods_and_others_go_on(plane: Plane) -> None:
    await plane.client.create(node("n1"))
    now = time.time()
    # Whoever has all of the room says that it takes an hour.
    await create(plane, job("first", "4", {DURATION: "1h"}))
    await sees(plane, JOBS, "first", lambda one: (one.get("status") or {}).get("active") == 1)
    pods, _ = await plane.client.list(PODS, "default")
    first = pods[0]["metadata"]["name"]
    await sees(plane, PODS, first, lambda pod: pod["spec"].get("nodeName"))
    await create(plane, job("late", "1", {DEADLINE: rfc3339(now + 1800), DURATION: "10m"}))
    late = await sees(plane, JOBS, "late", told)
    condition = told(late)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "Unreachable")
    assert condition["message"].startswith("pod late-") and "cannot be met: earliest " in condition["message"]
    # Too long for its parallelism: nobody has to be asked.
    await create(plane, job("long", "1m", {DEADLINE: rfc3339(now + 1800), DURATION: "10m"}, completions=4))
    await sees(plane, JOBS, "long", told)
    await sees(plane, JOBS, "long", lambda one: one["status"].get("active") == 1)
    for _ in range(100):
        found = [await reasons(plane, "Job", name) for name in ("late", "long")]
        if all("DeadlineUnreachable" in each for each in found):
            break
        await sees(plane, JOBS, "long", lambda one: one)
    assert all("DeadlineUnreachable" in each for each in found), found
    # Neither holds up the next one, which has room as soon as there is some.
    await plane.client.create(node("n2"))
    pods, _ = await plane.client.list(PODS, "default")
    for pod in pods:
        await sees(plane, PODS, pod["metadata"]["name"], lambda one: one["spec"].get("nodeName"))
    met = await sees(plane, JOBS, "late", lambda one: (told(one) or {}).get("status") == "True")
    assert told(met) is not None

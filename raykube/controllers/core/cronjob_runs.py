"""The Jobs of a CronJob: how one is made, which time it is for, how it ended, and which ones go."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from zoneinfo import ZoneInfo

from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import conditions
from raykube.controllers.core.job import COMPLETE, FAILED, is_finished
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


def name_of(cron_job: Obj, moment: float) -> str:
    """The name of the run of a time: schedules are due once a minute at most."""
    return f"{cron_job['metadata']['name']}-{int(moment) // 60}"


def make(cron_job: Obj, moment: float, zone: ZoneInfo, reference: Obj) -> Obj:
    """The Job for a time."""
    template = cron_job["spec"].get("jobTemplate") or {}
    given = template.get("metadata") or {}
    scheduled = datetime.fromtimestamp(moment, zone).isoformat(timespec="seconds").replace("+00:00", "Z")
    metadata: Obj = {
        "name": name_of(cron_job, moment),
        "namespace": cron_job["metadata"].get("namespace", ""),
        "annotations": {**(given.get("annotations") or {}), SCHEDULED: scheduled},
        "ownerReferences": [reference],
    }
    if given.get("labels"):
        metadata["labels"] = dict(given["labels"])
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template.get("spec") or {}}


def scheduled_time(cron_job: Obj, job: Obj) -> float | None:
    """The time that a Job was made for; None when its controller did not make it."""
    text = (job["metadata"].get("annotations") or {}).get(SCHEDULED)
    try:
        moment = parse_rfc3339(text) if text else None
    except ValueError:
        return None
    return moment if moment is not None and name_of(cron_job, moment) == job["metadata"]["name"] else None


def outcome(job: Obj) -> str:
    """The type of the condition that ended a Job."""
    return COMPLETE if conditions.is_true((job.get("status") or {}).get("conditions"), COMPLETE) else FAILED


def succeeded_at(job: Obj) -> float | None:
    """When a Job completed; None when it did not."""
    moment = (job.get("status") or {}).get("completionTime")
    return parse_rfc3339(moment) if moment and is_finished(job) and outcome(job) == COMPLETE else None


def expired(spec: Obj, jobs: Sequence[Obj]) -> list[Obj]:
    """The ended Jobs beyond `successfulJobsHistoryLimit` and `failedJobsHistoryLimit`, those that began first."""
    found: list[Obj] = []
    for how, field in ((COMPLETE, "successfulJobsHistoryLimit"), (FAILED, "failedJobsHistoryLimit")):
        limit = spec.get(field)
        ended = [
            job
            for job in jobs
            if is_finished(job) and outcome(job) == how and not job["metadata"].get("deletionTimestamp")
        ]
        if limit is not None and len(ended) > int(limit):
            found += sorted(ended, key=_age)[: len(ended) - int(limit)]
    return found


def _age(job: Obj) -> tuple[str, str, str]:
    started = (job.get("status") or {}).get("startTime") or "9"  # those that never began go last
    return started, job["metadata"]["name"], uid_of(job)


def rfc1123(moment: float) -> str:
    """`Fri, 15 Jan 2027 08:00:00 +0000`."""
    return format_datetime(datetime.fromtimestamp(moment, UTC))

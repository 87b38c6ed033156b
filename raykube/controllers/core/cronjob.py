"""cronjob-controller: starts a Job whenever a schedule is due.

A Job's name follows from the time it is for, and an annotation tells the time (cronjob_runs.py): whoever sees the Job
knows that the time is taken, and no crash starts it twice. One time goes through

    1. due, not taken      → the Job is created; with concurrency policy Replace, those that run are deleted first
    2. its Job is there    → status: active, lastScheduleTime; when it has ended, lastSuccessfulTime
    3. status knows of it  → once ended it may be deleted, when there are more than the history limits keep

Of several times that were missed only the last is run, unless it is older than `startingDeadlineSeconds`.
"""

from collections.abc import Iterable, Sequence

from raykube.api import cron
from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.controllers.core import cronjob_runs as runs
from raykube.controllers.core import kinds
from raykube.controllers.core.claims import reference_to
from raykube.controllers.core.job import is_finished
from raykube.controllers.core.patches import create_write, delete_write, status_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, Read, View, key_of, split_key

API_VERSION = "batch/v1"
KIND = "CronJob"
MISSED_MAX = 100  # more are told of
IMPOSSIBLE = "time difference between two schedules is less than 1 second"


class CronJobController:
    """See the module's docstring."""

    name = "cronjob-controller"
    resources = (kinds.CRON_JOBS, kinds.JOBS)

    def __init__(self) -> None:
        self._changed: dict[str, float] = {}  # key → when its schedule was changed: what was due before is not run

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A CronJob's own key; for a Job those of the CronJobs that controlled it before and after."""
        if resource == kinds.CRON_JOBS:
            changed = new or old
            if changed is None:
                return ()
            key = key_of(changed)
            if new is None:
                self._changed.pop(key, None)
            elif old is not None and _schedule(old) != _schedule(new):
                self._changed[key] = now
            return (key,)
        return {
            f"{job['metadata'].get('namespace', '')}/{owner['name']}"
            for job in (old, new)
            if job is not None
            for owner in job["metadata"].get("ownerReferences") or ()
            if owner.get("controller") and owner.get("kind") == KIND
        }

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The next step for one CronJob."""
        cron_job = view.get(kinds.CRON_JOBS, *split_key(key))
        if cron_job is None:
            return NOTHING
        return _Step(view, cron_job, self._changed.get(key, 0.0), now).plan()


def _schedule(cron_job: Obj) -> tuple[str, str]:
    spec = cron_job["spec"]
    return str(spec.get("schedule") or ""), str(spec.get("timeZone") or "UTC")


class _Step:
    """One reconcile of one CronJob."""

    def __init__(self, view: View, cron_job: Obj, changed: float, now: float) -> None:
        self.view, self.cron_job, self.changed, self.now = view, cron_job, changed, now
        self.spec, self.status = cron_job["spec"], cron_job.get("status") or {}
        self.jobs = view.by_index(kinds.JOBS, "controller", uid_of(cron_job))
        self.draft = Draft()

    def plan(self) -> Plan:
        status = self._noticed()
        write = status_write(kinds.CRON_JOBS, self.cron_job, status) if status is not None else None
        if write is not None or self.draft.reads:
            if write is not None:
                self.draft.writes.append(write)
            return self.draft.plan()  # nothing is started or deleted before the status knows what there is
        self._forget()
        if not self.cron_job["metadata"].get("deletionTimestamp"):
            self._start()
        return self.draft.plan()

    @property
    def replaces(self) -> bool:
        """Whether runs are deleted for their successor: those that go are then nothing to tell of."""
        return bool(self.spec.get("concurrencyPolicy") == "Replace")

    # -- what there is

    def _noticed(self) -> Obj | None:
        """The status with what the Jobs say; None when something has to be read first."""
        by_uid = {uid_of(job): job for job in self.jobs}
        active = []
        for reference in self.status.get("active") or ():
            job = by_uid.get(str(reference.get("uid")))
            if job is None:
                missing = self._is_missing(reference)
                if missing is None:
                    return None
                if not missing:
                    active.append(reference)
                elif not self.replaces:
                    self._tell("Normal", "MissingJob", f"Active job went missing: {reference.get('name')}")
            elif is_finished(job):
                name, how = job["metadata"]["name"], runs.outcome(job)
                self._tell("Normal", "SawCompletedJob", f"Saw completed job: {name}, condition: {how}")
            elif not (self.replaces and job["metadata"].get("deletionTimestamp")):
                active.append(reference)
        known = {str(reference.get("uid")) for reference in active}
        for job in sorted(self.jobs, key=lambda job: str(job["metadata"]["name"])):
            if uid_of(job) in known or is_finished(job):
                continue
            if runs.scheduled_time(self.cron_job, job) is None:
                text = f"Saw a job that the controller did not create or forgot: {job['metadata']['name']}"
                self._tell("Warning", "UnexpectedJob", text)
            elif not job["metadata"].get("deletionTimestamp"):
                active.append(_reference(job))
        status = {**self.status, "active": active}
        if not active:
            del status["active"]
        taken = [moment for job in self.jobs if (moment := runs.scheduled_time(self.cron_job, job)) is not None]
        _advance(status, "lastScheduleTime", taken)
        _advance(status, "lastSuccessfulTime", [moment for job in self.jobs if (moment := runs.succeeded_at(job))])
        return status

    def _is_missing(self, reference: Obj) -> bool | None:
        """Whether an active Job that the cache lacks is gone; None when it has not been read yet."""
        namespace = str(self.cron_job["metadata"].get("namespace", ""))
        read = Read(kinds.JOBS, namespace, str(reference.get("name")))
        answer = self.view.answer(read)
        if answer is None:
            self.draft.reads.append(read)
            return None
        return all(uid_of(job) != reference.get("uid") for job in answer)

    def _forget(self) -> None:
        """Deletes ended Jobs beyond the history limits, the oldest first."""
        for job in runs.expired(self.spec, self.jobs):
            self._delete(job)

    # -- what is due

    def _start(self) -> None:
        text, time_zone = _schedule(self.cron_job)
        if self.spec.get("timeZone"):
            try:
                cron.zone(time_zone)
            except ValueError as error:
                return self._tell("Warning", "UnknownTimeZone", f'invalid timeZone: "{time_zone}": {error}')
        if self.spec.get("suspend"):
            return None
        try:
            schedule = cron.parse(text, time_zone)
        except ValueError as error:
            return self._tell("Warning", "UnparseableSchedule", f'unparseable schedule: "{text}" : {error}')
        since = self._taken_until()
        first = schedule.next_after(since)
        if first is None:
            return self._tell("Warning", "InvalidSchedule", f"invalid schedule: {text} : {IMPOSSIBLE}")
        due = schedule.last_within(since, self.now)
        following = schedule.next_after(since if due is None else due)
        if following is not None:
            self.draft.wake_after(following - self.now)
        if due is not None:
            self._run(schedule, first, due)
        return None

    def _taken_until(self) -> float:
        """What was due up to this time has been run, or will not be."""
        created = parse_rfc3339(self.cron_job["metadata"]["creationTimestamp"])
        last = self.status.get("lastScheduleTime")
        return max(parse_rfc3339(last) if last else created, self.changed)

    def _run(self, schedule: cron.Schedule, first: float, due: float) -> None:
        deadline_s = self.spec.get("startingDeadlineSeconds")
        if deadline_s is not None and due + int(deadline_s) < self.now:
            text = f"Missed scheduled time to start a job: {runs.rfc1123(due)}"
            return self._tell("Warning", "MissSchedule", text)
        earliest = first if deadline_s is None else max(first, self.now - int(deadline_s))
        if _missed(schedule, earliest, self.now) > MISSED_MAX:
            text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self._tell("Warning", "TooManyMissedTimes", text)
        job = runs.make(self.cron_job, due, schedule.zone, reference_to(self.cron_job, API_VERSION, KIND))
        namespace = self.cron_job["metadata"].get("namespace", "")
        if self.view.get(kinds.JOBS, namespace, job["metadata"]["name"]) is not None:
            return None  # somebody else's Job has the name
        active = [each for each in self.jobs if not is_finished(each) and self._is_active(each)]
        if self.spec.get("concurrencyPolicy") == "Forbid" and self.status.get("active"):
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            return self._tell("Normal", "JobAlreadyActive", text)
        if self.replaces:
            running = [each for each in active if not each["metadata"].get("deletionTimestamp")]
            for each in running:
                self._delete(each)
            if running:
                return None  # their successor is the next step
        self.draft.writes.append(
            create_write(
                kinds.JOBS,
                job,
                done=Event(self.cron_job, "Normal", "SuccessfulCreate", f"Created job {job['metadata']['name']}"),
                failed=Event(self.cron_job, "Warning", "FailedCreate", "Error creating job: {error}"),
            )
        )
        return None

    def _is_active(self, job: Obj) -> bool:
        return any(reference.get("uid") == uid_of(job) for reference in self.status.get("active") or ())

    def _delete(self, job: Obj) -> None:
        done = Event(self.cron_job, "Normal", "SuccessfulDelete", f"Deleted job {job['metadata']['name']}")
        failed = Event(self.cron_job, "Warning", "FailedDelete", "Deleted job: {error}")
        options = {"propagationPolicy": "Background"}
        self.draft.writes.append(delete_write(kinds.JOBS, job, options, done=done, failed=failed))

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self.draft.events.append(Event(self.cron_job, "Normal" if kind == "Normal" else "Warning", reason, message))


def _missed(schedule: cron.Schedule, first: float, now: float) -> float:
    """About how many times were due from `first` on, from the distance of the next one."""
    second = schedule.next_after(first)
    return 1 if second is None else (now - first) // (second - first) + 1


def _advance(status: Obj, field: str, moments: Sequence[float]) -> None:
    """Moves a time stamp forward, never back."""
    latest = max(moments, default=None)
    if latest is not None and (not status.get(field) or parse_rfc3339(status[field]) < latest):
        status[field] = rfc3339(latest)


def _reference(job: Obj) -> Obj:
    meta = job["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "Job",
        "name": meta["name"],
        "namespace": meta.get("namespace", ""),
        "resourceVersion": str(version_of(job)),
        "uid": uid_of(job),
    }

"""job-controller: runs pods until enough of them have succeeded.

How the ended ones are counted is job_tally.py's matter. A Job ends in two steps, so that its counts are final when it
is said to have ended: first SuccessCriteriaMet or FailureTarget is stored, then the pods that still run are deleted,
and when none is left and all are counted, Complete or Failed follows.

A reconcile looks at the pods that ended or have changed; what it asks of the many that run is kept in a crew (crew.py).
Those that have succeeded and are counted are remembered by when the last one did.

Pods that are to go without counting as failures (suspension, lower parallelism) lose their finalizer first and are
deleted in the next step; a pod that runs without the finalizer is therefore always on its way out.
"""

from collections.abc import Iterable, Iterator, Sequence

from raykube.api.deadlines import REACHABLE
from raykube.api.selectors import LabelSelector
from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.controllers.core import (
    aspects,
    claims,
    conditions,
    indexes,
    job_deadlines,
    job_pods,
    job_policy,
    job_success,
    kinds,
    pods,
)
from raykube.controllers.core.crew import Crew
from raykube.controllers.core.job_tally import Tally, tally
from raykube.controllers.core.names import free_names
from raykube.controllers.core.patches import (
    create_write,
    delete_write,
    patch_write,
    status_write,
    uid_of,
    version_of,
)
from raykube.controllers.core.plan import NOTHING, Draft, Event, Obj, Plan, View, Write, key_of, split_key

API_VERSION = "batch/v1"
KIND = "Job"
BURST = 500  # pods created or deleted in one plan
COMPLETE, FAILED, SUSPENDED = "Complete", "Failed", "Suspended"
SUCCESS, FAILURE = "SuccessCriteriaMet", "FailureTarget"  # decided, but pods still run or wait to be counted


def is_finished(job: Obj) -> bool:
    """Whether the Job has completed or failed for good."""
    present = (job.get("status") or {}).get("conditions")
    return conditions.is_true(present, COMPLETE) or conditions.is_true(present, FAILED)


class JobController:
    """See the module's docstring."""

    name = "job-controller"
    resources = (kinds.JOBS, kinds.PODS)
    looks_at = aspects.ALL | aspects.OF_JOB | aspects.OF_NOBODY

    def __init__(self) -> None:
        self._crews: dict[str, Crew] = {}  # by key
        self._succeeded_at: dict[str, float] = {}  # uid → when the last pod did
        self._relabelled: dict[str, dict[str, None]] = {}  # uid → pods that it may no longer select

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Job's own key; for a pod the keys of its owners, and of the Job that its finalizer waits for."""
        if resource == kinds.JOBS:
            changed = new or old
            if old is not None and new is None:
                self._succeeded_at.pop(uid_of(old), None)
                self._relabelled.pop(uid_of(old), None)
            return (key_of(changed),) if changed else ()
        if new is not None:
            self._note(old, new, now)
        elif old is not None:
            self._forget(view, old)
        keys = claims.keys_of_owners(view, kinds.JOBS, KIND, old, new)
        keys = keys.union(*(indexes.by_job(pod) for pod in (old, new) if pod is not None))
        for key in keys:
            if (crew := self._crews.get(key)) and (pod := new or old):
                crew.mark(pod["metadata"]["name"])
        return keys

    def _note(self, old: Obj | None, new: Obj, now: float) -> None:
        """What is remembered of pods that are no longer looked at once they are counted."""
        reference = claims.controller_reference(new)
        if reference is None or reference.get("kind") != KIND:
            return
        uid = str(reference.get("uid", ""))
        if pods.phase(new) == "Succeeded" and (old is None or pods.phase(old) != "Succeeded"):
            self._succeeded_at[uid] = max(self._succeeded_at.get(uid, 0.0), job_pods.ended_at(new, now))
        settled = pods.is_terminal(new) and not job_pods.is_tracked(new)
        if settled and (old is None or claims.labels_of(old) != claims.labels_of(new)):
            self._relabelled.setdefault(uid, {})[new["metadata"]["name"]] = None

    def _forget(self, view: View, pod: Obj) -> None:
        """A pod went: those of a Job that is gone may have ended, and been noted, after it."""
        reference = claims.controller_reference(pod)
        if reference is None or reference.get("kind") != KIND:
            return
        uid = str(reference.get("uid", ""))
        if uid in self._succeeded_at or uid in self._relabelled:
            job = view.get(kinds.JOBS, pod["metadata"].get("namespace", ""), reference["name"])
            if job is None or uid_of(job) != uid:
                self._succeeded_at.pop(uid, None)
                self._relabelled.pop(uid, None)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """One step of the Job: counting, ending, deleting, creating, and the status of what is there."""
        job = view.get(kinds.JOBS, *split_key(key))
        if job is None or job["metadata"].get("deletionTimestamp") or is_finished(job):
            self._crews.pop(key, None)
            return _release_all(view, key, job)
        crew = self._crew(view, key, job)
        writes = [_release(pod) for pod in crew.foreign(view) if claims.controller_reference(pod) is not None]
        if job["spec"].get("managedBy") not in (None, "kubernetes.io/job-controller"):
            return NOTHING
        reference = claims.reference_to(job, API_VERSION, KIND)
        selector = job_pods.selector_of(job)
        _, adoptions = claims.claim(view, kinds.PODS, job, reference, selector, job_pods.FINALIZER, children=())
        writes += [claims.release(kinds.PODS, pod, uid_of(job)) for pod in crew.strays(view)]
        writes += [*adoptions, *self._releases(view, job, selector)]
        if writes:
            return Plan(writes)
        return _Step(view, job, reference, crew, self._succeeded_at.get(uid_of(job), 0.0), now).plan()

    def _crew(self, view: View, key: str, job: Obj) -> Crew:
        crew = self._crews.get(key)
        if crew is None or not crew.is_for(job):
            crew = self._crews[key] = Crew(view, key, job)
        crew.refresh(view)
        return crew

    def _releases(self, view: View, job: Obj, selector: Obj) -> list[Write]:
        """Of pods that have succeeded and are counted: those that the Job no longer selects."""
        uid, namespace = uid_of(job), job["metadata"].get("namespace", "")
        matcher = LabelSelector.from_object(selector)
        found = []
        for name in list(self._relabelled.get(uid, ())):
            pod = view.get(kinds.PODS, namespace, name)
            alien = pod is not None and pods.phase(pod) == "Succeeded" and not matcher.matches(claims.labels_of(pod))
            if pod is not None and alien and indexes.controller_uid(pod) == uid and not pods.is_terminating(pod):
                found.append(claims.release(kinds.PODS, pod, uid))
            else:
                del self._relabelled[uid][name]
        return found


def _release_all(view: View, key: str, job: Obj | None) -> Plan:
    """A Job that is no more, or has ended, holds no pod; one that has ended leaves those alone that it may adopt."""
    uid = uid_of(job) if job is not None else ""
    adopts = job is not None and not job["metadata"].get("deletionTimestamp")
    found = [
        pod
        for pod in view.by_index(kinds.PODS, "job", key)
        if indexes.controller_uid(pod) != uid and not (adopts and claims.controller_reference(pod) is None)
    ]
    if job is not None:
        found += [pod for pod in view.by_index(kinds.PODS, "unsettled", uid) if job_pods.is_tracked(pod)]
    return Plan([_release(pod) for pod in found])


def _release(pod: Obj) -> Write:
    """Removes the Job's finalizer from a pod."""
    kept = [finalizer for finalizer in pod["metadata"].get("finalizers") or () if finalizer != job_pods.FINALIZER]
    return patch_write(kinds.PODS, pod, {"metadata": {"finalizers": kept or None}})


class _Step:
    """One reconcile of one Job that has not ended."""

    def __init__(self, view: View, job: Obj, reference: Obj, crew: Crew, succeeded_at: float, now: float) -> None:
        self.succeeded_at = succeeded_at
        self.view, self.job, self.reference, self.crew, self.now = view, job, reference, crew, now
        self.spec: Obj = job["spec"]
        self.status: Obj = dict(job.get("status") or {})
        self.conditions: list[Obj] = list(self.status.get("conditions") or ())
        self.active = len(crew.workers)
        self.others = crew.others(view)
        self.terminating = [pod for pod in self.others if pods.is_terminating(pod) and not pods.is_terminal(pod)]
        self.decided = conditions.is_true(self.conditions, SUCCESS) or conditions.is_true(self.conditions, FAILURE)
        self.tally: Tally = tally(job, self.others, crew.by_index, ends=self.decided)
        self.touched: set[str] = set()  # uids that this plan writes: one write for one object
        self.said: Event | None = None  # recorded when the status that says the same has landed
        self.draft = Draft()

    def plan(self) -> Plan:
        for pod in self.tally.release:
            self._write(pod, _release(pod))
        for pod in self.others:
            if pods.is_active(pod):  # and not tracked
                self._delete(pod)
        suspended = bool(self.spec.get("suspend"))
        if not self.decided:
            self._note_suspension(suspended)
            decided_now = self._decide()
            if suspended:
                self._dismiss(self.crew.working(self.view))
            elif not decided_now:
                self._note_deadline()
                self._adjust()
        else:
            for pod in self.crew.working(self.view)[:BURST]:
                self._delete(pod)
            self._finish()
        self._report()
        return self.draft.plan()

    # -- what the Job has come to

    def _note_suspension(self, suspended: bool) -> None:
        before = conditions.find(self.conditions, SUSPENDED)
        was_suspended = before is not None and before.get("status") == "True"
        if suspended and not was_suspended:
            self._set(SUSPENDED, "True", "JobSuspended", "Job suspended")
            self._say("Normal", "Suspended", "Job suspended")
        elif not suspended and was_suspended:
            self._set(SUSPENDED, "False", "JobResumed", "Job resumed")
            self._say("Normal", "Resumed", "Job resumed")
            self.status["startTime"] = rfc3339(self.now)
        if not suspended and not self.status.get("startTime"):
            self.status["startTime"] = rfc3339(self.now)

    def _note_deadline(self) -> None:
        """Whether the deadline of its annotations will be met: said once, and when that changes."""
        working = self.crew.working(self.view) if job_deadlines.is_asked_for(self.job) else ()
        found, wake_s = job_deadlines.verdict(self.job, working, self.tally.total_succeeded, self.now)
        if wake_s is not None:
            self.draft.wake_after(wake_s)
        if found is None:
            return
        before = self.conditions
        told = conditions.find(before, REACHABLE)
        if told is not None and job_deadlines.is_of_another(told.get("message", ""), found):
            self.conditions = conditions.without(before, REACHABLE)
        self._set(REACHABLE, str(found.reachable), found.reason, found.message)
        if self.conditions != before and not found.reachable and self.said is None:
            self._say("Warning", f"Deadline{found.reason}", found.message)

    def _decide(self) -> bool:
        """Stores SuccessCriteriaMet or FailureTarget when it is time. Whether it was."""
        failure = self._failure()
        if failure is not None:
            self._set(FAILURE, "True", *failure)
            return True
        enough = job_success.met(self.job, self.tally.completed)
        if enough:
            self._set(SUCCESS, "True", "SuccessPolicy", enough)
        elif self._succeeded():
            self._set(SUCCESS, "True", "CompletionsReached", "Reached expected number of succeeded pods")
        else:
            return False
        return True

    def _failure(self) -> tuple[str, str] | None:
        by_policy = job_policy.failure(self.job, self.others)
        if by_policy is not None:
            return by_policy
        per_index = job_policy.index_limit(self.job) is not None
        limit = int(self.spec.get("backoffLimit", 2**31 - 1 if per_index else 6))
        if self.tally.total_failed > limit or self._restarted_too_often(limit):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline_s = self.spec.get("activeDeadlineSeconds")
        if deadline_s is not None and self.status.get("startTime") and not self.spec.get("suspend"):
            left_s = parse_rfc3339(self.status["startTime"]) + deadline_s - self.now
            if left_s <= 0:
                return "DeadlineExceeded", "Job was active longer than specified deadline"
            self.draft.wake_after(left_s)
        return job_policy.index_failure(self.job, len(self.tally.completed), len(self.tally.failed_indexes))

    def _restarted_too_often(self, limit: int) -> bool:
        """With restartPolicy OnFailure the kubelet restarts containers in place: their restarts are the failures."""
        template_spec = (self.spec.get("template") or {}).get("spec") or {}
        if template_spec.get("restartPolicy") != "OnFailure":
            return False
        restarts = self.crew.restarts + sum(map(job_pods.restarts, self.others))
        return restarts > 0 if limit == 0 else restarts >= limit

    def _succeeded(self) -> bool:
        wanted = job_pods.completions_of(self.job)
        if wanted is None:
            return self.tally.total_succeeded > 0 and not self.active
        if job_pods.is_indexed(self.job):
            return self.tally.succeeded >= wanted
        return self.tally.total_succeeded >= wanted

    def _finish(self) -> None:
        """Complete or Failed, once no pod is left to stop or to count."""
        if self.active or self.terminating or not self.tally.is_settled:
            return
        failure = conditions.find(self.conditions, FAILURE)
        decided = failure or conditions.find(self.conditions, SUCCESS) or {}
        reason, message = decided.get("reason", ""), decided.get("message", "")
        if failure is not None:
            self._set(FAILED, "True", reason, message)
            self._say("Warning", reason, message)
            return
        self._set(COMPLETE, "True", reason, message)
        self.status["completionTime"] = rfc3339(self.now)
        self._say("Normal", "Completed", "Job completed")

    # -- how many pods there should be

    def _adjust(self) -> None:
        parallelism = int(self.spec.get("parallelism", 1))
        wanted = job_pods.completions_of(self.job)
        if wanted is None:
            goal = self.active if self.tally.total_succeeded > 0 else parallelism
            goal = min(goal, parallelism)
        else:
            left = wanted - self.tally.total_succeeded - len(self.tally.failed_indexes)
            goal = max(0, min(left, parallelism))
        surplus = self._misplaced()
        kept = self.active - len(surplus)
        if kept > goal:
            gone = {uid_of(pod) for pod in surplus}
            keep = [pod for pod in self.crew.working(self.view) if uid_of(pod) not in gone]
            keep.sort(key=lambda pod: pods.deletion_rank(pod, 0, self.now))
            surplus = [*surplus, *keep[: kept - goal]]
        if surplus:
            self._dismiss(surplus)
            return
        missing = goal - kept
        if job_pods.replaces_only_failed(self.job):
            missing -= len(self.terminating)
        if missing > 0:
            self._create(missing)

    def _misplaced(self) -> list[Obj]:
        """Active pods of an Indexed Job that share an index or have none that is still needed."""
        if not job_pods.is_indexed(self.job):
            return []
        limit = job_pods.completions_of(self.job) or 0
        if self.crew.is_in_place(limit, self.tally.completed):
            return []
        seen: set[int] = set()
        misplaced = []
        ranked = self.crew.working(self.view)
        ranked.sort(key=lambda pod: pods.deletion_rank(pod, 0, self.now), reverse=True)
        for pod in ranked:
            index = job_pods.index_of(pod)
            if index is None or index >= limit or index in seen or index in self.tally.completed:
                misplaced.append(pod)
            else:
                seen.add(index)
        return misplaced

    def _create(self, count: int) -> None:
        meta = self.job["metadata"]
        indexed = job_pods.is_indexed(self.job)
        waits_s = job_policy.backoff_left_s(self.job, self.others, self.succeeded_at, self.now)
        if waits_s > 0:
            self.draft.wake_after(waits_s)
            return
        state = f"{uid_of(self.job)}/{version_of(self.job)}/{self.crew.members:x}"
        chosen: Sequence[int | None] = self._free_indexes(count) if indexed else [None] * count
        names = self._free_names(f"{meta['name']}-", state)
        for index in chosen[: pods.burst(self.view, BURST)]:
            if index is not None:
                names = self._free_names(f"{meta['name']}-{index}-", state)
            name = next(names)
            self.draft.writes.append(
                create_write(
                    kinds.PODS,
                    self._new_pod(name, index),
                    done=Event(self.job, "Normal", "SuccessfulCreate", f"Created pod: {name}"),
                    failed=Event(self.job, "Warning", "FailedCreate", "Error creating: {error}"),
                )
            )

    def _free_names(self, prefix: str, state: str) -> Iterator[str]:
        namespace = self.job["metadata"].get("namespace", "")
        return free_names(prefix, state, lambda name: self.view.get(kinds.PODS, namespace, name) is not None)

    def _new_pod(self, name: str, index: int | None) -> Obj:
        pod = job_pods.new_pod(self.job, self.reference, name, index)
        if index is not None and job_policy.index_limit(self.job) is not None:
            failures = job_policy.index_failures(self.job, self.others, index)
            pod["metadata"]["annotations"][job_policy.INDEX_FAILURES] = str(failures)
        return pod

    def _free_indexes(self, count: int) -> list[int]:
        busy = self.terminating if job_pods.replaces_only_failed(self.job) else []
        ending = set(map(job_pods.index_of, busy))
        free: list[int] = []
        for index in self.tally.completed.others(job_pods.completions_of(self.job) or 0):
            if len(free) == count:
                break
            if index in self.crew.by_index or index in ending or index in self.tally.failed_indexes:
                continue
            waits_s = job_policy.index_backoff_left_s(self.job, self.others, index, self.now)
            if waits_s > 0:
                self.draft.wake_after(waits_s)
            else:
                free.append(index)
        return free

    # -- writes

    def _write(self, pod: Obj, write: Write) -> None:
        if uid_of(pod) not in self.touched:
            self.touched.add(uid_of(pod))
            self.draft.writes.append(write)

    def _delete(self, pod: Obj) -> None:
        done = Event(self.job, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        self._write(pod, delete_write(kinds.PODS, pod, done=done))

    def _dismiss(self, chosen: Sequence[Obj]) -> None:
        """Takes the finalizer of pods that shall go without being counted; they are deleted in the next step."""
        for pod in chosen[:BURST]:
            self._write(pod, _release(pod))

    def _set(self, kind: str, status: str, reason: str, message: str) -> None:
        self.conditions = conditions.with_condition(
            self.conditions, kind, status, reason, message, self.now, stamp="lastProbeTime"
        )

    def _say(self, severity: str, reason: str, message: str) -> None:
        self.said = Event(self.job, "Normal" if severity == "Normal" else "Warning", reason, message)

    def _report(self) -> None:
        status = self.status
        uncounted: Obj = {}
        if self.tally.uncounted_succeeded:
            uncounted["succeeded"] = self.tally.uncounted_succeeded
        if self.tally.uncounted_failed:
            uncounted["failed"] = self.tally.uncounted_failed
        counts = {"active": self.active, "succeeded": self.tally.succeeded, "failed": self.tally.failed}
        for field, count in counts.items():
            status.pop(field, None)
            if count:
                status[field] = count
        status["uncountedTerminatedPods"] = uncounted
        status["ready"] = self.crew.ready
        status["terminating"] = len(self.terminating)
        if job_pods.is_indexed(self.job):
            for field, numbers in (
                ("completedIndexes", self.tally.completed),
                ("failedIndexes", self.tally.failed_indexes),
            ):
                status.pop(field, None)
                if numbers or (field == "failedIndexes" and self.spec.get("backoffLimitPerIndex") is not None):
                    status[field] = str(numbers)
        if self.conditions:
            status["conditions"] = self.conditions
        write = status_write(kinds.JOBS, self.job, status)
        if write is not None:
            self.draft.writes.append(write._replace(done=self.said))

"""Counting a Job's ended pods exactly once, whatever crashes in between.

Every pod of a Job holds a finalizer, so it cannot vanish before it is counted. A pod that ended moves through:

    1. ended, with finalizer                     → its uid joins status.uncountedTerminatedPods   (a status write)
    2. uid stored as uncounted, with finalizer   → the finalizer is removed                       (a pod write)
    3. uid stored as uncounted, no finalizer     → succeeded or failed grows by one, uid leaves   (one status write)

Each step is decided from stored state alone, so repeating it after a crash changes nothing. A success of an Indexed Job
needs no uid: storing its index is the count, and storing it twice is the same.

Where each index may fail so many times (`backoffLimitPerIndex`), the last pod that failed is all that knows how many
these were. It is **held**, by step 2 that waits, until its successor is there, which carries the number on.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from raykube.controllers.core import job_pods, job_policy, pods
from raykube.controllers.core.completions import Indexes
from raykube.controllers.core.patches import uid_of, version_of
from raykube.controllers.core.plan import Obj

UNCOUNTED_MAX = 500  # uids that one status holds: bounds the size of the object
HELD_MAX = UNCOUNTED_MAX // 2  # so that there is room for others to be counted


@dataclass(slots=True)
class Tally:
    """The counts after this step, and the pods that may lose their finalizer now."""

    succeeded: int
    failed: int
    uncounted_succeeded: list[str] = field(default_factory=list)
    uncounted_failed: list[str] = field(default_factory=list)
    completed: Indexes = field(default_factory=Indexes)
    failed_indexes: Indexes = field(default_factory=Indexes)
    release: list[Obj] = field(default_factory=list)

    @property
    def total_succeeded(self) -> int:
        """Successes, stored or about to be."""
        return self.succeeded + len(self.uncounted_succeeded)

    @property
    def total_failed(self) -> int:
        """Failures, stored or about to be."""
        return self.failed + len(self.uncounted_failed)

    @property
    def is_settled(self) -> bool:
        """Whether every ended pod that was seen is in the counts."""
        return not self.uncounted_succeeded and not self.uncounted_failed


def tally(job: Obj, owned: Sequence[Obj], busy: Container[int | None] = (), *, ends: bool = False) -> Tally:
    """One step of counting the pods `owned` by `job`.

    `busy`: the indexes that have a pod at work; `ends`: no index gets another one."""
    status = job.get("status") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    known_succeeded = list(uncounted.get("succeeded") or ())
    known_failed = list(uncounted.get("failed") or ())
    result = Tally(int(status.get("succeeded") or 0), int(status.get("failed") or 0))
    tracked = {uid_of(pod): pod for pod in owned if job_pods.is_tracked(pod)}
    for uid in known_succeeded:
        if uid in tracked:
            result.uncounted_succeeded.append(uid)
            result.release.append(tracked[uid])
        else:
            result.succeeded += 1
    for uid in known_failed:
        if uid in tracked:
            result.uncounted_failed.append(uid)
            result.release.append(tracked[uid])
        else:
            result.failed += 1
    known = {*known_succeeded, *known_failed}
    fresh = [pod for uid, pod in tracked.items() if uid not in known]
    if job_pods.is_indexed(job):
        _count_indexed(job, fresh, result)
        if not ends and job_policy.index_limit(job) is not None:
            failed = [pod for pod in tracked.values() if job_pods.counts_as_failed(pod, job)]
            held = _held(job, failed, busy, result)
            result.release = [pod for pod in result.release if uid_of(pod) not in held]
    else:
        _count(job, fresh, result)
    return result


def _held(job: Obj, failed: Sequence[Obj], busy: Container[int | None], result: Tally) -> set[str]:
    """The uids of the pods of which each is the last that failed of an index that gets another one."""
    last: dict[int, Obj] = {}
    for pod in sorted(failed, key=lambda pod: (job_policy.failures_before(pod), version_of(pod))):
        index = job_pods.index_of(pod)
        if index is not None and index not in busy and index < (job_pods.completions_of(job) or 0):
            last[index] = pod
    waiting = [
        pod for index, pod in last.items() if index not in result.completed and index not in result.failed_indexes
    ]
    return {uid_of(pod) for pod in waiting[:HELD_MAX]}


def _has_room(result: Tally) -> bool:
    return len(result.uncounted_succeeded) + len(result.uncounted_failed) < UNCOUNTED_MAX


def _count(job: Obj, fresh: Sequence[Obj], result: Tally) -> None:
    for pod in fresh:
        if not _has_room(result):
            return
        if pods.phase(pod) == "Succeeded":
            result.uncounted_succeeded.append(uid_of(pod))
        elif job_pods.counts_as_failed(pod, job):
            if job_policy.action(job, pod)[0] == "Ignore":
                result.release.append(pod)
            else:
                result.uncounted_failed.append(uid_of(pod))


def _count_indexed(job: Obj, fresh: Sequence[Obj], result: Tally) -> None:
    limit = job_pods.completions_of(job) or 0
    status = job.get("status") or {}
    result.completed = Indexes.parse(status.get("completedIndexes") or "", limit)
    result.failed_indexes = Indexes.parse(status.get("failedIndexes") or "", limit)
    succeeded = []
    for pod in fresh:
        index = job_pods.index_of(pod)
        valid = index is not None and index < limit
        if pods.phase(pod) == "Succeeded":
            if index is None or not valid or index in result.completed:
                result.release.append(pod)
            else:
                succeeded.append(index)
        elif job_pods.counts_as_failed(pod, job):
            if not valid or job_policy.action(job, pod)[0] == "Ignore":
                result.release.append(pod)
            elif _has_room(result):
                if index is not None and job_policy.fails_index(job, pod):
                    result.failed_indexes.add(index)
                result.uncounted_failed.append(uid_of(pod))
    for index in succeeded:  # not before: only the pods of an index that is stored may go
        result.completed.add(index)
    result.succeeded = len(result.completed)

"""Whether a Job will meet its deadline (`api/deadlines`), as far as it can be known from the Job and its pods.

    completions left   7, 2 at a time, 10m each         4 rounds: at the earliest 40 minutes from now, less what
    pod 1 of 2         has run for 6 minutes            the pod that is furthest has done: 34
    deadline           in 30 minutes                    cannot be met: earliest …

What the scheduler says of a single pod, which may have to wait for room, holds for its Job.
"""

from collections.abc import Sequence

from raykube.api import deadlines
from raykube.api.deadlines import DEADLINE, REACHABLE, Verdict
from raykube.base.clock import parse_rfc3339
from raykube.controllers.core import conditions, job_pods
from raykube.controllers.core.plan import Obj


def is_asked_for(job: Obj) -> bool:
    """Whether the Job has a deadline that may be met or missed."""
    return DEADLINE in deadlines.of_job(job["metadata"].get("annotations") or {})


def verdict(job: Obj, active: Sequence[Obj], succeeded: int, now: float) -> tuple[Verdict | None, float | None]:
    """What the Job is to be told, None where nothing is; and in how many seconds that may be otherwise by itself."""
    own = deadlines.of_job(job["metadata"].get("annotations") or {})
    if DEADLINE not in own:
        return None, None
    template = (job["spec"].get("template") or {}).get("metadata") or {}
    wish = deadlines.parse(own | deadlines.of_job(template.get("annotations") or {}))
    if wish.problem or wish.at is None:
        return deadlines.unreadable(wish.problem), None
    if wish.at < now:
        return deadlines.passed(wish.at), None
    earliest = now if wish.duration_s is None else _earliest(job, active, succeeded, wish.duration_s, now)
    if earliest > wish.at:
        return deadlines.unreachable(wish.at, earliest), wish.at - now + 1.0
    slack_s = wish.at - earliest + 1.0
    for pod in active:
        told = conditions.find((pod.get("status") or {}).get("conditions"), REACHABLE)
        if told is not None and told.get("status") == "False":
            message = f"pod {pod['metadata']['name']}: {told.get('message', '')}"
            return Verdict(False, told.get("reason", ""), message), slack_s
    was_told = conditions.find((job.get("status") or {}).get("conditions"), REACHABLE) is not None
    return deadlines.reachable(wish.at) if was_told else None, slack_s


def is_of_another(message: str, found: Verdict) -> bool:
    """Whether a message is about a deadline that the Job had before: only the earliest time may differ else."""
    begin = "the deadline "
    size = len(begin) + len("2026-11-28T14:30:00Z")
    both = message.startswith(begin) and found.message.startswith(begin)
    return both and message[:size] != found.message[:size]


def _earliest(job: Obj, active: Sequence[Obj], succeeded: int, duration_s: float, now: float) -> float:
    """No sooner can the last completion be there: some place has to do a pod in each round."""
    parallelism = int(job["spec"].get("parallelism", 1))
    completions = job_pods.completions_of(job)
    left = (1 if completions is None else completions) - succeeded
    if left <= 0 or parallelism <= 0:
        return now
    starts = [parse_rfc3339(begun) for pod in active if (begun := (pod.get("status") or {}).get("startTime"))]
    first = max(now, min(starts, default=now) + duration_s)
    return first + (-(-left // parallelism) - 1) * duration_s

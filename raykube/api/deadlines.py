"""Deadlines of pods, and of Jobs for their pods: when they must have ended, and how long they take.

    raykube.io/deadline: 2026-11-28T14:30:00Z
    raykube.io/expected-duration: 10m

The scheduler answers with a condition of the pod, the job-controller with one of the Job: DeadlineReachable, False when
it can't be met.
"""

from typing import NamedTuple

from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.base.duration import parse_duration

DEADLINE, DURATION = "raykube.io/deadline", "raykube.io/expected-duration"
REACHABLE = "raykube.io/DeadlineReachable"  # the condition's type


class Wish(NamedTuple):
    """What the annotations say; the time is in seconds since the epoch."""

    at: float | None
    duration_s: float | None
    problem: str = ""  # what cannot be read


class Verdict(NamedTuple):
    """What is answered; `reason` as conditions have it."""

    reachable: bool
    reason: str
    message: str


def of_job(annotations: dict[str, str]) -> dict[str, str]:
    """Those annotations of a Job that its pods get, too."""
    return {name: annotations[name] for name in (DEADLINE, DURATION) if name in annotations}


def parse(annotations: dict[str, str]) -> Wish:
    """Any text may stand in an annotation: what cannot be read is not raised but told."""
    at = duration_s = None
    problem = ""
    try:
        at = parse_rfc3339(annotations[DEADLINE]) if DEADLINE in annotations else None
    except ValueError:
        problem = f'{DEADLINE} must be a time as in 2026-11-28T14:30:00Z, not "{annotations[DEADLINE]}"'
    try:
        duration_s = parse_duration(annotations[DURATION]) if DURATION in annotations else None
        if duration_s is not None and duration_s <= 0:
            raise ValueError
    except ValueError:
        duration_s = None
        problem = problem or f'{DURATION} must be a duration as in 1h30m, not "{annotations[DURATION]}"'
    return Wish(at, duration_s, problem)


def passed(at: float) -> Verdict:
    return Verdict(False, "Passed", f"the deadline {rfc3339(at)} has passed")


def reachable(at: float) -> Verdict:
    return Verdict(True, "Reachable", f"the deadline {rfc3339(at)} can be met")


def unreachable(at: float, earliest: float) -> Verdict:
    return Verdict(False, "Unreachable", f"the deadline {rfc3339(at)} cannot be met: earliest {rfc3339(earliest)}")


def unreadable(problem: str) -> Verdict:
    return Verdict(False, "Invalid", problem)

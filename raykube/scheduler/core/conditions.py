"""What the scheduler writes into the status of pods: that they are unschedulable, give way, or meet their deadlines.

`stamp` is the time of the change, as the API writes times.
"""

from typing import Any, NamedTuple

from raykube.api.deadlines import REACHABLE, Verdict
from raykube.scheduler.core.pod import Pod

Object = dict[str, Any]


class Note(NamedTuple):
    """What is to be written about a pod that has no node: why, and which one it was promised ("": none any more)."""

    pod: Pod
    message: str | None
    promised: str | None

    def status(self, stamp: str) -> Object:
        status: Object = {}
        if self.message is not None:
            status["conditions"] = [unschedulable(self.message, stamp)]
        if self.promised is not None:
            status["nominatedNodeName"] = self.promised or None
        return status


def unschedulable(message: str, stamp: str) -> Object:
    return _condition("PodScheduled", False, "Unschedulable", message, stamp)


def disruption(scheduler: str, stamp: str) -> Object:
    """Of a victim of preemption."""
    message = f"{scheduler}: preempting to accommodate a higher priority pod"
    return _condition("DisruptionTarget", True, "PreemptionByScheduler", message, stamp)


def deadline(verdict: Verdict, stamp: str) -> Object:
    return _condition(REACHABLE, verdict.reachable, verdict.reason, verdict.message, stamp)


def _condition(kind: str, holds: bool, reason: str, message: str, stamp: str) -> Object:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "lastProbeTime": None,
        "lastTransitionTime": stamp,
        "reason": reason,
        "message": message,
    }

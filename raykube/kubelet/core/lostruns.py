"""Runs that a pod's status tells of, and that the runtime knows nothing of any more.

Somebody removed a container by hand, or a power cut took its record. What ran once counts as ended all the same: it is
not begun again where it must not be, its restarts are counted on, and an exit code that was told stays.
"""

from collections.abc import Iterator
from dataclasses import replace

from raykube.base.clock import parse_rfc3339
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.pod import Object

REASON = "ContainerStatusUnknown"
MESSAGE = "The container could not be located, and had not been seen to end"
CODE = 137
_KINDS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def with_lost_runs(observed: ObservedPod, status: Object) -> ObservedPod:
    """What the runtime shows, and for containers of which it shows nothing the run that the status tells of."""
    shown = {run.name for run in observed.containers}
    lost = tuple(_run(one) for one in _told(status) if one["name"] not in shown)
    return replace(observed, containers=observed.containers + lost) if lost else observed


def _told(status: Object) -> Iterator[Object]:
    """The statuses of containers that ran."""
    for kind in _KINDS:
        yield from (one for one in status.get(kind) or () if one.get("containerID"))


def _run(status: Object) -> ObservedContainer:
    state = status.get("state") or {}
    ended: Object = {} if "running" in state else _ended(status)
    return ObservedContainer(
        id=str(status["containerID"]).rpartition("://")[2],
        name=status["name"],
        sandbox_id="",
        attempt=int(status.get("restartCount") or 0),
        state=State.EXITED,
        created_at=0.0,
        started_at=_seconds(ended.get("startedAt") or (state.get("running") or {}).get("startedAt")),
        finished_at=_seconds(ended.get("finishedAt")),
        exit_code=int(ended.get("exitCode", CODE)),
        reason=ended.get("reason") or REASON,
        message=ended.get("message") or ("" if ended else MESSAGE),
        image=status.get("image") or "",
        image_id=status.get("imageID") or "",
    )


def _ended(status: Object) -> Object:
    states = (status.get("state") or {}, status.get("lastState") or {})
    return next((one["terminated"] for one in states if one.get("terminated")), {})


def _seconds(time: str | None) -> float:
    return parse_rfc3339(time) if time else 0.0

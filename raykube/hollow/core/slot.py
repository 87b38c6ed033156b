"""One pod of a hollow machine: which stage it is in, and what of it the apiserver has."""

from typing import NamedTuple

from raykube.hollow.core.lifecycle import Stage
from raykube.hollow.core.shape import Shape

Key = tuple[str, str]
BACKOFF_FIRST_S, BACKOFF_MAX_S = 10.0, 300.0  # the kubelet's

# What a slot is in. LIVE: a stage; BACKOFF: between two runs; ENDED: terminal; STOPPING: deleted, its grace runs;
# STOPPED: its end is to be shown; REMOVING: nothing is left but to delete it; GONE: no more writes.
LIVE, BACKOFF, ENDED, STOPPING, STOPPED, REMOVING, GONE = range(7)


class Last(NamedTuple):
    """How the run before the present one ended."""

    code: int
    reason: str
    run_at: float
    end_at: float
    attempt: int


class Pod:
    """One pod. Times in Unix seconds."""

    __slots__ = (
        "attempt", "in_flight", "ip", "key", "last", "mode", "node", "queued", "revision", "run_at", "seen",
        "seen_revision", "shape", "shown", "since", "stage", "stale", "start_at", "timer", "uid",
    )  # fmt: skip

    def __init__(self, key: Key, uid: str, node: str, shape: Shape, revision: int, now: float) -> None:
        self.key = key
        self.uid = uid
        self.node = node
        self.shape = shape
        self.revision = revision  # of our last write, or of the last event, whichever is later
        self.ip = 0
        self.mode = LIVE
        self.stage = 0
        self.attempt = 0  # of its containers: how many were there before
        self.since = now  # when the stage began
        self.start_at = now
        self.run_at = 0.0  # 0: its containers never ran
        self.last: Last | None = None
        self.shown = ("Pending", False, False)  # phase, whether it started, whether it is ready: as the API has it
        self.seen = ("Pending", False)  # phase, ready: in the last event
        self.seen_revision = 0
        self.queued = False
        self.in_flight = False
        self.stale = False  # differs from the write that is under way, or that failed
        self.timer = 0

    @property
    def now_in(self) -> Stage:
        return self.shape.lifecycle.stages[self.stage]

    @property
    def backoff_s(self) -> float:
        """Until it is restarted. The first time that is at once."""
        if self.attempt == 0:
            return 0.0
        return min(BACKOFF_FIRST_S * (1 << min(self.attempt - 1, 10)), BACKOFF_MAX_S)

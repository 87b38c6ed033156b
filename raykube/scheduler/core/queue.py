"""Which pod is next. Three places, and a pending pod is in exactly one, or in work:

    active          ready: by priority, then by age
    backoff         failed lately: becomes active when its pause ends (1 s, doubled per attempt, at most 10 s)
    unschedulable   fits nowhere: waits for an event that could change that, or for 5 minutes

An event wakes only pods that a plugin rejected which the event may satisfy (upstream's queueing hints, by plugin). An
event while the pod is in work counts too: `on_unschedulable` looks at the events since the pod was taken.
"""

import heapq
from dataclasses import dataclass, field
from enum import Flag, auto
from itertools import takewhile

from raykube.base.backoff import Backoff
from raykube.scheduler.core import diagnosis
from raykube.scheduler.core.cluster import Pod
from raykube.scheduler.core.diagnosis import Diagnosis

BACKOFF = Backoff(initial_s=1.0, max_s=10.0)
STAY_MAX_S = 300.0


class Event(Flag):
    """What happened in the cluster, as far as a rejected pod may care."""

    NODE = auto()  # a node came, or its labels, taints or size changed
    POD_GONE = auto()  # something was freed
    STORAGE = auto()  # a claim, volume or storage class came or changed
    POD_CHANGED = auto()  # a pod was placed, or its labels or namespace changed: spreading and affinity may differ


NOTHING = Event(0)
_HELPED_BY = {
    diagnosis.NODE_UNSCHEDULABLE: Event.NODE,
    diagnosis.TAINT_TOLERATION: Event.NODE,
    diagnosis.NODE_AFFINITY: Event.NODE,
    diagnosis.NODE_PORTS: Event.NODE | Event.POD_GONE,
    diagnosis.NODE_RESOURCES: Event.NODE | Event.POD_GONE,
    diagnosis.VOLUME_BINDING: Event.NODE | Event.STORAGE,
    diagnosis.VOLUME_RESTRICTIONS: Event.POD_GONE | Event.STORAGE,
    diagnosis.POD_TOPOLOGY_SPREAD: Event.NODE | Event.POD_GONE | Event.POD_CHANGED,
    diagnosis.INTER_POD_AFFINITY: Event.NODE | Event.POD_GONE | Event.POD_CHANGED,
}


@dataclass(slots=True)
class Pending:
    """A pod that waits for a node."""

    pod: Pod
    added_at: float
    attempts: int = 0
    failures: int = 0  # attempts that count for the back-off
    since: float = 0.0  # when it became unschedulable
    wakers: Event = NOTHING
    place: str = field(default="", repr=False)
    seen_events: int = 0
    ticket: int = 0  # of its entry in a heap; older entries are stale


class PodQueue:
    """Pending pods by uid. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._pods: dict[str, Pending] = {}
        self._active: list[tuple[int, float, int, str]] = []
        self._backoff: list[tuple[float, int, str]] = []
        self._unschedulable: dict[Event, dict[str, Pending]] = {}  # by what may help: an event finds its pods at once
        self._events: list[Event] = []
        self._in_work = 0
        self._tickets = 0
        self.counts = {"active": 0, "backoff": 0, "unschedulable": 0, "": 0}

    def __len__(self) -> int:
        return len(self._pods)

    def get(self, uid: str) -> Pending | None:
        return self._pods.get(uid)

    def add(self, pod: Pod, now: float) -> None:
        """A pod appeared or changed. A change of what it asks for makes it active; else only the view is renewed."""
        known = self._pods.get(pod.uid)
        if known is None:
            pending = self._pods[pod.uid] = Pending(pod, now)
            self._activate(pending)
            return
        old, known.pod = known.pod, pod
        if known.place == "unschedulable" and (old.needs is not pod.needs or old.labels != pod.labels):
            self._retry(known, now)
        elif known.place == "active" and old.priority != pod.priority:
            self._activate(known)

    def remove(self, uid: str) -> None:
        """The pod is bound, gone, or somebody else's."""
        pending = self._pods.pop(uid, None)
        if pending is None:
            return
        if pending.place == "work":
            self._in_work -= 1
            self._trim_events()
        self._leave(pending)

    def pop(self, count_max: int, now: float) -> list[Pending]:
        """The next pods to schedule, in order; each must come back by `remove`, `on_unschedulable` or `on_error`."""
        while self._backoff and self._backoff[0][0] <= now:
            _, ticket, uid = heapq.heappop(self._backoff)
            pending = self._pods.get(uid)
            if pending is not None and pending.place == "backoff" and pending.ticket == ticket:
                self._activate(pending)
        taken: list[Pending] = []
        while self._active and len(taken) < count_max:
            _, _, ticket, uid = heapq.heappop(self._active)
            pending = self._pods.get(uid)
            if pending is None or pending.place != "active" or pending.ticket != ticket:
                continue
            self._leave(pending)
            pending.place = "work"
            pending.attempts += 1
            pending.seen_events = len(self._events)
            self._in_work += 1
            taken.append(pending)
        return taken

    @staticmethod
    def by_class(batch: list[Pending]) -> list[Pending]:
        """A batch with the pods of a class next to each other, within equal priorities.

        All came within one turn of the event loop, and a class that goes on where it stopped has nothing to catch up.
        """
        first: dict[tuple[int, bytes], int] = {}
        for place, pending in enumerate(batch):
            first.setdefault((-pending.pod.priority, pending.pod.needs.key), place)
        return sorted(batch, key=lambda p: (-p.pod.priority, first[-p.pod.priority, p.pod.needs.key]))

    def on_unschedulable(self, pending: Pending, found: Diagnosis, now: float) -> None:
        """It fits nowhere. It waits for an event; one that came while it was in work counts."""
        if not self._end_work(pending):
            return
        pending.failures += 1
        pending.wakers = NOTHING
        for plugin in found.plugins:
            pending.wakers |= _HELPED_BY[plugin]
        if not found.plugins:
            pending.wakers = Event.NODE
        pending.since = now
        missed = any(event & pending.wakers for event in self._events[pending.seen_events :])
        self._trim_events()
        if missed:
            self._retry(pending, now)
        else:
            pending.place = "unschedulable"
            self._unschedulable.setdefault(pending.wakers, {})[pending.pod.uid] = pending
            self.counts["unschedulable"] += 1

    def on_error(self, pending: Pending, now: float) -> None:
        """Its binding failed for a reason that is not its own: again after a back-off."""
        if self._end_work(pending):
            self._trim_events()
            pending.failures += 1
            pending.since = now
            self._retry(pending, now)

    def on_event(self, event: Event, now: float) -> int:
        """Wakes the pods that the event may help; how many."""
        if self._in_work:
            self._events.append(event)
        woken = [p for wakers, pods in self._unschedulable.items() if wakers & event for p in pods.values()]
        for pending in woken:
            self._retry(pending, now)
        return len(woken)

    def on_tick(self, now: float) -> int:
        """Wakes pods that have been unschedulable for long: events may be incomplete. Call every half minute or so."""
        woken: list[Pending] = []
        for pods in self._unschedulable.values():
            # Each holds its pods in the order in which they came: the young ones are not looked at.
            woken += takewhile(lambda p: now - p.since >= STAY_MAX_S, pods.values())
        for pending in woken:
            self._retry(pending, now)
        return len(woken)

    def next_ready_at(self) -> float | None:
        """When `pop` has something again: 0 now, None when nothing is under way."""
        if self.counts["active"]:
            return 0.0
        return self._backoff[0][0] if self._backoff else None

    def _end_work(self, pending: Pending) -> bool:
        """False when the pod was removed meanwhile."""
        if self._pods.get(pending.pod.uid) is not pending or pending.place != "work":
            return False
        self._in_work -= 1
        pending.place = ""
        return True

    def _trim_events(self) -> None:
        if not self._in_work:
            self._events.clear()

    def _retry(self, pending: Pending, now: float) -> None:
        """Active, unless its back-off is still running."""
        ready = pending.since + BACKOFF.delay_s(pending.failures)
        if ready <= now:
            self._activate(pending)
            return
        self._leave(pending)
        pending.place = "backoff"
        self.counts["backoff"] += 1
        self._tickets += 1
        pending.ticket = self._tickets
        heapq.heappush(self._backoff, (ready, pending.ticket, pending.pod.uid))

    def _activate(self, pending: Pending) -> None:
        self._leave(pending)
        pending.place = "active"
        self.counts["active"] += 1
        self._tickets += 1
        pending.ticket = self._tickets
        heapq.heappush(self._active, (-pending.pod.priority, pending.added_at, pending.ticket, pending.pod.uid))

    def _leave(self, pending: Pending) -> None:
        if pending.place == "unschedulable":
            del self._unschedulable[pending.wakers][pending.pod.uid]
        if pending.place in self.counts and pending.place:
            self.counts[pending.place] -= 1
        pending.place = ""

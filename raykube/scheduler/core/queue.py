"""Which pod is next. Three places, and a pending pod is in exactly one, or in work:

    active          ready: by priority, then by deadline; a pod without one counts as if it had a late one
    backoff         failed lately: becomes active when its pause ends (1 s, doubled per attempt, at most 10 s: defaults)
    unschedulable   fits nowhere: waits for an event that could change that, or for 5 minutes

An event wakes only pods that a plugin rejected which the event may satisfy (upstream's queueing hints, by plugin). An
event while the pod is in work counts too: `on_unschedulable` looks at the events since the pod was taken.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from raykube.base.backoff import Backoff
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.pod import Pod

BACKOFF = Backoff(initial_s=1.0, max_s=10.0)
STAY_MAX_S = 300.0
DUE_S = 600.0  # after so long a pod without a deadline comes before all that come later


@dataclass(slots=True)
class Pending:
    """A pod that waits for a node."""

    pod: Pod
    added_at: float
    due: float
    attempts: int = 0
    failures: int = 0  # attempts that count for the back-off
    since: float = 0.0  # when it became unschedulable
    wakers: Event = NOTHING
    place: str = field(default="", repr=False)
    seen_events: int = 0
    woken: bool = False  # while in work
    ticket: int = 0  # of its entry in a heap; older entries are stale


class PodQueue:
    """Pending pods by uid. Times are seconds of one clock."""

    def __init__(self, backoff: Backoff = BACKOFF) -> None:
        self._backoff_policy = backoff
        self._pods: dict[str, Pending] = {}
        self._active: list[tuple[int, float, int, str]] = []
        self._backoff: list[tuple[float, int, str]] = []
        self._unschedulable: dict[Event, dict[str, Pending]] = {}  # by what may help: an event finds its pods at once
        self._events = 0  # so many there were
        self._last: dict[Event, int] = {}  # the number of the last one of each kind
        self._tickets = 0
        self.counts = {"active": 0, "backoff": 0, "unschedulable": 0, "": 0}

    def __len__(self) -> int:
        return len(self._pods)

    def get(self, uid: str) -> Pending | None:
        return self._pods.get(uid)

    def add(self, pod: Pod, now: float, due: float | None = None) -> None:
        """A pod appeared or changed. A change of what it asks for makes it active; else only the view is renewed.

        `due`: when it must have ended.
        """
        known = self._pods.get(pod.uid)
        if known is None:
            pending = self._pods[pod.uid] = Pending(pod, now, now + DUE_S if due is None else due)
            self._activate(pending)
            return
        old, known.pod = known.pod, pod
        if known.place == "unschedulable" and (
            old.needs is not pod.needs or old.labels != pod.labels or old.devices != pod.devices
        ):
            self._retry(known, now)
        elif known.place == "active" and old.priority != pod.priority:
            self._activate(known)

    def remove(self, uid: str) -> None:
        """The pod is bound, gone, or somebody else's."""
        pending = self._pods.pop(uid, None)
        if pending is None:
            return
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
            self._work(pending)
            taken.append(pending)
        return taken

    def take(self, uid: str) -> Pending | None:
        """A pod out of its turn, as its gang's has come; None when it is in work already."""
        pending = self._pods.get(uid)
        if pending is None or pending.place == "work":
            return None
        self._work(pending)
        return pending

    def gather(self, first: Pending, uids: Iterable[str], left: dict[str, Pending]) -> list[Pending]:
        """The pods of a gang, in the order in which they are placed: `first`, and of `uids` those that wait.

        `left`: pods of the same batch whose turn has not come; those of the gang leave it.
        """
        members = [first]
        for uid in uids:
            pending = left.pop(uid, None) or self.take(uid)
            if pending is not None:
                members.append(pending)
        return sorted(members, key=lambda one: (-one.pod.priority, one.added_at))

    def _work(self, pending: Pending) -> None:
        self._leave(pending)
        pending.place = "work"
        pending.attempts += 1
        pending.woken = False
        pending.seen_events = self._events

    @staticmethod
    def by_class(batch: list[Pending]) -> list[Pending]:
        """A batch with the pods of a class next to each other, within equal priorities and between two with deadlines.

        All came within one turn of the event loop, and a class that goes on where it stopped has nothing to catch up.
        """
        first: dict[tuple[int, int, bytes], int] = {}
        ranks = []
        stretch = 0
        for place, pending in enumerate(batch):
            if pending.pod.deadline is not None:
                stretch += 1
            key = -pending.pod.priority, stretch, pending.pod.needs.key
            ranks.append((key[0], stretch, first.setdefault(key, place), place))
            if pending.pod.deadline is not None:
                stretch += 1
        return [batch[rank[-1]] for rank in sorted(ranks)]

    def on_unschedulable(self, pending: Pending, found: Diagnosis, now: float, tried: bool = True) -> None:
        """It fits nowhere, or was not even tried. It waits for an event; one that came while it was in work counts."""
        if not self._end_work(pending):
            return
        pending.failures += tried and pending.pod.deadline is None  # one that is urgent does not pause
        pending.wakers = found.helped_by
        pending.since = now
        came = (event for event, number in self._last.items() if number > pending.seen_events)
        missed = pending.woken or any(event & pending.wakers for event in came)
        if missed:
            self._retry(pending, now)
        else:
            pending.place = "unschedulable"
            self._unschedulable.setdefault(pending.wakers, {})[pending.pod.uid] = pending
            self.counts["unschedulable"] += 1

    def without_deadline(self, pending: Pending) -> None:
        """Its deadline cannot be met: it has its turn among those that have none."""
        pending.due = pending.added_at + DUE_S

    def on_error(self, pending: Pending, now: float) -> None:
        """Its binding failed for a reason that is not its own: again after a back-off."""
        if self._end_work(pending):
            pending.failures += 1
            pending.since = now
            self._retry(pending, now)

    def on_event(self, event: Event, now: float) -> int:
        """Wakes the pods that the event may help; how many."""
        self._events += 1
        self._last[event] = self._events
        woken = [p for wakers, pods in self._unschedulable.items() if wakers & event for p in pods.values()]
        for pending in woken:
            self._retry(pending, now)
        return len(woken)

    def wake(self, uid: str, now: float) -> None:
        """Something was taken from the pod: it is tried again whatever its rejection was, or will be."""
        pending = self._pods.get(uid)
        if pending is None:
            return
        if pending.place == "unschedulable":
            self._retry(pending, now)
        elif pending.place == "work":
            pending.woken = True

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
        pending.place = ""
        return True

    def _retry(self, pending: Pending, now: float) -> None:
        """Active, unless its back-off is still running."""
        ready = pending.since + (self._backoff_policy.delay_s(pending.failures) if pending.failures else 0.0)
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
        heapq.heappush(self._active, (-pending.pod.priority, pending.due, pending.ticket, pending.pod.uid))

    def _leave(self, pending: Pending) -> None:
        if pending.place == "unschedulable":
            del self._unschedulable[pending.wakers][pending.pod.uid]
        if pending.place in self.counts and pending.place:
            self.counts[pending.place] -= 1
        pending.place = ""

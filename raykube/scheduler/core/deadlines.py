"""Deadlines: the pod whose deadline is nearest comes first, others use what it leaves, and what cannot be met is said.

A pod says when it must have ended and how long it takes (`api/deadlines`). The queue is ordered by deadline; a pod
without one counts as if it had to end some minutes after it came, so that nobody waits for ever. Where such a pod fits
nowhere now, the *forecast* looks at when running pods will have ended, as far as they say how long they take:

    node a   |== pod 1 ==|        |          a pod waits that needs two places for 20 s: it can start on b at :10,
             |===== pod 2 =====|  |          when pod 3 has ended, and the row is *booked* from then on
    node b   |= pod 3 =|.booked...|
             |         |..........|          a pod of 8 s may still run there (back-fill), one of 15 s may not
             now       :10        :30

Bookings are made anew, in order of deadlines, whenever another pod has to wait. A pod whose deadline cannot be met is
told the earliest time at which it could have ended, books nothing, and takes its turn among those without a deadline.
While there are bookings, one without a deadline whose turn has come books as well, before all others. Only resources
are forecast.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raykube.api import deadlines
from raykube.api.deadlines import DEADLINE, DURATION, REACHABLE, Verdict
from raykube.base.clock import parse_rfc3339, rfc3339
from raykube.scheduler.core.nodes import Mask, NodeTable

if TYPE_CHECKING:
    from raykube.scheduler.core.placed import Placed
    from raykube.scheduler.core.pod import Pod
    from raykube.scheduler.core.podclass import PodClass

Object = dict[str, Any]
FOREVER = float("inf")
UNKNOWN = "Unknown"
BOOKINGS_MAX = 32
ROWS_MAX = 128  # looked at in one forecast


class Deadline(NamedTuple):
    """What a pod says; times are seconds since the epoch."""

    at: float | None
    duration_s: float | None
    problem: str = ""
    told: str = ""  # the message of its condition


class Booking(NamedTuple):
    """A row from some time on, for one pod."""

    pod: "Pod"
    row: int
    start: float
    end: float


def deadline_of(obj: Object) -> Deadline | None:
    """Of a pod as the API has it."""
    annotations = obj["metadata"].get("annotations")
    if not annotations or not (DEADLINE in annotations or DURATION in annotations):
        return None
    conditions = (obj.get("status") or {}).get("conditions") or ()
    told = next((one.get("message", "") for one in conditions if one["type"] == REACHABLE), "")
    return Deadline(*deadlines.parse(annotations), told)


class Deadlines:
    """Bookings, and what pods with deadlines are told. `now` is set before decisions are asked for."""

    def __init__(self, nodes: NodeTable, on_row: "Callable[[int], Iterable[Placed]]") -> None:
        self._nodes = nodes
        self._on_row = on_row
        self.now = 0.0
        self.bookings: dict[str, Booking] = {}  # by uid; while there are any they narrow others' choice
        self._waiting: dict[str, tuple[Pod, PodClass]] = {}  # those that bookings are made for
        self._verdicts: dict[str, Verdict] = {}
        self._aged: set[str] = set()
        self._booked_at: tuple[int, int, float] | None = None

    def urgency(self, pod: "Pod") -> float | None:
        """The deadline by which the pod is ordered; None: it has its turn among those without."""
        deadline = pod.deadline
        if deadline is None or deadline.at is None or deadline.at - (deadline.duration_s or 0.0) < self.now:
            return None
        return deadline.at

    def settle(self, uid: str) -> bool:
        """The pod has a node, or is gone; whether that gave room to others."""
        self._waiting.pop(uid, None)
        self._verdicts.pop(uid, None)
        self._aged.discard(uid)
        return self.bookings.pop(uid, None) is not None

    def on_node_gone(self, row: int) -> None:
        """Its bookings are void."""
        self.bookings = {uid: one for uid, one in self.bookings.items() if one.row != row}

    def age(self, pod: "Pod") -> None:
        """The pod has waited for so long that it comes before all deadlines."""
        if self.bookings:
            self._aged.add(pod.uid)

    # Decisions

    def room(self, pod: "Pod") -> Mask:
        """The rows where the pod delays nobody who has booked."""
        allowed = np.ones(self._nodes.capacity, bool)
        ends = self.now + duration_of(pod)
        for booking in self.bookings.values():
            if booking.pod.uid == pod.uid or ends <= booking.start or not allowed[booking.row]:
                continue
            taken = self._taken(booking.row, booking.start, booking.end, pod.uid)
            allowed[booking.row] = self._fits(pod, booking.row, taken)
        return allowed

    def on_placed(self, pod: "Pod") -> None:
        """The pod was given a node, now."""
        deadline = pod.deadline
        if self._waiting:
            self._waiting.pop(pod.uid, None)
            self.bookings.pop(pod.uid, None)
        self._aged.discard(pod.uid)
        if deadline is not None:
            self._tell(pod, self.now + (deadline.duration_s or 0.0))

    def on_waits(self, pod: "Pod", pod_class: "PodClass") -> None:
        """The pod fits nowhere now: books for it, or tells it that its deadline cannot be met."""
        deadline = pod.deadline
        if pod.uid not in self._aged:
            if deadline is None:
                return
            if deadline.at is None or deadline.duration_s is None or deadline.problem:
                self._tell(pod, self.now)
                return
            if self.hopeless(pod) and self._verdicts[pod.uid].reason != UNKNOWN:
                return  # time only makes it worse
        known = pod.uid in self._waiting
        stamp = self._nodes.epoch, len(self._nodes.log), self.now
        room = BOOKINGS_MAX * (2 if pod.uid in self._aged else 1)
        if (known and stamp == self._booked_at) or (not known and len(self._waiting) >= room):
            return
        self._booked_at = stamp
        self._waiting[pod.uid] = pod, pod_class
        self.bookings.clear()
        for uid, (other, its_class) in sorted(self._waiting.items(), key=lambda one: self._rank(one[1][0])):
            if not self._book(other, its_class):
                del self._waiting[uid]

    def hopeless(self, pod: "Pod") -> bool:
        """Whether the pod was found unable to meet its deadline."""
        found = self._verdicts.get(pod.uid)
        return found is not None and not found.reachable

    def news(self, pod: "Pod") -> Verdict | None:
        """What the pod is to be told that it does not know yet."""
        found = self._verdicts.get(pod.uid)
        if found is None or pod.deadline is None or found.message == pod.deadline.told:
            return None
        return found if not found.reachable or pod.deadline.told else None

    def _book(self, pod: "Pod", pod_class: "PodClass") -> bool:
        """Books the row where the pod can end first; False when that is too late."""
        duration_s = duration_of(pod)
        best: tuple[float, int] | None = None
        for row in self._candidates(pod, pod_class):
            start = self._earliest(pod, row, duration_s)
            if best is None or start < best[0]:
                best = start, row
            if start <= self.now:
                break
        start, row = best or (FOREVER, -1)
        end = start + duration_s
        if pod.deadline is not None:
            self._tell(pod, end)
        if start == FOREVER or (pod.uid not in self._aged and end > self._latest(pod)):
            return False
        self.bookings[pod.uid] = Booking(pod, row, start, end)
        return True

    def _rank(self, pod: "Pod") -> tuple[int, float]:
        """Sorts by priority, then by deadline."""
        return -pod.priority, -FOREVER if pod.uid in self._aged else self._latest(pod)

    @staticmethod
    def _latest(pod: "Pod") -> float:
        at = None if pod.deadline is None else pod.deadline.at
        return FOREVER if at is None else at

    def _tell(self, pod: "Pod", ends: float) -> None:
        """Notes whether the deadline can be met when the pod ends at the earliest at `ends`."""
        deadline = pod.deadline
        assert deadline is not None
        if deadline.problem:
            verdict = deadlines.unreadable(deadline.problem)
        elif deadline.at is None:
            return
        elif deadline.at < self.now:
            verdict = deadlines.passed(deadline.at)
        elif ends <= deadline.at:
            verdict = deadlines.reachable(deadline.at)
        elif ends < FOREVER:
            verdict = deadlines.unreachable(deadline.at, ends)
        else:  # those that run do not say how long they take
            text = "there is no room, and nothing that runs says when it ends"
            verdict = Verdict(False, UNKNOWN, f"the deadline {rfc3339(deadline.at)} may not be met: {text}")
        self._verdicts[pod.uid] = verdict

    # Forecast

    def _candidates(self, pod: "Pod", pod_class: "PodClass") -> list[int]:
        """Rows that could ever take the pod, those with most room first."""
        nodes = self._nodes
        pod_class.catch_up()
        fits = pod_class.suitable & (nodes.pods_allowed > 0)
        free = np.zeros(nodes.capacity)
        for name, needed in pod.needs.resources:
            index = nodes.index_of(name)
            fits = fits & (nodes.allocatable[index] >= needed)
            free = np.minimum(free, (nodes.allocatable[index] - nodes.requested[index] - needed) / needed)
        rows = np.flatnonzero(fits)
        if len(rows) > ROWS_MAX:
            rows = rows[np.argsort(-free[rows], kind="stable")[:ROWS_MAX]]
        return [int(row) for row in rows]

    def _earliest(self, pod: "Pod", row: int, duration_s: float) -> float:
        """When the pod could start on the row and stay for as long as it takes; FOREVER: nobody knows."""
        ends = {self._end(one) for one in self._on_row(row)}
        ends |= {one.end for one in self.bookings.values() if one.row == row}
        for start in sorted({self.now, *(end for end in ends if self.now < end < FOREVER)}):
            if self._fits(pod, row, self._taken(row, start, start + duration_s, pod.uid)):
                return start
        return FOREVER

    def _taken(self, row: int, start: float, end: float, but: str) -> dict[str, int]:
        """What is used or booked of a row at some moment of that time, by name; pods under ""."""
        taken = {"": 0}
        users = [one.pod for one in self._on_row(row) if self._end(one) > start]
        users += [
            one.pod
            for one in self.bookings.values()
            if one.row == row and one.pod.uid != but and one.start < end and one.end > start
        ]
        for user in users:
            taken[""] += 1
            for name, needed in user.needs.resources:
                taken[name] = taken.get(name, 0) + needed
        return taken

    def _fits(self, pod: "Pod", row: int, taken: dict[str, int]) -> bool:
        nodes = self._nodes
        if taken[""] >= nodes.pods_allowed.item(row):
            return False
        return all(
            taken.get(name, 0) + needed <= nodes.allocatable.item(nodes.index_of(name), row)
            for name, needed in pod.needs.resources
        )

    def _end(self, placed: "Placed") -> float:
        """When a pod that runs will have ended; one that takes longer than it said may end any time now."""
        began = parse_rfc3339(placed.started) if placed.started else placed.since
        end = began + duration_of(placed.pod)
        return max(end, self.now + 1.0)


def duration_of(pod: "Pod") -> float:
    """How long the pod says that it takes; FOREVER when it does not."""
    deadline = pod.deadline
    return FOREVER if deadline is None or deadline.duration_s is None else deadline.duration_s

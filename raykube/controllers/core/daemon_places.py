"""Where the pods of a DaemonSet are, node by node, kept up to date by what changes.

Vocabulary: a **place** is what a DaemonSet has on one node and has to do there; the **ledger** is all places of one
state of a DaemonSet (its template, its update strategy), with their sums. What is marked are nodes: a pod's change
costs one node, whatever the size of the cluster. In a ledger that is made anew the back-off of failed pods starts over.

A place's **stage** says what the roll-out may do with it, by its pods that are not being deleted (o = of an old
template, n = of the present one, * = available):

    MISSING  none yet       ENDING  only some that are being deleted
    NEW      n              NEW_AVAILABLE   n*
    OLD      o              OLD_AVAILABLE   o*
    BOTH     n o, n o*      BOTH_AVAILABLE  n* o, n* o*
    EXCESS   n n, o o ...
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from raykube.api.selectors import LabelSelector
from raykube.base.backoff import Backoff
from raykube.controllers.core import claims, intstr, kinds, pods
from raykube.controllers.core import controller_revisions as revisions
from raykube.controllers.core.daemon_pods import NEVER, DaemonTemplate, Verdict
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.patches import uid_of, version_of
from raykube.controllers.core.plan import Event, Obj, View

FAILED_BACKOFF = Backoff(initial_s=1.0, max_s=15 * 60.0)


class Stage(Enum):
    """See the module's docstring."""

    IDLE = "idle"  # no pod, and none wanted
    MISSING = "missing"
    ENDING = "ending"
    NEW = "new"
    NEW_AVAILABLE = "new available"
    OLD = "old"
    OLD_AVAILABLE = "old available"
    BOTH = "both"
    BOTH_AVAILABLE = "both, new available"
    EXCESS = "excess"


@dataclass(slots=True)
class Place:
    """One node. `doomed` pods go whatever the roll-out; `strays` are owned and no longer selected."""

    verdict: Verdict
    stage: Stage = Stage.IDLE
    exists: bool = True  # the node does
    old: Obj | None = None
    new: Obj | None = None
    scheduled: bool = False
    ready: bool = False
    available: bool = False
    updated: bool = False
    serving: bool = False  # its old pod is available; where there is none, its new one
    doomed: list[Obj] = field(default_factory=list)
    strays: list[Obj] = field(default_factory=list)
    notes: list[Event] = field(default_factory=list)
    hashes: tuple[str, ...] = ()
    look_again_at: float | None = None

    def look_again(self, at: float) -> None:
        """Something becomes true by itself at that time."""
        if self.look_again_at is None or at < self.look_again_at:
            self.look_again_at = at

    @property
    def has_work(self) -> bool:
        return bool(self.doomed or self.strays)


@dataclass(slots=True)
class _Failures:
    """Failed pods deleted in a row on one node, and when the last one was."""

    count: int
    last_at: float

    def until(self) -> float:
        """When the next failed pod may be deleted."""
        return self.last_at + FAILED_BACKOFF.delay_s(self.count)


class Ledger(Keeper):
    """All places of one state of a DaemonSet."""

    def __init__(self, view: View, daemon_set: Obj, hash_value: str) -> None:
        spec = daemon_set["spec"]
        self.uid, self.hash = uid_of(daemon_set), hash_value
        nodes = (node["metadata"]["name"] for node in view.list(kinds.NODES))
        super().__init__((*nodes, *map(pods.target_node, view.by_index(kinds.PODS, "controller", self.uid))))
        self.generation = daemon_set["metadata"].get("generation", 0)
        self.template = DaemonTemplate(daemon_set, hash_value)
        self.places: dict[str, Place] = {}
        self.stages: dict[Stage, dict[str, None]] = {stage: {} for stage in Stage}
        self.working: dict[str, None] = {}  # nodes with doomed or stray pods
        self.sums: Counter[str] = Counter()
        self.hashes: Counter[str] = Counter()
        self.last_uids: dict[str, str] = {}  # node → the newest pod that was seen there
        self._daemon_set = daemon_set  # for events: any state of it will do
        self._selector = LabelSelector.from_object(spec.get("selector") or {})
        self._min_ready_s = int(spec.get("minReadySeconds") or 0)
        self._surges = intstr.resolve(rolling(daemon_set).get("maxSurge") or 0, 1, round_up=True) > 0
        self._failures: dict[str, _Failures] = {}

    def is_for(self, daemon_set: Obj, hash_value: str) -> bool:
        """Whether what was decided here still holds for `daemon_set`."""
        state = (uid_of(daemon_set), daemon_set["metadata"].get("generation", 0), hash_value)
        return state == (self.uid, self.generation, self.hash)

    # -- what is observed

    def sees(self, node: Obj | None) -> Verdict | None:
        """What it thinks of a state of a node; None when there is none."""
        return self.template.verdict(node) if node is not None else None

    def note_failure(self, node: str, now: float) -> None:
        """A failed pod of this node was deleted: the next one has to wait longer."""
        before = self._failures.get(node)
        if before is None or now - before.last_at > 2 * FAILED_BACKOFF.max_s:
            self._failures[node] = _Failures(1, now)
        else:
            before.count, before.last_at = before.count + 1, now

    # -- keeping up

    def refresh(self, view: View, now: float) -> float | None:
        """Looks at the marked nodes, and those whose time has come. Seconds until the next time, None for never."""
        for name in self._take(now):
            self._replace(name, self._look(view, name, now))
        return self._wait_s(now)

    def _replace(self, name: str, place: Place | None) -> None:
        before = self.places.pop(name, None)
        if before is not None:
            self._count(before, -1)
            self.stages[before.stage].pop(name, None)
        self.working.pop(name, None)
        if place is None:
            self._failures.pop(name, None)
            self.last_uids.pop(name, None)
            return
        self.places[name] = place
        self._count(place, 1)
        self.stages[place.stage][name] = None
        if place.has_work:
            self.working[name] = None
        if place.look_again_at is not None:
            self._mark_at(name, place.look_again_at)

    def _count(self, place: Place, sign: int) -> None:
        self.sums["serving"] += sign * place.serving
        for hash_value in place.hashes:
            self.hashes[hash_value] += sign
        if not place.exists:
            return
        if not place.verdict.run:
            self.sums["numberMisscheduled"] += sign * place.scheduled
            return
        self.sums["desiredNumberScheduled"] += sign
        self.sums["currentNumberScheduled"] += sign * place.scheduled
        self.sums["numberReady"] += sign * place.ready
        self.sums["numberAvailable"] += sign * place.available
        self.sums["updatedNumberScheduled"] += sign * place.updated

    # -- one node

    def _look(self, view: View, name: str, now: float) -> Place | None:
        """What is there; None when nothing is, and the node neither."""
        node = view.get(kinds.NODES, "", name) if name else None
        owned = view.by_index(kinds.PODS, "daemon", f"{self.uid}/{name}")
        if node is None and not owned:
            return None
        place = Place(self.sees(node) or NEVER, exists=node is not None)
        if owned:
            self.last_uids[name] = uid_of(max(owned, key=version_of))
        mine = [pod for pod in owned if self._selector.matches(claims.labels_of(pod))]
        place.strays = [pod for pod in owned if not any(pod is each for each in mine) and not pods.is_terminating(pod)]
        place.hashes = tuple({claims.labels_of(pod).get(revisions.POD_LABEL, "") for pod in mine} - {""})
        present = sorted((pod for pod in mine if not _is_over(pod)), key=_oldest_first)
        if name:  # a pod that nothing binds to a node is nobody's
            self._sort_out(place, name, present, now)
            self._stage(place, present, now)
        return place

    def _sort_out(self, place: Place, name: str, present: Sequence[Obj], now: float) -> None:
        """What goes whatever the roll-out, and what the status counts."""
        staying = [pod for pod in present if not pods.is_terminating(pod)]
        if not place.exists:
            place.doomed = [pod for pod in staying if not pods.node_name(pod)]  # never bound: nobody else deletes it
            return
        place.scheduled = bool(present)
        if present and place.verdict.run:
            oldest = present[0]
            place.ready = pods.is_ready(oldest)
            place.available = self._is_available(place, oldest, now)
            place.updated = self.template.is_of(oldest)
        if not place.verdict.stay:
            place.doomed = staying
            return
        running = []
        for pod in staying:
            if pods.is_terminal(pod):
                self._end(place, name, pod, now)
            else:
                running.append(pod)
        place.doomed += self._surplus(place, running, now)

    def _end(self, place: Place, name: str, pod: Obj, now: float) -> None:
        """A pod that has ended makes room for another one: at once, or after the back-off if it keeps failing."""
        meta = pod["metadata"]
        what = f"{meta.get('namespace', '')}/{meta['name']} on node {name}"
        if pods.phase(pod) == "Succeeded":
            message = f"Found succeeded daemon pod {what}, will try to delete it"
            place.notes.append(Event(self._daemon_set, "Normal", "SucceededDaemonPod", message))
            place.doomed.append(pod)
            return
        failures = self._failures.get(name)
        if failures is not None and now < failures.until():
            place.look_again(failures.until())
            return
        message = f"Found failed daemon pod {what}, will try to kill it"
        place.notes.append(Event(self._daemon_set, "Warning", "FailedDaemonPod", message))
        place.doomed.append(pod)

    def _surplus(self, place: Place, running: Sequence[Obj], now: float) -> list[Obj]:
        """The oldest pod stays. With a surge an old and a new one stay together until the new one is available."""
        if not self._surges or len(running) < 2:
            return list(running[1:])
        new = [pod for pod in running if self.template.is_of(pod)]
        old = [pod for pod in running if not self.template.is_of(pod)]
        surplus = new[1:] + old[1:]
        if new and old and (not pods.is_ready(old[0]) or self._is_available(place, new[0], now)):
            surplus.append(old[0])
        return surplus

    def _is_available(self, place: Place, pod: Obj, now: float) -> bool:
        wait_s = pods.available_in(pod, self._min_ready_s, now)
        if wait_s:
            place.look_again(now + wait_s)
        return wait_s == 0

    def _stage(self, place: Place, present: Sequence[Obj], now: float) -> None:
        staying = [pod for pod in present if not pods.is_terminating(pod)]
        new = [pod for pod in staying if self.template.is_of(pod)]
        old = [pod for pod in staying if not self.template.is_of(pod)]
        if not present:
            place.stage = Stage.MISSING if place.verdict.run else Stage.IDLE
        elif not staying:
            place.stage = Stage.ENDING
        elif len(new) > 1 or len(old) > 1:
            place.stage = Stage.EXCESS
        else:
            place.new, place.old = new[0] if new else None, old[0] if old else None
            new_serves = bool(new) and self._is_available(place, new[0], now)
            old_serves = bool(old) and self._is_available(place, old[0], now)
            place.serving = old_serves if old else new_serves
            if new and old:
                place.stage = Stage.BOTH_AVAILABLE if new_serves else Stage.BOTH
            elif new:
                place.stage = Stage.NEW_AVAILABLE if new_serves else Stage.NEW
            else:
                place.stage = Stage.OLD_AVAILABLE if old_serves else Stage.OLD


def rolls(daemon_set: Obj) -> bool:
    """Whether a new template replaces pods by itself."""
    return ((daemon_set["spec"].get("updateStrategy") or {}).get("type") or "RollingUpdate") == "RollingUpdate"


def rolling(daemon_set: Obj) -> Obj:
    """`updateStrategy.rollingUpdate`; {} when the strategy is OnDelete."""
    return ((daemon_set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}) if rolls(daemon_set) else {}


def _is_over(pod: Obj) -> bool:
    """Whether the pod has ended and only waits to be removed: there is room for the next one."""
    return pods.is_terminal(pod) and pods.is_terminating(pod)


def _oldest_first(pod: Obj) -> tuple[bool, str, str]:
    meta = pod["metadata"]
    return (not pods.node_name(pod), meta.get("creationTimestamp") or "", meta["name"])

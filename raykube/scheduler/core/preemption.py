"""Preemption: a pod that fits nowhere takes the room of pods of lower priority (upstream's DefaultPreemption).

    candidates   nodes whose rejection evictions could lift
    victims      of a node: all pods of lower priority leave, then as many as fit come back, those that would break a
                 disruption budget first, the more important ones (priority, then age) before others
    choice       the node with the fewest broken budgets, the lowest highest victim, the lowest sum of priorities, the
                 fewest victims, the latest start of the most important ones; of equal nodes the lowest row

Columns say for every node at once how far up the priorities one must go (the *level*); nodes of the lowest level are
looked at one by one, a tenth of all and 100 at least (upstream's arguments), and what was found for a class of pods is
kept until something changes on the node. Where more than resources counts (ports, volumes, spreading, company), victims
are taken out of the tables and put back, and the filters asked each time.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.arguments import Arguments
from raykube.scheduler.core.diagnosis import NEVER_PREEMPTS, NO_VICTIMS, NOT_HELPFUL, Diagnosis, histogram, no_way_out
from raykube.scheduler.core.nodes import Floats, Ints, Mask, NodeTable
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.preemption_budgets import Budgets
from raykube.scheduler.core.preemption_nominated import NONE, Nominations
from raykube.scheduler.core.preemption_ranks import Ranks, importance, start_of
from raykube.scheduler.core.preemption_roster import PRIORITY_OFFSET, Roster, in_order
from raykube.scheduler.core.preemption_trials import Company, Slack, Trial

Resources = tuple[tuple[str, int], ...]

TRIALS_MAX = 1000  # nodes looked at one by one for one pod
VIEWS_MAX = 64
ROSTERS_MAX = 4
ONE_BY_ONE_MAX = 8  # more nodes are looked at at once where only resources count
TERMINATING = "not eligible due to a terminating pod on the nominated node."


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who is to leave a node for a pod (others may be on their way already), and who loses the promise of that node."""

    node: str
    victims: tuple[Pod, ...]
    cleared: tuple[Pod, ...]
    violations: int = 0


class _View:
    """What was found for the pods of one class and priority, per row; good until the row, its pods, a budget change."""

    def __init__(self) -> None:
        self.epochs = (-1, -1)
        self.read = (0, 0)
        self.budgets = -1
        self.known: Mask = np.zeros(0, bool)

    def catch_up(self, nodes: NodeTable, ranks: Ranks | None, budgets: Budgets) -> None:
        epoch, log = (ranks.epoch, ranks.log) if ranks is not None else (-1, [])
        epochs, read = (nodes.epoch, epoch), (len(nodes.log), len(log))
        if self.epochs != epochs or self.budgets != budgets.revised or len(self.known) != nodes.capacity:
            self.epochs, self.budgets = epochs, budgets.revised
            self.known = np.zeros(nodes.capacity, bool)
            self.victims: dict[int, list[Placed]] = {}
            self.keys = np.zeros((5, nodes.capacity))
        elif self.read != read:
            changed = [entry >> 1 for entry in nodes.log[self.read[0] :]] + log[self.read[1] :]
            self.known[changed] = False
            for row in changed:
                self.victims.pop(row, None)
        self.read = read

    def set_all(self, rows: NDArray[np.intp], keys: Floats) -> int:
        """The keys of many rows; how many have victims. Who they are is found out of the best row only."""
        self.known[rows] = True
        self.keys[:, rows] = keys
        return int(np.count_nonzero(keys[0] < np.inf))

    def set(self, row: int, victims: list[Placed], violations: int) -> None:
        self.known[row] = True
        self.victims[row] = victims
        if not victims:
            self.keys[:, row] = np.inf
            return
        highest = victims[0].pod.priority
        started = min(start_of(each.started) for each in victims if each.pod.priority == highest)
        total = sum(each.pod.priority + PRIORITY_OFFSET for each in victims)
        self.keys[:, row] = violations, highest, total, len(victims), -started

    @property
    def answered(self) -> Mask:
        """The rows where some victims suffice."""
        answered: Mask = self.known & (self.keys[0] < np.inf)
        return answered

    def best(self, candidates: Mask) -> int:
        """The row to preempt on, or NONE."""
        rows = np.flatnonzero(candidates & self.answered)
        for key in self.keys:
            if len(rows) < 2:
                break
            values = key[rows]
            rows = rows[values == values.min()]
        return int(rows[0]) if len(rows) else NONE


class Preemption:
    """Decides who leaves for whom, and remembers what was promised."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.budgets = Budgets()
        self.nominations = Nominations(nodes)
        self.ranks: Ranks | None = None  # the pods that run, once somebody asks
        self._leaving: set[str] = set()  # victims whose deletion was decided
        self._views: OrderedDict[tuple[bytes, int], _View] = OrderedDict()
        self._rosters: OrderedDict[int, Roster] = OrderedDict()

    # Who runs

    def follow(self, placed: list[Placed]) -> None:
        """Counts from now on who runs where: only clusters with several priorities need that."""
        self.ranks = Ranks(self._nodes, placed)
        self._rosters.clear()
        self._views.clear()

    def remove(self, placed: Placed) -> None:
        self._leaving.discard(placed.pod.uid)
        if self.ranks is not None:
            self.ranks.remove(placed)

    def on_started(self, placed: Placed) -> None:
        """Of pods that are otherwise equal the youngest leave."""
        if self.ranks is not None:
            self.ranks.touch(placed.row)

    def on_row(self, row: int) -> Iterable["Placed"]:
        """The pods of a row, once they are followed."""
        assert self.ranks is not None
        return self.ranks.on(row)

    def spare(self, uid: str) -> None:
        """A victim could not be deleted."""
        self._leaving.discard(uid)

    def cancel(self, eviction: Eviction) -> None:
        """An eviction that was decided on is not carried out."""
        self._leaving.difference_update(each.uid for each in eviction.victims)
        for each in eviction.cleared:
            self.nominations.set(each, eviction.node)

    # Decisions

    def after(
        self,
        pod: Pod,
        found: Diagnosis,
        hopeless: Mask,
        resources: Resources,
        company: Company | None,
        arguments: Arguments,
    ) -> Diagnosis:
        """The diagnosis of a pod that fits nowhere, with an eviction that helps, or the reason why there is none.

        `resources`: what it needs. `company` None: nothing else counts.
        """
        refusal = self._refusal(pod, hopeless)
        if refusal:
            return replace(found, message=f"{found.message} {no_way_out(pod.needs, refusal)}")
        wanted = max(1, arguments.candidates_min, self._nodes.count * arguments.candidates_min_percent // 100)
        row, victims, violations, reasons = self._find(pod, hopeless, resources, company, wanted)
        if row == NONE:
            nodes = self._nodes.count
            text = f"0/{nodes} nodes are available: {histogram(reasons)}."
            # What was promised is not worth waiting for.
            unpromised = bool(self.nominations.take(pod.uid) or pod.nominated)
            return replace(found, message=f"{found.message} {no_way_out(pod.needs, text)}", unpromised=unpromised)
        node = self._nodes.names[row]
        cleared = tuple(each for each in self.nominations.on(node) if each.priority < pod.priority)
        for each in cleared:
            self.nominations.take(each.uid)
        self.nominations.set(pod, node)
        gone = tuple(each.pod for each in victims if not self._is_leaving(each))
        self._leaving.update(each.uid for each in gone)
        return replace(found, eviction=Eviction(node, gone, cleared, violations))

    def _refusal(self, pod: Pod, hopeless: Mask) -> str:
        if pod.needs.never_preempts:
            return NEVER_PREEMPTS
        row = self.nominations.row_of(pod.uid)
        return TERMINATING if row != NONE and not hopeless[row] and self.awaits_victims(pod) else ""

    def awaits_victims(self, pod: Pod) -> bool:
        """Whether pods of lower priority are on their way out of the node that the pod was promised."""
        row = self.nominations.row_of(pod.uid)
        if row == NONE or self.ranks is None:
            return False
        return any(each.pod.priority < pod.priority and self._is_leaving(each) for each in self.ranks.on(row))

    def _is_leaving(self, placed: Placed) -> bool:
        return placed.pod.terminating or placed.pod.uid in self._leaving

    def _find(
        self, pod: Pod, hopeless: Mask, resources: Resources, company: Company | None, wanted: int
    ) -> tuple[int, list[Placed], int, Counter[str]]:
        nodes, ranks = self._nodes, self.ranks
        reasons: Counter[str] = Counter({NOT_HELPFUL: int(np.count_nonzero(nodes.live & hopeless))})
        possible = nodes.live & ~hopeless
        lower = ranks.below(pod.priority) if ranks is not None else []
        inhabited = np.zeros(nodes.capacity, bool)
        for use in lower:
            inhabited |= use.pods > 0
        reasons[NO_VICTIMS] = int(np.count_nonzero(possible & ~inhabited))
        candidates = possible & inhabited
        view = self._view(pod, company)
        tried = 0
        short: list[tuple[str, Mask]] = []
        slack, room = self._free(pod, resources)
        reached = np.zeros(nodes.capacity, bool)
        for level, use in enumerate(lower):
            for _, index, free in slack:
                free += use.requested[index]
            room += use.pods
            short = [("Too many pods", room < 1)] + [(f"Insufficient {name}", free < 0) for name, _, free in slack]
            fits = candidates & ~reached
            for _, mask in short:
                fits &= ~mask
            reached |= fits
            answers = int(np.count_nonzero(view.answered & reached))
            rows = np.flatnonzero(fits & ~view.known)
            if company is None and min(len(rows), wanted - answers) > ONE_BY_ONE_MAX:
                roster, above = self._roster(pod.priority), lower[level + 1 :]
                free_then = [(index, free + sum(each.requested[index] for each in above)) for _, index, free in slack]
                room_then = room + sum(each.pods for each in above)
                while answers < wanted and tried < TRIALS_MAX and len(rows):
                    some, rows = np.split(rows, [min(wanted - answers, TRIALS_MAX - tried)])
                    tried += len(some)
                    answers += view.set_all(some, roster.judge(some, free_then, room_then))
            for row in rows.tolist():
                if answers >= wanted or tried >= TRIALS_MAX:
                    break
                tried += 1
                answers += self._look(view, pod, row, resources, company, reasons)
            if answers >= wanted or tried >= TRIALS_MAX:
                break
        best = view.best(reached)
        if best == NONE:
            if company is not None:  # the filters have more to say than resources
                for row in np.flatnonzero(candidates & ~reached)[: TRIALS_MAX - tried].tolist():
                    self._look(view, pod, row, resources, company, reasons)
                    candidates[row] = False
            for text, mask in short:
                count = int(np.count_nonzero(candidates & ~reached & mask))
                if count:
                    reasons[text] += count
            return NONE, [], 0, reasons
        if best not in view.victims:
            self._look(view, pod, best, resources, company, reasons)
        return best, view.victims[best], int(view.keys[0, best]), reasons

    def _roster(self, priority: int) -> Roster:
        assert self.ranks is not None
        roster = self._rosters.get(priority)
        if roster is None:
            roster = self._rosters[priority] = Roster(self._nodes, self.ranks, self.budgets, priority)
            if len(self._rosters) > ROSTERS_MAX:
                self._rosters.popitem(last=False)
        self._rosters.move_to_end(priority)
        return roster

    def _view(self, pod: Pod, company: Company | None) -> _View:
        """What is known already; nothing where other nodes' pods count, or where the pod itself has a promise."""
        if company is not None or self.nominations.row_of(pod.uid) != NONE:
            view = _View()
        else:
            key = pod.needs.key, pod.priority
            view = self._views.get(key) or _View()
            self._views[key] = view
            self._views.move_to_end(key)
            if len(self._views) > VIEWS_MAX:
                self._views.popitem(last=False)
        view.catch_up(self._nodes, self.ranks, self.budgets)
        return view

    def _free(self, pod: Pod, resources: Resources) -> tuple[list[tuple[str, int, Ints]], Ints]:
        """Per resource what each row has left beside the pod, and how many pods it can take; both may be negative."""
        nodes = self._nodes
        reserved = self.nominations.reserved(pod)
        slack = []
        for name, needed in resources:
            index = nodes.index_of(name)
            free = nodes.allocatable[index] - nodes.requested[index] - needed
            if reserved is not None and index < len(reserved[0]):
                free = free - reserved[0][index]
            slack.append((name, index, free))
        room = nodes.pods_allowed - nodes.pod_count
        if reserved is not None:
            room = room - reserved[1]
        return slack, room

    def _look(
        self, view: _View, pod: Pod, row: int, resources: Resources, company: Company | None, reasons: Counter[str]
    ) -> bool:
        """Chooses the victims of one row; False when none suffice."""
        assert self.ranks is not None
        lower = [each for each in self.ranks.on(row) if each.pod.priority < pod.priority]
        candidates = in_order(lower, self.budgets)
        trial: Slack | Trial
        trial = Slack(*self._free_on(pod, row, resources), lower) if company is None else Trial(company, row, lower)
        why = trial.start()
        if why is not None:
            reasons.update(why)
            trial.end()
            view.set(row, [], 0)
            return False
        victims = []
        violations = 0
        for each, violates in candidates:
            if not trial.keep(each):
                victims.append(each)
                violations += violates
        trial.end()
        victims.sort(key=importance)
        view.set(row, victims, violations)
        return bool(victims)

    def _free_on(self, pod: Pod, row: int, resources: Resources) -> tuple[dict[str, int], int]:
        """`_free` of one row."""
        nodes = self._nodes
        slack = {
            name: nodes.allocatable.item(nodes.index_of(name), row)
            - nodes.requested.item(nodes.index_of(name), row)
            - needed
            for name, needed in resources
        }
        room = nodes.pods_allowed.item(row) - nodes.pod_count.item(row)
        for other in self.nominations.on(nodes.names[row]):
            if other.uid != pod.uid and other.priority >= pod.priority:
                room -= 1
                for name, needed in other.needs.resources:
                    if name in slack:
                        slack[name] -= needed
        return slack, room

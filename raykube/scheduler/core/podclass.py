"""A class of identical pods: which rows can take one more of them, and how much each is liked.

Evaluated once over all rows, then caught up row by row from the node table's log, so that placing a pod of a class of
thousands costs one arg-max and one row. The score is upstream's with its default weights:

    1 x least allocated + 1 x balanced allocation + 3 x few disliked taints + 2 x preferred affinity + 2 x spread

each 0 to 100; they are not rounded to integers, so fewer ties. Of equal nodes the lowest row is taken.
"""

import math

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core import spread
from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.requirements import CPU, MEMORY, Requirements
from raykube.scheduler.core.spread import Floats, Group
from raykube.scheduler.core.taints import UNSCHEDULABLE, disliked, tolerates, untolerated
from raykube.scheduler.core.terms import Rows, matches_affinity, preference

NONE = -1
WEIGHT_TAINTS, WEIGHT_AFFINITY, WEIGHT_SPREAD = 3.0, 2.0, 2.0
EVERY = slice(None)


class PodClass:
    """The view of one class on the nodes. `pick` → the best row or NONE."""

    def __init__(self, nodes: NodeTable, needs: Requirements, hard: list[Group], soft: list[Group]) -> None:
        self.nodes = nodes
        self.needs = needs
        self.hard_groups = hard
        self.soft_groups = soft
        self._soft = spread.SoftSpread(needs, soft) if soft else None
        self._soft_stale = True  # nodes, or which of them are feasible, changed
        self._epoch = -1
        self._read = 0  # entries of the log taken in
        self._judged: list[tuple[bool, int]] = []  # by taint set: tolerated, disliked taints
        self._wanted: list[tuple[int, int]] = []
        self._compare = any(needs.preferred_terms)
        self._allocate(0)

    def _allocate(self, rows: int) -> None:
        self.affinity: Mask = np.zeros(rows, bool)
        self.tolerated: Mask = np.zeros(rows, bool)
        self.suitable: Mask = np.zeros(rows, bool)  # by what the node is
        self.feasible: Mask = np.zeros(rows, bool)  # and by what is free; hard spread is judged at each pick
        self._disliked: NDArray[np.float64] = np.zeros(rows)
        self._liked: NDArray[np.float64] = np.zeros(rows)
        self._usage: Floats = np.zeros(rows)  # scores of resources
        self._total: Floats = np.full(rows, -np.inf)
        self._relative = False  # some raw score must be scaled by the most of all feasible nodes
        self._rescale = True

    def pick(self, permitted: Mask | None = None) -> int:
        """The row for the next pod of the class, or NONE; of the `permitted` rows, if given."""
        self.catch_up()
        if self._rescale:
            self._scale()
        total = self._total
        if self.needs.hard:
            fits = self.feasible & self.hard_mask()
            total = np.where(fits, total, -np.inf)
        else:
            fits = self.feasible
        if permitted is not None:
            fits = fits & permitted
            total = np.where(fits, total, -np.inf)
        if self._soft is not None:
            # Hard constraints and other pods' terms change which nodes are compared with every pod.
            narrowed = bool(self.needs.hard) or permitted is not None
            if self._soft_stale or narrowed or not self._soft.catch_up():
                self._soft.rebuild(self.nodes, fits, self.affinity, self.tolerated)
                self._soft_stale = narrowed
            total = total + WEIGHT_SPREAD * self._soft.scores()
        row = int(total.argmax())
        return row if total[row] > -math.inf else NONE

    def hard_mask(self) -> Mask:
        return spread.allowed(self.nodes, self.needs, self.hard_groups, self.affinity, self.tolerated)

    # Keeping up with the nodes

    def catch_up(self) -> None:
        """Takes in what changed since the last time."""
        nodes = self.nodes
        log = nodes.log
        if self._epoch != nodes.epoch:
            if len(self.feasible) != nodes.capacity:
                self._allocate(nodes.capacity)
            self._judge_node(EVERY)
            self._judge_usage()
            self._epoch, self._read = nodes.epoch, len(log)
            return
        if self._read == len(log):
            return
        entries = sorted(set(log[self._read :]))
        # All rows at once cost as much as this many one by one.
        if len(entries) > 8 + nodes.count // 80:
            if any(entry & 1 for entry in entries):
                self._judge_node(EVERY)
            self._judge_usage()
            self._read = len(log)
            return
        for entry in entries:
            row = entry >> 1
            if entry & 1:
                self._judge_node(np.array([row]))
            self._judge_row(row)
        self._read = len(log)

    def _judge_node(self, rows: Rows) -> None:
        """What depends on the node alone: labels and taints."""
        nodes, needs = self.nodes, self.needs
        for taints in nodes.taints.sets[len(self._judged) :]:
            self._judged.append((untolerated(taints, needs.tolerations) is None, disliked(taints, needs.tolerations)))
        codes = nodes.taint_set[rows]
        self.tolerated[rows] = np.array([ok for ok, _ in self._judged])[codes]
        self._disliked[rows] = np.array([count for _, count in self._judged], np.float64)[codes]
        self.affinity[rows] = matches_affinity(nodes, needs, rows)
        suitable = nodes.live[rows] & self.tolerated[rows] & self.affinity[rows]
        if not self.enters_unschedulable:
            suitable &= ~nodes.unschedulable[rows]
        self.suitable[rows] = suitable
        if self._compare:
            self._liked[rows] = preference(nodes, needs, rows)
        self._relative = bool(self._disliked.any() or self._liked.any())
        self._rescale = self._soft_stale = True

    @property
    def enters_unschedulable(self) -> bool:
        return any(tolerates(toleration, UNSCHEDULABLE) for toleration in self.needs.tolerations)

    def _judge_usage(self) -> None:
        """All rows at once: what is free, and the scores of resources."""
        nodes, needs = self.nodes, self.needs
        self._wanted = [(nodes.index_of(name), needed) for name, needed in needs.resources]
        feasible = self.suitable & (nodes.pod_count < nodes.pods_allowed)
        for index, needed in self._wanted:
            feasible &= nodes.requested[index] + needed <= nodes.allocatable[index]
        if needs.host_ports:
            for row in np.flatnonzero(feasible):
                feasible[row] = not nodes.port_conflict(int(row), needs.host_ports)
        if not np.array_equal(feasible, self.feasible):
            self._soft_stale = True
        self.feasible = feasible
        self._usage = self._usage_scores()
        self._rescale = True

    def _usage_scores(self) -> Floats:
        nodes, needs = self.nodes, self.needs
        size = nodes.allocatable[:2].astype(np.float64)
        known = size > 0
        safe = np.where(known, size, 1.0)
        extra = np.array([[needs.nonzero_cpu], [needs.nonzero_memory]], np.float64)
        free = np.where(known, np.maximum(0.0, 1.0 - (nodes.nonzero + extra) / safe), 0.0)
        kinds = np.maximum(known.sum(axis=0), 1)
        least: Floats = 100.0 * free.sum(axis=0) / kinds
        if needs.best_effort:
            return least
        wanted = dict(needs.resources)
        more = np.array([[wanted.get(CPU, 0)], [wanted.get(MEMORY, 0)]], np.float64)
        used = np.minimum(1.0, (nodes.requested[:2] + more) / safe)
        balanced = np.where(known.all(axis=0), 100.0 * (1.0 - np.abs(used[0] - used[1]) / 2), 100.0)
        return least + balanced

    def _judge_row(self, row: int) -> None:
        """One row after a placement, in plain Python: numpy's calls cost more than the arithmetic of one node."""
        nodes = self.nodes
        was = bool(self.feasible[row])
        fits = bool(self.suitable[row]) and nodes.pod_count.item(row) < nodes.pods_allowed.item(row)
        if fits:
            for index, needed in self._wanted:
                if nodes.requested.item(index, row) + needed > nodes.allocatable.item(index, row):
                    fits = False
                    break
        if fits and self.needs.host_ports:
            fits = not nodes.port_conflict(row, self.needs.host_ports)
        self.feasible[row] = fits
        if fits:
            self._usage[row] = self._usage_score(row)
        if was != fits:
            self._soft_stale = True
        if was != fits and self._relative:
            self._rescale = True
        elif not self._rescale:
            self._total[row] = self._usage[row] + self._offset(row) if fits else -math.inf

    def _usage_score(self, row: int) -> float:
        nodes, needs = self.nodes, self.needs
        cpu, memory = nodes.allocatable.item(0, row), nodes.allocatable.item(1, row)
        least, kinds = 0.0, 0
        if cpu > 0:
            least += max(0.0, 1.0 - (nodes.nonzero.item(0, row) + needs.nonzero_cpu) / cpu)
            kinds += 1
        if memory > 0:
            least += max(0.0, 1.0 - (nodes.nonzero.item(1, row) + needs.nonzero_memory) / memory)
            kinds += 1
        score = 100.0 * least / max(kinds, 1)
        if needs.best_effort:
            return score
        if kinds < 2:
            return score + 100.0
        wanted = dict(needs.resources)
        used_cpu = min(1.0, (nodes.requested.item(0, row) + wanted.get(CPU, 0)) / cpu)
        used_memory = min(1.0, (nodes.requested.item(1, row) + wanted.get(MEMORY, 0)) / memory)
        return score + 100.0 * (1.0 - abs(used_cpu - used_memory) / 2)

    # Relative scores

    def _scale(self) -> None:
        """The total of every row, with taints and affinity scaled by the most among feasible rows."""
        self._rescale = False
        feasible = self.feasible
        self._most_disliked = self._most_liked = 0.0
        total = self._usage.copy()
        if self._relative and feasible.any():
            self._most_disliked = float(self._disliked[feasible].max())
            self._most_liked = float(self._liked[feasible].max())
            if self._most_disliked:
                total += WEIGHT_TAINTS * (100.0 - 100.0 * self._disliked / self._most_disliked)
            if self._most_liked:
                total += WEIGHT_AFFINITY * 100.0 * self._liked / self._most_liked
        self._total = np.where(feasible, total, -np.inf)

    def _offset(self, row: int) -> float:
        """The scaled part of one row's total, by the scales of the last `_scale`."""
        offset = 0.0
        if self._relative and self._most_disliked:
            offset += WEIGHT_TAINTS * (100.0 - 100.0 * self._disliked.item(row) / self._most_disliked)
        if self._relative and self._most_liked:
            offset += WEIGHT_AFFINITY * 100.0 * self._liked.item(row) / self._most_liked
        return offset

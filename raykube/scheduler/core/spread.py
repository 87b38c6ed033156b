"""Topology spread: how many pods of a group run on each node, and what that forbids or costs.

A *group* is the pods that a constraint counts: those of one owner, or those that a selector matches in one namespace;
pods that terminate do not count. A *domain* is a value of the topology key. For a pod about to be placed:

    skew of a domain = pods of the group in it + 1 (if the pod is of the group) - the least over all domains

A hard constraint (DoNotSchedule) allows domains whose skew is at most maxSkew; a soft one (ScheduleAnyway) prefers
domains with few, weighing each constraint by the logarithm of its number of domains (upstream's podtopologyspread).
Counts are per node, domains are summed when asked for: a changed label then needs no bookkeeping.
"""

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Codes, Mask, NodeTable
from raykube.scheduler.core.requirements import HOSTNAME, Constraint, Requirements

Floats = NDArray[np.float64]
MAX_SCORE = 100.0
LOG_MAX = 4096

GroupKey = tuple[Hashable, ...]


def group_key(constraint: Constraint, namespace: str) -> GroupKey:
    return ("owner", constraint.owner) if constraint.owner else ("selector", namespace, constraint.selector)


class Group:
    """Pods of one group per row."""

    def __init__(self, constraint: Constraint, namespace: str, rows: int) -> None:
        self.selector = constraint.selector
        self.namespace = namespace
        self.counts: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.log: list[tuple[int, int]] = []  # row, +1 or -1; for those who keep sums of the counts
        self.epoch = 0  # raised when the log was cut
        self._matches: dict[tuple[tuple[str, str], ...], bool] = {}

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether a pod of the namespace counts; the pods of a workload have equal labels, so answers are kept."""
        if self.selector is None:
            return True
        key = tuple(labels.items())
        known = self._matches.get(key)
        if known is None:
            if len(self._matches) > 1000:
                self._matches.clear()
            known = self._matches[key] = self.selector.matches(labels)
        return known

    def count(self, row: int, sign: int) -> None:
        if row >= len(self.counts):
            self.counts = np.concatenate((self.counts, np.zeros(row + 1, np.int64)))
        self.counts[row] += sign
        if len(self.log) >= LOG_MAX:
            self.log.clear()
            self.epoch += 1
        self.log.append((row, sign))

    def column(self, rows: int) -> NDArray[np.int64]:
        if len(self.counts) < rows:
            self.counts = np.concatenate((self.counts, np.zeros(rows - len(self.counts), np.int64)))
        return self.counts[:rows]


def _keys(nodes: NodeTable, constraints: tuple[Constraint, ...]) -> tuple[list[Codes], list[int], Mask]:
    """For each constraint the codes of its topology key and how many there are; the nodes that have all keys."""
    columns = [nodes.column(constraint.topology_key) for constraint in constraints]
    has_all = nodes.live.copy()
    for column in columns:
        has_all &= column.codes >= 0
    return [column.codes for column in columns], [len(column.code_of) for column in columns], has_all


def missing_keys(nodes: NodeTable, needs: Requirements) -> Mask:
    """Nodes without a label that a hard constraint spreads over."""
    _, _, has_all = _keys(nodes, needs.hard)
    return ~has_all


def allowed(nodes: NodeTable, needs: Requirements, groups: list[Group], affinity: Mask, tolerated: Mask) -> Mask:
    """The nodes that satisfy every hard constraint."""
    codes, sizes, has_all = _keys(nodes, needs.hard)
    result = has_all.copy()
    for constraint, column, size, group in zip(needs.hard, codes, sizes, groups, strict=True):
        eligible = has_all
        if constraint.honor_affinity:
            eligible = eligible & affinity
        if constraint.honor_taints:
            eligible = eligible & tolerated
        domains = column[eligible]
        present = np.bincount(domains, minlength=size) > 0
        counts = np.bincount(domains, weights=group.column(nodes.capacity)[eligible], minlength=size)
        domain_count = int(present.sum())
        least = 0.0 if domain_count < constraint.min_domains or not domain_count else float(counts[present].min())
        fits = counts + float(constraint.counts_itself) - least <= constraint.max_skew
        # A domain of no eligible node counts nothing: its nodes fail for other reasons.
        result &= np.append(fits, False)[column]
    return result


class SoftSpread:
    """What the soft constraints of a class cost on each row, kept current from the groups' logs.

    `rebuild` when the nodes or the set of feasible ones changed; `catch_up` when only pods came and went.
    """

    def __init__(self, needs: Requirements, groups: list[Group]) -> None:
        self._constraints = needs.soft
        self._is_default = needs.soft_is_default
        self._groups = groups
        self._raw: Floats = np.zeros(0)
        self._scored: Mask = np.zeros(0, bool)
        self._any = False
        self._parts: list[tuple[Group, Codes, Mask, float, bool]] = []
        self._read: list[tuple[int, int]] = []

    def rebuild(self, nodes: NodeTable, feasible: Mask, affinity: Mask, tolerated: Mask) -> None:
        codes, sizes, has_all = _keys(nodes, self._constraints)
        # A node without a zone is not punished by default constraints that its administrator never wrote.
        scored = feasible.copy() if self._is_default else feasible & has_all
        raw = np.zeros(nodes.capacity)
        self._parts, self._read = [], []
        for constraint, column, size, group in zip(self._constraints, codes, sizes, self._groups, strict=True):
            counts = group.column(nodes.capacity)
            eligible = nodes.live & (column >= 0) if self._is_default else has_all
            by_host = constraint.topology_key == HOSTNAME
            if by_host:
                domain_count = int(np.count_nonzero(scored))
                found: Floats = counts.astype(np.float64)
            else:
                if constraint.honor_affinity:
                    eligible = eligible & affinity
                if constraint.honor_taints:
                    eligible = eligible & tolerated
                domain_count = int(np.count_nonzero(np.bincount(column[scored & (column >= 0)], minlength=size)))
                sums = np.bincount(column[eligible], weights=counts[eligible], minlength=size)
                found = np.append(sums, 0.0)[column]
            weight = float(np.log(domain_count + 2))
            raw += np.where(column >= 0, found * weight + (constraint.max_skew - 1), 0.0)
            self._parts.append((group, column, eligible, weight, by_host))
            self._read.append((group.epoch, len(group.log)))
        self._raw, self._scored, self._any = raw, scored, bool(scored.any())

    def catch_up(self) -> bool:
        """Takes in the pods that came and went; False when the logs do not reach back: rebuild."""
        for index, (group, column, eligible, weight, by_host) in enumerate(self._parts):
            epoch, position = self._read[index]
            if epoch != group.epoch:
                return False
            if position == len(group.log):
                continue
            for row, sign in group.log[position:]:
                if row >= len(column):
                    return False
                code = column.item(row)
                if code < 0:
                    continue
                if by_host:
                    self._raw[row] += sign * weight
                elif eligible.item(row):
                    self._raw[column == code] += sign * weight
            self._read[index] = group.epoch, len(group.log)
        return True

    def scores(self) -> Floats:
        """0 to 100 for each row; only those of feasible rows mean anything."""
        if not self._any:
            return np.zeros(len(self._raw))
        offered = self._raw[self._scored]
        most, least = float(offered.max()), float(offered.min())
        if most <= 0:
            return np.where(self._scored, MAX_SCORE, 0.0)
        scores: Floats = (most + least - self._raw) * (MAX_SCORE / most)
        if not self._is_default:
            scores[~self._scored] = 0.0  # a feasible node without a topology key is the last choice
        return scores

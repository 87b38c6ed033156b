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

GroupKey = tuple[Hashable, ...]


def group_key(constraint: Constraint, namespace: str) -> GroupKey:
    return ("owner", constraint.owner) if constraint.owner else ("selector", namespace, str(constraint.selector))


class Group:
    """Pods of one group per row."""

    def __init__(self, constraint: Constraint, namespace: str, rows: int) -> None:
        self.selector = constraint.selector
        self.namespace = namespace
        self.counts: NDArray[np.int64] = np.zeros(rows, np.int64)
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


def soft_scores(
    nodes: NodeTable, needs: Requirements, groups: list[Group], feasible: Mask, affinity: Mask, tolerated: Mask
) -> Floats:
    """0 to 100 for each node; only those of feasible nodes mean anything."""
    codes, sizes, has_all = _keys(nodes, needs.soft)
    # A node without a zone is not punished by default constraints that its administrator never wrote.
    scored = feasible if needs.soft_is_default else feasible & has_all
    raw = np.zeros(nodes.capacity)
    if not scored.any():
        return raw
    for constraint, column, size, group in zip(needs.soft, codes, sizes, groups, strict=True):
        counts = group.column(nodes.capacity)
        if constraint.topology_key == HOSTNAME:
            domain_count = int(np.count_nonzero(scored))
            found: Floats = counts.astype(np.float64)
        else:
            eligible = nodes.live & (column >= 0) if needs.soft_is_default else has_all
            if constraint.honor_affinity:
                eligible = eligible & affinity
            if constraint.honor_taints:
                eligible = eligible & tolerated
            domain_count = int(np.count_nonzero(np.bincount(column[scored & (column >= 0)], minlength=size)))
            sums = np.bincount(column[eligible], weights=counts[eligible], minlength=size)
            found = np.append(sums, 0.0)[column]
        raw += np.where(column >= 0, found * np.log(domain_count + 2) + (constraint.max_skew - 1), 0.0)
    offered = raw[scored]
    most, least = float(offered.max()), float(offered.min())
    if most == 0:
        return np.where(scored, MAX_SCORE, 0.0)
    return np.where(scored, MAX_SCORE * (most + least - raw) / most, 0.0)

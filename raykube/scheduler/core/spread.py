"""Topology spread: how many pods of a group run on each node, and what that forbids or costs.

A *group* is the pods that a constraint counts: those of one owner, or those that a selector matches in one namespace;
pods that terminate do not count. A *domain* is a value of the topology key. For a pod about to be placed:

    skew of a domain = pods of the group in it + 1 (if the pod is of the group) - the least over all domains

A hard constraint (DoNotSchedule) allows domains whose skew is at most maxSkew; a soft one (ScheduleAnyway) prefers
domains with few, weighing each constraint by the logarithm of its number of domains (upstream's podtopologyspread).
Counts are per node, domains are summed when asked for: a changed label then needs no bookkeeping.
"""

from collections.abc import Hashable
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Codes, Mask, NodeTable, range_of
from raykube.scheduler.core.requirements import HOSTNAME, Constraint, Requirements
from raykube.scheduler.core.taints import Judged, untolerated
from raykube.scheduler.core.terms import matches_affinity

Floats = NDArray[np.float64]
MAX_SCORE = 100.0
LOG_MAX = 4096
NEVER = 2**62
MEMBERS_MAX = 2  # from so many domains that changed all rows are looked up

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
        self.dropped = False
        self.sums: WeakValueDictionary[Hashable, Sums] = WeakValueDictionary()  # by what a class counts
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

    def drop(self) -> None:
        """No class asks any more; pods may still name it."""
        self.dropped = True
        self.counts = np.zeros(0, np.int64)
        self.log = []

    def count(self, row: int, sign: int) -> None:
        if self.dropped:
            return
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


class Inclusion:
    """Which nodes a class's constraints count by their policies; kept until nodes change."""

    def __init__(self, nodes: NodeTable, needs: Requirements) -> None:
        self._nodes = nodes
        self._needs = needs
        self._at = (-1, -1)
        self._affinity: Mask = np.zeros(0, bool)
        self._tolerated: Mask = np.zeros(0, bool)
        self._judged = Judged(nodes.taints, lambda taints: untolerated(taints, needs.tolerations) is None)

    def among(self, constraint: Constraint, nodes: Mask) -> Mask:
        """Those of `nodes` that count (nodeAffinityPolicy, nodeTaintsPolicy)."""
        at = self._nodes.revised, self._nodes.capacity
        if self._at != at:
            self._at = at
            self._affinity = matches_affinity(self._nodes, self._needs, slice(None))
            self._tolerated = self._judged.table(np.bool_)[self._nodes.taint_set]
        if constraint.honor_affinity:
            nodes = nodes & self._affinity
        if constraint.honor_taints:
            nodes = nodes & self._tolerated
        return nodes


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


class Sums:
    """The pods of a group by domain of one key, kept current from the group's log; classes that count the same nodes
    share them."""

    def __init__(self, nodes: NodeTable, needs: Requirements, constraint: Constraint, group: Group) -> None:
        self._nodes = nodes
        self._constraints = needs.hard
        self._constraint = constraint
        self._group = group
        self._inclusion = Inclusion(nodes, needs)
        self._at = (-1, -1)
        self._read = (-1, 0)
        self.version = 0  # raised when all was summed anew
        self.has_all: Mask = np.zeros(0, bool)  # rows that have the keys of all constraints
        self.members: dict[int, NDArray[np.intp]] = {}  # rows by code, of codes that were asked for

    def catch_up(self) -> None:
        """Takes in the pods that came and went."""
        at, group = (self._nodes.revised, self._nodes.capacity), self._group
        epoch, position = self._read
        if self._at != at or epoch != group.epoch:
            self._rebuild()
            self._at = at
        else:
            for row, sign in group.log[position:]:
                if self._eligible.item(row):
                    code = self.codes.item(row)
                    self.pods[code] += sign
                    self._floor[code] += sign
                    if self.alone:
                        self.by_row[row] += sign
        self._read = group.epoch, len(group.log)

    def _rebuild(self) -> None:
        capacity = self._nodes.capacity
        column = self._nodes.column(self._constraint.topology_key)
        codes, size = column.codes, len(column.code_of)
        self.has_all = _keys(self._nodes, self._constraints)[2]
        eligible = self._inclusion.among(self._constraint, self.has_all)
        counts = self._group.column(capacity)
        domains = codes[eligible]
        present = np.bincount(domains, minlength=size) > 0
        self.version += 1
        self.codes = codes
        self._eligible = eligible
        self._count = int(present.sum())
        self.pods = np.bincount(domains, weights=counts[eligible], minlength=size).astype(np.int64)
        self._floor = np.where(present, self.pods, NEVER)
        # Where each row is a domain of its own the rows are compared, else the domains.
        self.alone = bool((np.bincount(codes[codes >= 0], minlength=1) <= 1).all())
        self.by_row = np.where(eligible, counts, np.where(codes >= 0, 0, NEVER))
        self.members = {}

    def least(self, domains_min: int) -> int:
        """Of all domains; none where there are fewer than there should be."""
        return int(self._floor.min()) if self._count and self._count >= domains_min else 0


class _Hard:
    """Where one constraint of a class allows a pod more."""

    def __init__(self, constraint: Constraint, sums: Sums) -> None:
        self._constraint = constraint
        self.sums = sums
        self._version = -1
        self._fits: Mask = np.zeros(0, bool)
        self._rows: Mask = np.zeros(0, bool)

    def allowed(self) -> Mask:
        """Rows of domains that may have one more, and that have the key; changed in place later."""
        constraint, sums = self._constraint, self.sums
        sums.catch_up()
        most = constraint.max_skew + sums.least(constraint.min_domains) - constraint.counts_itself
        if sums.alone:
            rows: Mask = sums.by_row <= most
            return rows
        # A domain of no eligible node counts nothing: its nodes fail for other reasons.
        fits = sums.pods <= most
        changed = np.flatnonzero(fits != self._fits).tolist() if self._version == sums.version else []
        if self._version != sums.version or len(changed) > MEMBERS_MAX:
            self._version = sums.version
            self._rows = np.append(fits, False).take(sums.codes)
        else:
            for code in changed:
                self._rows[_members(sums.members, sums.codes, code)] = fits[code]
        self._fits = fits
        return self._rows


class HardSpread:
    """The nodes that satisfy every hard constraint of a class."""

    def __init__(self, nodes: NodeTable, needs: Requirements, groups: list[Group]) -> None:
        keys = tuple(constraint.topology_key for constraint in needs.hard)
        self._parts = []
        for constraint, group in zip(needs.hard, groups, strict=True):
            same = (
                constraint.topology_key,
                keys,
                (needs.node_selector, needs.affinity_terms) if constraint.honor_affinity else None,
                needs.tolerations if constraint.honor_taints else None,
            )
            sums = group.sums.get(same)
            if sums is None:
                sums = group.sums[same] = Sums(nodes, needs, constraint, group)
            self._parts.append(_Hard(constraint, sums))

    def allowed(self) -> Mask:
        """Of live rows; changed in place later."""
        result = self._parts[0].allowed()
        if len(self._parts) > 1:
            result = result & self._parts[0].sums.has_all
            for part in self._parts[1:]:
                result = result & part.allowed()
        return result


def _members(known: dict[int, NDArray[np.intp]], codes: Codes, code: int) -> NDArray[np.intp]:
    """The rows with a code; looked up once."""
    found = known.get(code)
    if found is None:
        found = known[code] = np.flatnonzero(codes == code)
    return found


class SoftSpread:
    """What the soft constraints of a class cost on each row, kept current from the groups' logs.

    `rebuild` when the nodes or the set of feasible ones changed; `catch_up` when only pods came and went.
    """

    def __init__(self, nodes: NodeTable, needs: Requirements, groups: list[Group], inclusion: Inclusion) -> None:
        self._nodes = nodes
        self._inclusion = inclusion
        self._constraints = needs.soft
        self._is_default = needs.soft_is_default
        self._groups = groups
        self._raw: Floats = np.zeros(0)
        self._scored: Mask = np.zeros(0, bool)
        self._partial = False  # some feasible row is not scored
        self._parts: list[tuple[Group, Codes, Mask, float, bool]] = []
        self._members: list[dict[int, NDArray[np.intp]]] = []
        self._read: list[tuple[int, int]] = []

    def rebuild(self, feasible: Mask) -> None:
        nodes = self._nodes
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
                eligible = self._inclusion.among(constraint, eligible)
                domain_count = int(np.count_nonzero(np.bincount(column[scored & (column >= 0)], minlength=size)))
                sums = np.bincount(column[eligible], weights=counts[eligible], minlength=size)
                found = np.append(sums, 0.0)[column]
            weight = float(np.log(domain_count + 2))
            raw += np.where(column >= 0, found * weight + (constraint.max_skew - 1), 0.0)
            self._parts.append((group, column, eligible, weight, by_host))
            self._read.append((group.epoch, len(group.log)))
        self._raw, self._scored = raw, scored
        self._partial = not (self._is_default or np.array_equal(scored, feasible))
        self._members = [{} for _ in self._parts]

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
                    self._raw[_members(self._members[index], column, code)] += sign * weight
            self._read[index] = group.epoch, len(group.log)
        return True

    def scores(self) -> Floats:
        """0 to 100 for each row; only those of feasible rows mean anything."""
        least, most = range_of(self._raw, self._scored)
        if least > most:
            return np.zeros(len(self._raw))
        if most <= 0:
            return np.where(self._scored, MAX_SCORE, 0.0)
        scores: Floats = (most + least) - self._raw
        scores *= MAX_SCORE / most
        if self._partial:
            scores[~self._scored] = 0.0  # a feasible node without a topology key is the last choice
        return scores

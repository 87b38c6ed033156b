"""How much workloads slow each other down, learnt from what kubelets report; and what a placement would cost.

A *workload* is what its pods have in common (`class_of_work`). A report says how many times longer than alone a pod's
work took lately: 1 is undisturbed. The model is a sum over the neighbours on the machine,

    slowdown of A = 1 + sum over B of  weight(A, B) x pods of B beside it

and each report moves the weights of the pairs that met towards what was seen (normalised least mean squares). A pair
of which nobody reported for `TTL_S` is unknown again, and costs nothing; so are pairs that hardly matter. Reports only
ever move a score: one that is old, wrong or missing forbids nothing.

    cost(A, row) = sum over B of  pods of B on the row x (weight(A, B) + weight(B, A))         both sides' loss
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Object = dict[str, Any]
Floats = NDArray[np.float64]

CLASS_LABEL = "raykube.io/workload-class"
TEMPLATE_HASH = "pod-template-hash"

TTL_S = 1800.0
RATE = 0.3  # how much of a report's surprise is believed
WEIGHT_MAX = 9.0
SLOWDOWN_MAX = 10.0
NOTICEABLE = 0.05  # a weight below it is noise
SIDE_BY_SIDE_MAX = 8  # more neighbours of one workload count as so many
PAIRS_MAX = 4096


def class_of_work(metadata: Object) -> str:
    """By its label, or else its controller's name without the hash of a template; "" for a pod of its own."""
    labels = metadata.get("labels") or {}
    named = labels.get(CLASS_LABEL)
    if named:
        return f"{metadata.get('namespace', '')}/{named}"
    owner = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    if owner is None:
        return ""
    name = str(owner["name"]).removesuffix(f"-{labels.get(TEMPLATE_HASH, '')}")
    return f"{metadata.get('namespace', '')}/{name}"


class Report(NamedTuple):
    """What a kubelet saw of one pod."""

    workload: str
    slowdown: float


@dataclass(slots=True)
class _Pair:
    weight: float
    seen_at: float


class SlowdownModel:
    """Pods by row and workload, and what is known of pairs. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._rows: dict[int, Counter[str]] = {}
        self._pairs: dict[tuple[str, str], _Pair] = {}  # (who suffers, beside whom), the longest unseen first
        self._related: dict[
            str, dict[str, int]
        ] = {}  # by workload: its neighbours, and what one of them costs, in steps
        self._columns: dict[str, Floats] = {}  # pods by row, of the workloads in `_related`

    # -- who is where

    def place(self, workload: str, row: int, count: int) -> None:
        """So many more (or fewer) pods of a workload, which has a name, are on a row."""
        here = self._rows.setdefault(row, Counter())
        here[workload] += count
        if here[workload] <= 0:
            del here[workload]
            if not here:
                del self._rows[row]
        column = self._columns.get(workload)
        if column is not None:
            if row >= len(column):
                column = self._columns[workload] = _grown(column, row + 1)
            column[row] += count

    # -- what is learnt

    def observe(self, row: int, reports: Iterable[Report], now: float) -> None:
        """Takes in what the kubelet of a row reported."""
        here = self._rows.get(row)
        if here is None:
            return
        by_workload: dict[str, list[float]] = {}
        for report in reports:
            if report.workload in here and math.isfinite(report.slowdown) and report.slowdown >= 1.0:
                by_workload.setdefault(report.workload, []).append(min(report.slowdown, SLOWDOWN_MAX))
        for workload, seen in by_workload.items():
            self._learn(workload, here, sum(seen) / len(seen), now)

    def _learn(self, workload: str, here: Counter[str], slowdown: float, now: float) -> None:
        beside = {other: min(count - (other == workload), SIDE_BY_SIDE_MAX) for other, count in here.items()}
        beside = {other: count for other, count in beside.items() if count > 0}
        if not beside:
            return
        known = {other: self._known(workload, other, now) for other in beside}
        surprise = slowdown - 1.0 - sum(known[other] * count for other, count in beside.items())
        step = RATE * surprise / sum(count * count for count in beside.values())
        for other, count in beside.items():
            weight = min(max(known[other] + step * count, 0.0), WEIGHT_MAX)
            if (workload, other) in self._pairs or weight >= NOTICEABLE:
                self._forget(workload, other)  # the newest is last
                self._pairs[workload, other] = _Pair(weight, now)
                self._relate(workload, other, _steps(weight))
        while len(self._pairs) > PAIRS_MAX:
            self._forget(*next(iter(self._pairs)))

    def _known(self, workload: str, other: str, now: float) -> float:
        pair = self._pairs.get((workload, other))
        return pair.weight if pair is not None and now - pair.seen_at < TTL_S else 0.0

    def expire(self, now: float) -> None:
        """Forgets what nobody reported for long. Call every half minute or so."""
        while self._pairs:
            pair = next(iter(self._pairs))
            if now - self._pairs[pair].seen_at < TTL_S:
                break
            self._forget(*pair)

    def _forget(self, workload: str, other: str) -> None:
        pair = self._pairs.pop((workload, other), None)
        if pair is not None:
            self._relate(workload, other, -_steps(pair.weight))

    def _relate(self, workload: str, other: str, steps: int) -> None:
        """One beside the other costs so much more. In whole steps, so that nothing is left of what is taken back."""
        if not steps:
            return
        for mine, theirs in {(workload, other), (other, workload)}:
            costs = self._related.setdefault(mine, {})
            costs[theirs] = costs.get(theirs, 0) + (2 * steps if workload == other else steps)
            if not costs[theirs]:
                del costs[theirs]
        for name in (workload, other):
            if not self._related.get(name):
                self._related.pop(name, None)
                self._columns.pop(name, None)
            elif name not in self._columns:
                self._columns[name] = _column(name, self._rows)

    # -- what a placement costs

    def matters(self, workload: str) -> bool:
        """Whether anything is known of it; if not, it costs nothing anywhere."""
        return workload in self._related

    def costs(self, workload: str, rows: int) -> Floats:
        """Of one more pod on each of so many rows: the slowdowns that it and its neighbours would have, added."""
        total = np.zeros(rows)
        for other, steps in self._related.get(workload, {}).items():
            column = self._columns[other][:rows]
            total[: len(column)] += steps * NOTICEABLE * column
        return total

    def cost(self, workload: str, row: int) -> float:
        """Of one more pod on one row."""
        here = self._rows.get(row)
        if here is None:
            return 0.0
        related = self._related.get(workload, {})
        return sum(steps * NOTICEABLE * here[other] for other, steps in related.items() if other in here)

    def weight(self, workload: str, other: str) -> float:
        """How much longer one pod of `other` beside it makes the workload's work."""
        pair = self._pairs.get((workload, other))
        return pair.weight if pair is not None else 0.0


def _steps(weight: float) -> int:
    """A weight as costs use it: in steps, so that small news changes nothing."""
    return round(weight / NOTICEABLE) if weight >= NOTICEABLE else 0


def _grown(column: Floats, rows: int) -> Floats:
    return np.concatenate([column, np.zeros(max(rows, 2 * len(column)) - len(column))])


def _column(workload: str, rows: dict[int, Counter[str]]) -> Floats:
    column = np.zeros(max(rows, default=0) + 1)
    for row, here in rows.items():
        column[row] = here.get(workload, 0)
    return column

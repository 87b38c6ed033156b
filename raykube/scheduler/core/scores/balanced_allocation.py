"""Nodes whose resources the pod would use more evenly: 75 when it changes nothing, 50 at worst, 100 at best.

    evenness = 100 x (1 - standard deviation of the used parts of the resources)
    score    = 75 + (evenness with the pod - evenness without it) / 2

Pods that ask for none of the resources get no score from it (upstream's PreScore skips them).
"""

from math import sqrt

import numpy as np

from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import MAX_SCORE, Floats, UsageScore, View
from raykube.scheduler.core.requests import CPU, EPHEMERAL, MEMORY


class NodeResourcesBalancedAllocation(UsageScore):
    name = "NodeResourcesBalancedAllocation"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._compared = _compared(view)
        self._shares = view.shares

    @classmethod
    def concerns(cls, view: View) -> bool:
        return any(needed for _, needed in _compared(view))

    def all(self) -> Floats:
        nodes, shares, cells = self.nodes, self._shares, self.nodes.cells
        shares.catch_up()
        indices = [(nodes.index_of(name), needed) for name, needed in self._compared]
        self._cells = [(cells.per_unit[index], cells.requested[index], needed) for index, needed in indices]
        used = [shares.used[index] for index, _ in indices]
        more: list[Floats] = []
        for index, needed in indices:
            part = nodes.per_unit[index] * needed
            part += shares.used[index]
            more.append(np.minimum(part, 1.0, out=part))
        if len(used) == 2 and all(nodes.everywhere(index) for index, _ in indices):
            both = [index for index, _ in indices] == [0, 1]
            before = shares.apart if both else np.abs(used[0] - used[1])
            score, other = more
            score -= other
            np.abs(score, out=score)
            np.subtract(before, score, out=score)
            score *= MAX_SCORE / 4
        else:
            known = [nodes.allocatable[index] > 0 for index, _ in indices]
            score = (_deviations(used, known) - _deviations(more, known)) * (MAX_SCORE / 2)
        score += 0.75 * MAX_SCORE
        return score

    def row(self, row: int) -> float:
        if len(self._cells) == 2:
            (first, asked, needed), (second, also_asked, also_needed) = self._cells
            unit, other = first[row], second[row]
            if unit and other:
                used, also_used = asked[row] * unit, also_asked[row] * other
                part, also_part = used + needed * unit, also_used + also_needed * other
                if part > 1.0:
                    used, part = min(used, 1.0), 1.0
                if also_part > 1.0:
                    also_used, also_part = min(also_used, 1.0), 1.0
                return 0.75 * MAX_SCORE + MAX_SCORE / 4 * (abs(used - also_used) - abs(part - also_part))
        before, after = [], []
        for per_unit, requested, needed in self._cells:
            unit = per_unit[row]
            if unit:
                used = requested[row]
                before.append(min(used * unit, 1.0))
                after.append(min((used + needed) * unit, 1.0))
        return 0.75 * MAX_SCORE + MAX_SCORE / 2 * (_deviation(before) - _deviation(after))


def _compared(view: View) -> list[tuple[str, int]]:
    wanted = dict(view.needs.resources)
    return [
        (name, wanted.get(name, 0))
        for name in view.arguments.balanced_resources
        if name in (CPU, MEMORY, EPHEMERAL) or wanted.get(name)
    ]


def _deviations(parts: list[Floats], known: list[Mask]) -> Floats:
    """The same as `_deviation` for every row, of the resources that its node has."""
    count = np.maximum(sum(known, np.zeros(len(known[0]))), 1)
    mean = sum(parts, np.zeros(len(known[0]))) / count  # what a node does not have is used by 0
    squares = np.zeros(len(known[0]))
    for part, has in zip(parts, known, strict=True):
        squares += np.where(has, (part - mean) ** 2, 0.0)
    deviations: Floats = np.sqrt(squares / count)
    return deviations


def _deviation(parts: list[float]) -> float:
    if len(parts) == 2:
        return abs(parts[0] - parts[1]) / 2
    if len(parts) < 2:
        return 0.0
    mean = sum(parts) / len(parts)
    return sqrt(sum((part - mean) ** 2 for part in parts) / len(parts))
